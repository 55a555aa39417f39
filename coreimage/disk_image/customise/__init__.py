"""Images of one's own: a login and settings, written to `writable` so that what was published stays as it is."""
