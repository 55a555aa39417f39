"""Reads and changes of the channels and their versions."""
