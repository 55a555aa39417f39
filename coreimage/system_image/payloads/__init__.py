"""The tarballs and deltas that a version consists of."""
