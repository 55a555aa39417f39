"""What a device and `flash` share: trust chain, upgrade path, phasing, installing. Standard library only.

Bytes come in through `Web`, signatures are judged by `Verify`, and verified values come out, or a `ClientError`.
"""

from coreimage.client.documents import Channel, DeviceEntry, Image, ImageFile, Index, parse_channels, parse_index
from coreimage.client.errors import ClientError, DownloadError, NotPresentError, RepositoryError, SignatureError
from coreimage.client.keyring import Keyring, primary_fingerprints, read_keyring
from coreimage.client.select import select_full
from coreimage.client.session import Session, Verify, Web
from coreimage.client.trust import Seen, SignedChannels, parse_signed_channels

__all__ = [
    "Channel",
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
    "parse_channels",
    "parse_index",
    "parse_signed_channels",
    "primary_fingerprints",
    "read_keyring",
    "select_full",
]
