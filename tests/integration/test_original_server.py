"""Both sides against the original: a client of 2015 written from its description, and a tree laid out by it."""

from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.cli.app import run as coreimage
from coreimage.client import Session
from coreimage.client.upgrade import find_path, starting_version
from coreimage.errors import VerificationError
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.system_image import verify_web
from coreimage.system_image.web import client_errors, open_server
from tests.harness.original_server import ALIAS, ALPHA, DEVICE, EDGE, MAKER, NEWEST, REDIRECT, original_tree
from tests.harness.server import serve
from tests.harness.strict_client import Device, RefusedError, check_tree, update
from tests.harness.trees import NOW

PLACES = [(EDGE, DEVICE), (ALPHA, DEVICE), (ALPHA, MAKER), (ALIAS, DEVICE), (REDIRECT, DEVICE)]


@pytest.fixture(scope="module")
def www(tmp_path_factory: pytest.TempPathFactory, signer: GnupgSigner) -> Path:
    root = tmp_path_factory.mktemp("original")
    original_tree(root, signer, NOW.timestamp())
    return root


@pytest.fixture(scope="module")
def top(signer: GnupgSigner) -> bytes:
    return make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))


def session(www: Path | str, top: bytes, *, legacy: bool = True) -> Session:
    url = www if isinstance(www, str) else www.as_uri()
    return open_server(url, top, fetch=Downloader(), now=NOW.timestamp, legacy=legacy)


def test_the_two_descriptions_agree(www: Path, top: bytes) -> None:
    assert check_tree(www, top, ours=False, now=NOW.timestamp()) == {place: [1, 2, 3] for place in PLACES}


def test_the_original_offers_a_full_image_and_then_a_delta(www: Path, top: bytes) -> None:
    """Whose removals recovery then skips: what our trees never do."""
    with pytest.raises(RefusedError, match="full image 1 is closed"):
        check_tree(www, top, now=NOW.timestamp())


@pytest.mark.parametrize(("channel", "device"), PLACES)
def test_our_client_reads_it(channel: str, device: str, www: Path, top: bytes, tmp_path: Path) -> None:
    with serve(www) as server, client_errors():
        opened = session(server.url, top)
        images = opened.index(channel, device).images
        assert [(image.version, image.base) for image in images] == [(1, None), (2, None), (2, 1), (3, None), (3, 2)]
        for image in images:
            names = [path.name for path in opened.download(channel, device, image, tmp_path)]
            assert names == [file.name for file in image.files]


@pytest.mark.parametrize(("channel", "device"), PLACES)
@pytest.mark.parametrize("build", range(NEWEST + 1))
def test_our_client_goes_where_the_original_goes(channel: str, device: str, build: int, www: Path, top: bytes) -> None:
    at = Device(top, channel, device, build, percentage=40)
    found = update(at, lambda path: (www / path).read_bytes() if (www / path).is_file() else None, NOW.timestamp())
    with client_errors():
        ours = find_path(session(www, top).index(channel, device).images, build, device_percent=40)
    assert ours.version == (found.images[-1]["version"] if found else None)
    if found and all(image["type"] == "delta" for image in found.images):
        assert [image.base for image in ours.images] == [image["base"] for image in found.images]


def test_an_alias_that_was_moved_starts_from_nothing(www: Path, top: bytes) -> None:
    with client_errors():
        opened = session(www, top)
        alias = opened.channels()[ALIAS].alias
        assert starting_version(2, alias, EDGE) == 2
        assert starting_version(2, alias, "ubuntu-core/15.04/other") == 0
        assert (opened.channels()[ALPHA].hidden, opened.channels()[REDIRECT].redirect) == (True, EDGE)


def test_only_who_was_told_believes_it(www: Path, top: bytes) -> None:
    with pytest.raises(VerificationError, match="legacy") as raised, client_errors():
        session(www, top, legacy=False).index(EDGE, DEVICE)
    assert "--legacy" in raised.value.resolution


def test_verify_finds_it_whole(www: Path, top: bytes) -> None:
    (error,) = verify_web(www, top, fetch=Downloader(), now=NOW.timestamp).errors
    assert "--legacy" in error.resolution
    found = verify_web(www, top, fetch=Downloader(), now=NOW.timestamp, legacy=True)
    assert found.errors == ()
    assert {finding.where for finding in found.findings} <= {f"{ALPHA}/{MAKER}/device.tar.xz"}
    assert found.orphans == ()


def test_the_command_that_verifies_is_told_too(www: Path, top: bytes, tmp_path: Path) -> None:
    (tmp_path / "top.tar.xz").write_bytes(top)
    words = ["verify", str(www), "--keyring", str(tmp_path / "top.tar.xz")]
    assert coreimage(words) == VerificationError.exit_status
    assert coreimage([*words, "--legacy"]) == 0
