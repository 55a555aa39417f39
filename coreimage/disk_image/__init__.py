"""From an image version to a bootable disk."""
