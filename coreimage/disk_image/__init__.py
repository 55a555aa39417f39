"""From an image version to a bootable disk."""

from coreimage.disk_image.assembly import FREE_OUTPUT_SPACE, AssembledImage, assemble
from coreimage.disk_image.bmap import write_bmap
from coreimage.disk_image.cached_images import CachedImages, image_key
from coreimage.disk_image.customise.cloud_init import UserData, parse_network_config, parse_user_data
from coreimage.disk_image.customise.customisation import Customisation, joined
from coreimage.disk_image.customise.login import Login, generated_password, personalise
from coreimage.disk_image.formats import COMPRESSIONS, FORMS, Compression, Form, form_of, write_form
from coreimage.disk_image.gadget.loading import load_gadget
from coreimage.disk_image.gadget.package import (
    GadgetDescription,
    describe_gadget,
    gadget_name,
    open_gadget,
    pack_gadget,
    pack_snap,
    unpack_gadget,
)
from coreimage.disk_image.gadget.published import PublishedGadget, fetch_gadget, publish_gadget
from coreimage.disk_image.gadget.structure import Gadget
from coreimage.disk_image.images import expire_images, fetch_image, image_prefix, store_image
from coreimage.disk_image.install_record import image_architecture
from coreimage.disk_image.layout import ImageIdentity, image_size_bytes
from coreimage.disk_image.sparse import sparse_sha256

__all__ = [
    "COMPRESSIONS",
    "FORMS",
    "FREE_OUTPUT_SPACE",
    "AssembledImage",
    "CachedImages",
    "Compression",
    "Customisation",
    "Form",
    "Gadget",
    "GadgetDescription",
    "ImageIdentity",
    "Login",
    "PublishedGadget",
    "UserData",
    "assemble",
    "describe_gadget",
    "expire_images",
    "fetch_gadget",
    "fetch_image",
    "form_of",
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
    "sparse_sha256",
    "store_image",
    "unpack_gadget",
    "write_bmap",
    "write_form",
]
