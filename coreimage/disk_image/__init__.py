"""From an image version to a bootable disk."""

from coreimage.disk_image.assembly import AssembledImage, assemble, full_disk, sparse_sha256
from coreimage.disk_image.bmap import write_bmap
from coreimage.disk_image.cloud_init import UserData, parse_network_config, parse_user_data
from coreimage.disk_image.customisation import Customisation, joined
from coreimage.disk_image.formats import COMPRESSIONS, FORMS, Compression, Form, form_of, write_form
from coreimage.disk_image.gadget import Gadget, load_gadget
from coreimage.disk_image.gadget_package import (
    GadgetDescription,
    describe_gadget,
    gadget_name,
    open_gadget,
    pack_gadget,
    pack_snap,
    require_architecture,
    unpack_gadget,
)
from coreimage.disk_image.gadget_store import PublishedGadget, fetch_gadget, publish_gadget
from coreimage.disk_image.identify import image_architecture
from coreimage.disk_image.images import convert, expire_images, fetch_image, image_prefix, store_image
from coreimage.disk_image.kept import KeptImages, image_key
from coreimage.disk_image.layout import ImageIdentity, image_size_bytes
from coreimage.disk_image.login import Login, generated_password, personalise

__all__ = [
    "COMPRESSIONS",
    "FORMS",
    "AssembledImage",
    "Compression",
    "Customisation",
    "Form",
    "Gadget",
    "GadgetDescription",
    "ImageIdentity",
    "KeptImages",
    "Login",
    "PublishedGadget",
    "UserData",
    "assemble",
    "convert",
    "describe_gadget",
    "expire_images",
    "fetch_gadget",
    "fetch_image",
    "form_of",
    "full_disk",
    "gadget_name",
    "generated_password",
    "image_architecture",
    "image_key",
    "image_prefix",
    "image_size_bytes",
    "joined",
    "load_gadget",
    "open_gadget",
    "pack_gadget",
    "pack_snap",
    "parse_network_config",
    "parse_user_data",
    "personalise",
    "publish_gadget",
    "require_architecture",
    "sparse_sha256",
    "store_image",
    "unpack_gadget",
    "write_bmap",
    "write_form",
]
