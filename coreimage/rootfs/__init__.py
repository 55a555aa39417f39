"""From packages to rootfs and device tarballs."""
