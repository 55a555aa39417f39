"""From an image version to a bootable disk."""

from coreimage.disk_image.assembly import AssembledImage, assemble
from coreimage.disk_image.gadget import Gadget, load_gadget
from coreimage.disk_image.gadget_package import pack_gadget, unpack_gadget
from coreimage.disk_image.images import convert, fetch_image, image_prefix, store_image
from coreimage.disk_image.layout import ImageIdentity, image_size_bytes
from coreimage.disk_image.login import Login, generated_password, personalise

__all__ = [
    "AssembledImage",
    "Gadget",
    "ImageIdentity",
    "Login",
    "assemble",
    "convert",
    "fetch_image",
    "generated_password",
    "image_prefix",
    "image_size_bytes",
    "load_gadget",
    "pack_gadget",
    "personalise",
    "store_image",
    "unpack_gadget",
]
