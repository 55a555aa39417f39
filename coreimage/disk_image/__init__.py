"""From an image version to a bootable disk."""

from coreimage.disk_image.assembly import AssembledImage, assemble
from coreimage.disk_image.gadget import Gadget, load_gadget
from coreimage.disk_image.layout import ImageIdentity, image_size_bytes

__all__ = [
    "AssembledImage",
    "Gadget",
    "ImageIdentity",
    "assemble",
    "image_size_bytes",
    "load_gadget",
]
