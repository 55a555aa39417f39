"""Deterministic tar, compression, safe unpacking."""
