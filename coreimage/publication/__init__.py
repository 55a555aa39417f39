"""Dated builds in object storage."""
