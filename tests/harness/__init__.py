"""Made once, used by every room."""
