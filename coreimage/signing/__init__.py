"""GnuPG: keys, keyrings, signatures."""
