"""The documents of a tree as values, for who writes and who reads them: channels.json (system-image §2.1), its signed
form, and index.json (§2.3). Only here do the words of the wire occur, such as `checksum` and `phased-percentage`.
"""

from coreimage.client.documents.channels import (
    CHANNELS_LIMIT_BYTES,
    Channel,
    Channels,
    DeviceEntry,
    KeyringPaths,
    SignedChannels,
)
from coreimage.client.documents.index import (
    INDEX_LIMIT_BYTES,
    VERSION_LIMIT,
    Form,
    Image,
    ImageFile,
    ImageSource,
    Index,
)

__all__ = [
    "CHANNELS_LIMIT_BYTES",
    "INDEX_LIMIT_BYTES",
    "VERSION_LIMIT",
    "Channel",
    "Channels",
    "DeviceEntry",
    "Form",
    "Image",
    "ImageFile",
    "ImageSource",
    "Index",
    "KeyringPaths",
    "SignedChannels",
]
