"""What a device and `flash` share: documents, trust, upgrade path, installation. Standard library only.

Bytes come in through `Web`, signatures are checked by `Verify`, and verified values come out, or a `ClientError`.
"""

from coreimage.client.documents import Channel, Channels, DeviceEntry, Image, ImageFile, Index, SignedChannels
from coreimage.client.errors import ClientError, DownloadError, NotPresentError, RepositoryError, SignatureError
from coreimage.client.fetch import Web
from coreimage.client.keyring import Keyring, primary_fingerprints, read_keyring
from coreimage.client.session import Session
from coreimage.client.trust import Seen, Verify
from coreimage.client.upgrade import select_full

__all__ = [
    "Channel",
    "Channels",
    "ClientError",
    "DeviceEntry",
    "DownloadError",
    "Image",
    "ImageFile",
    "Index",
    "Keyring",
    "NotPresentError",
    "RepositoryError",
    "Seen",
    "Session",
    "SignatureError",
    "SignedChannels",
    "Verify",
    "Web",
    "primary_fingerprints",
    "read_keyring",
    "select_full",
]
