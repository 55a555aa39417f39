"""The story of a build, readable top to bottom."""
