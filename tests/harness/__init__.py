"""Harnesses made once and used by every room: servers, faults, kills."""
