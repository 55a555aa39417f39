"""Boots an image and judges it by its serial console."""
