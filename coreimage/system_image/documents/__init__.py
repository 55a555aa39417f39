"""The documents of the channel tree and where they stand. Pure."""
