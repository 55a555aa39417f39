"""The client's needs from this machine: files of a store within their limits, and its errors as ours."""

from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.client import (
    ClientError,
    DownloadError,
    NotPresentError,
    RepositoryError,
    SignatureError,
)
from coreimage.client.errors import NoSpaceError, TargetError
from coreimage.errors import (
    CoreimageError,
    DiskFullError,
    HostError,
    InfrastructureError,
    NotFoundError,
    VerificationError,
)
from coreimage.model import TEXT
from coreimage.storage import open_store
from coreimage.system_image.web import StoreWeb, client_errors


@pytest.mark.parametrize(
    ("error", "ours", "resolution"),
    [
        (NotPresentError("x", where="y"), NotFoundError, "coreimage channel list"),
        (NotPresentError("x", where="y", resolution="choose another"), NotFoundError, "choose another"),
        (DownloadError("x", where="y"), InfrastructureError, "try again"),
        (NoSpaceError("x", where="y"), DiskFullError, "free some space"),
        (TargetError("x", where="y"), HostError, "check the disk"),
        (SignatureError("x", where="y"), VerificationError, "keyring belongs to this server"),
        (RepositoryError("x", where="y"), VerificationError, "do not install"),
    ],
)
def test_errors_of_the_client_say_what_to_do(error: ClientError, ours: type[CoreimageError], resolution: str) -> None:
    with pytest.raises(ours, match="x") as raised, client_errors():
        raise error
    assert (raised.value.problem, raised.value.where) == ("x", "y")
    assert resolution in raised.value.resolution


def test_files_of_a_store_are_read_within_their_limits(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    store.put_bytes("system-image/a", b"12345", media_type=TEXT)
    web, target = StoreWeb(store), tmp_path / "target"
    assert web.read("/a", 5) == web.read("a", 6) == b"12345"
    with pytest.raises(RepositoryError, match="larger than 4 bytes"):
        web.read("/a", 4)
    web.download("/a", target, "", 5)
    assert target.read_bytes() == b"12345"
    with pytest.raises(RepositoryError, match="larger than 4 bytes"):
        web.download("/a", target, "", 4)
    with pytest.raises(NotPresentError):
        web.read("/b", 4)
    with pytest.raises(NotPresentError):
        web.download("/b", target, "", 4)
    assert StoreWeb(store, root="").read("system-image/a", 5) == b"12345"
