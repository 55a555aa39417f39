"""`python -m coreimage.cli` is `coreimage`."""

from coreimage.cli import main

main()
