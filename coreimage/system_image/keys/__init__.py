"""Keyrings and signing keys over time."""
