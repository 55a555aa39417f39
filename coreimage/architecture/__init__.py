"""What differs between processor architectures: a table of facts, and the GRUB command lines that follow from it."""
