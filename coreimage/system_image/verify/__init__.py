"""Checks a published tree and the published builds."""
