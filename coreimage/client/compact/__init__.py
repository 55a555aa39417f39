"""The compact delta: what our own devices download in place of the delta of 2015 (docs/compact-delta.md).

`format` reads the file, `patched` makes a tree of it and of the base. Only the standard library is needed, and the
programs of the base image that the delta names by their place in a closed list.
"""

from coreimage.client.compact.format import (
    HEADER_BYTES,
    MAGIC,
    PACKERS,
    SECTIONS,
    UNPACKERS,
    DifferentBaseError,
    Filter,
)
from coreimage.client.compact.patched import PatchedTree, added

__all__ = [
    "HEADER_BYTES",
    "MAGIC",
    "PACKERS",
    "SECTIONS",
    "UNPACKERS",
    "DifferentBaseError",
    "Filter",
    "PatchedTree",
    "added",
]
