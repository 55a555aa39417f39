"""What a device and `flash` share: trust chain, upgrade path, phasing. Standard library only."""
