"""Versioned, signed channels."""
