"""Hostile input, by Hypothesis and by mutating real files: always an error of our own, and nothing written outside.

Each campaign is short here, and long in `make test-all`.
"""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coreimage.client import Channels, ClientError, Index, SignedChannels, read_keyring
from coreimage.client.layers import LayeredTree
from coreimage.client.upgrade import find_path
from coreimage.errors import CoreimageError
from coreimage.host.process import run
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import ChannelTree, customise_rootfs, publish_keyrings, verify_web
from coreimage.system_image.payloads.customise import repack_tarball
from coreimage.system_image.payloads.version_tarball import read_identity
from coreimage.system_image.web import client_errors, open_server
from coreimage.tarball import Limits, extract
from tests.harness.trees import CHANNEL, DEVICE, NOW, now, released, rootfs_tarball

SHORT, LONG = 40, 3000
OURS = (CoreimageError, ClientError)


def campaigns(strategy: st.SearchStrategy[Any], short: int = SHORT, long: int = LONG) -> Callable[[Any], Any]:
    """Runs a check over examples: few in `make test`, many in `make test-all`."""

    def decorate(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize("examples", [short, pytest.param(long, marks=pytest.mark.slow)])
        def test(examples: int, request: pytest.FixtureRequest) -> None:
            fixtures = [request.getfixturevalue(name) for name in fixture_names]
            quiet = settings(
                max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
            )
            quiet(given(strategy)(lambda example: check(example, *fixtures)))()

        fixture_names = check.__code__.co_varnames[1 : check.__code__.co_argcount]
        test.__doc__ = check.__doc__
        return test

    return decorate


def only_our_errors() -> suppress:
    return suppress(*OURS)


# Bytes that were right once


def mutated(content: bytes, draw: st.DrawFn) -> bytes:
    """A few bytes of it changed, taken out, put in; or its end cut off."""
    found = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(found) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "cut", "insert", "delete", "repeat"]))
        if kind == "flip" and found:
            found[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and found:
            found[at] = draw(st.sampled_from([0, 0x20, 0x2F, 0x2E, 0x7F, 0x80, 0xFF]))
        elif kind == "cut":
            del found[at:]
        elif kind == "insert":
            found[at:at] = draw(st.sampled_from([b"\0", b"../", b"/", b"9" * 30, b"\xff" * 8, b'"', b"{}"]))
        elif kind == "delete":
            del found[at : at + draw(st.integers(1, 600))]
        else:
            found[at:at] = found[at : at + draw(st.integers(1, 600))]
    return bytes(found)


@st.composite
def mutations_of(draw: st.DrawFn, contents: tuple[bytes, ...]) -> bytes:
    return mutated(draw(st.sampled_from(contents)), draw)


def plain_tar(*members: tuple[str, bytes, bytes, str]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(content), link
            member.pax_headers = {"SCHILY.xattr.user.x": "y"} if kind == tarfile.REGTYPE else {}
            tar.addfile(member, io.BytesIO(content))
    return plain.getvalue()


ROOTFS = gzip.decompress(rootfs_tarball(b"one"))
COMPONENT = plain_tar(
    ("system/a", tarfile.REGTYPE, b"a" * 700, ""),
    ("system/" + "long/" * 40 + "b", tarfile.REGTYPE, b"b", ""),
    ("system/c", tarfile.SYMTYPE, b"", "a"),
    ("system/d", tarfile.LNKTYPE, b"", "system/a"),
)
INI = b"[service]\nbase: localhost\nhttp_port: 80\nhttps_port: 443\nchannel: c\ndevice: d\nbuild_number: 1\n"
IDENTITY = plain_tar(
    ("system/etc/ubuntu-build", tarfile.REGTYPE, b"1\n", ""),
    ("system/etc/system-image/channel.ini", tarfile.REGTYPE, INI, ""),
)
KEYRING = lzma.decompress(make_keyring("image-signing", b"\x99\x01\x0d" + bytes(269), expiry=4_000_000_000))


@campaigns(mutations_of((ROOTFS, COMPONENT)))
def test_mutated_rootfs_and_components(tar: bytes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for packed in (gzip.compress(tar, 1), lzma.compress(tar, preset=0), tar):
        source.write_bytes(packed)
        for rewrite in (customise_rootfs, partial(repack_tarball, run=run)):
            with only_our_errors():
                rewrite(source, io.BytesIO())


@campaigns(mutations_of((rootfs_tarball(b"one"), lzma.compress(COMPONENT), lzma.compress(IDENTITY))))
def test_mutated_compression(packed: bytes, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(packed)
    for rewrite in (customise_rootfs, partial(repack_tarball, run=run)):
        with only_our_errors():
            rewrite(source, io.BytesIO())
    with only_our_errors():
        read_identity(io.BytesIO(packed), "mutated")
    with only_our_errors():
        read_keyring(packed, "image-signing", now=0)


@campaigns(mutations_of((KEYRING, IDENTITY, COMPONENT)))
def test_mutated_keyrings_identities_and_payloads(tar: bytes) -> None:
    packed = lzma.compress(tar, preset=0)
    with only_our_errors():
        read_keyring(packed, "image-signing", now=0)
    with only_our_errors():
        read_identity(io.BytesIO(packed), "mutated")
    with only_our_errors(), suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(tar), mode="r:") as opened:
        LayeredTree([opened])


# Tarballs that were meant to harm

WORDS = ("a", "a/b", "a/b/c", "./a", "a/./b", "l", "l/x", "x" * 300, "\udcff")
OUTWARDS = ("../out", "/out", "a/../../out", "", ".", "..", "/", "a//b", "a\n/b", "C:\\out", "a\0b")
NAMES = st.sampled_from([*WORDS, *OUTWARDS])
KINDS = st.sampled_from(
    [*tarfile.SUPPORTED_TYPES, b"\x00", b"9", tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE]
)
MEMBERS = st.lists(st.tuples(NAMES, KINDS, st.binary(max_size=20), NAMES, st.integers(0, 1 << 40)), max_size=6)


@campaigns(MEMBERS, short=150)
def test_nothing_is_unpacked_outside(members: list[tuple[str, bytes, bytes, str, int]]) -> None:
    """The header's size is the content's, save in one of four: then it promises what is not there."""
    plain = io.BytesIO()
    for name, kind, content, link, size in members:
        member = tarfile.TarInfo(name)
        member.type, member.linkname, member.mode = kind, link, 0o6777
        member.size = size if size % 4 == 0 else len(content)
        try:
            header = member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        except ValueError:
            continue
        plain.write(header + content + bytes(-len(content) % 512))
    plain.write(bytes(1024))
    with TemporaryDirectory() as around:
        inside = Path(around, "inside")
        inside.mkdir()
        with only_our_errors():
            extract(io.BytesIO(plain.getvalue()), inside, where="it", limits=Limits(total_bytes=1 << 20))
        assert [path.name for path in Path(around).iterdir()] == ["inside"]
        for path in inside.rglob("*"):
            assert path.is_symlink() or path.is_file() or path.is_dir(), "no device and no FIFO"


def test_bombs_go_off_before_they_fill_anything() -> None:
    zeros = lzma.compress(bytes(64 << 20), preset=0)
    with pytest.raises(ClientError, match="too large"):
        read_keyring(zeros, "image-signing", now=0)
    member = tarfile.TarInfo("a")
    member.size = 1 << 30
    header = member.tobuf()
    with TemporaryDirectory() as folder, pytest.raises(CoreimageError, match="limits"):
        extract(io.BytesIO(header * 3), Path(folder), where="it", limits=Limits(total_bytes=1 << 20))
    many = b"".join(tarfile.TarInfo(f"{number}").tobuf() for number in range(200))
    with TemporaryDirectory() as folder, pytest.raises(CoreimageError, match="limits"):
        extract(io.BytesIO(many + bytes(1024)), Path(folder), where="it", limits=Limits(members=100))


# Documents

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
FILE = {"path": "/pool/a.tar.xz", "signature": "/pool/a.tar.xz.asc", "checksum": "0" * 64, "size": 1, "order": 0}
FULL = {"type": "full", "version": 1, "files": [FILE], "version_detail": "version=1", "phased-percentage": 50}
DELTA = {**FULL, "type": "delta", "base": 1, "version": 2}
INDEX = {"global": {"generated_at": "x", "channel": "c", "device": "d"}, "images": [FULL, DELTA]}
ENTRY = {"index": "/c/d/index.json", "index_sha256": "0" * 64, "keyring": {"path": "/k", "signature": "/k.asc"}}
CHANNELS = {"c": {"devices": {"d": ENTRY}, "hidden": True, "alias": "x", "redirect": "y"}}
SIGNED = {"kind": "channels", "number": 7, "expires": 9, "channels": CHANNELS, "retired": {"c": {"d": 1}}}


@st.composite
def changed_documents(draw: st.DrawFn) -> bytes:
    """A right document in which one or two values are others, or missing, or twice."""
    document = json.loads(json.dumps(draw(st.sampled_from([INDEX, CHANNELS, SIGNED]))))
    for _ in range(draw(st.integers(1, 2))):
        place, key = draw(st.sampled_from(list(_places(document))))
        action = draw(st.sampled_from(["replace", "remove", "wrap"]))
        if action == "replace":
            place[key] = draw(VALUES)
        elif action == "remove":
            del place[key]
        else:
            place[key] = [place[key], place[key]]
        if not isinstance(document, dict) or not document:
            break
    return json.dumps(document).encode(errors="surrogatepass")


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield node, key
        yield from _places(value)


@campaigns(changed_documents(), short=200, long=20_000)
def test_changed_documents(content: bytes) -> None:
    for document in (Channels, SignedChannels):
        with only_our_errors():
            document.from_bytes(content, "fuzz")
    with only_our_errors():
        images = Index.from_bytes(content, "fuzz").images
        for build in (0, 1, 2, 65535):
            find_path(images, build, device_percent=50)


# A whole tree


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, signer: GnupgSigner) -> Path:
    store = DirectoryStore(tmp_path_factory.mktemp("hostile"))
    publish_keyrings(ChannelTree(store, signer, now))
    released(store, signer, "20261123", b"one")
    released(store, signer, "20261124", b"two")
    return Path(store.url.removeprefix("file://")) / "system-image"


@st.composite
def spoilings(draw: st.DrawFn) -> Callable[[Path], tuple[Path, bytes]]:
    """Changes one file of a tree, and gives what it was."""
    number, seed = draw(st.integers(0, 10_000)), draw(st.randoms(use_true_random=False))
    kind = draw(st.sampled_from(["mutate", "swap", "empty"]))
    flips = draw(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), min_size=1, max_size=3))

    def spoil(root: Path) -> tuple[Path, bytes]:
        files = sorted(path for path in root.rglob("*") if path.is_file())
        file = files[number % len(files)]
        before = file.read_bytes()
        content = bytearray(before)
        for place, value in flips:
            if content:
                content[int(place * len(content))] = value
        other = seed.choice(files).read_bytes()
        file.write_bytes({"mutate": bytes(content), "swap": other, "empty": b""}[kind])
        return file, before

    return spoil


@pytest.mark.spoils
@campaigns(spoilings(), short=12, long=400)
def test_a_tree_with_one_file_spoilt(
    spoil: Callable[[Path], tuple[Path, bytes]], published: Path, signer: GnupgSigner
) -> None:
    """The client refuses it or takes exactly what was published; `verify` names it or it does not matter."""
    top = make_keyring("archive-master", signer.public_key(Role.ARCHIVE_MASTER))
    file, before = spoil(published)
    try:
        with TemporaryDirectory() as folder, only_our_errors(), client_errors():
            opened = open_server(published.as_uri(), top, fetch=Downloader(), now=NOW.timestamp)
            image = opened.select(CHANNEL, DEVICE)
            paths = opened.download(CHANNEL, DEVICE, image, Path(folder))
            assert image.version == 2
            for path, wanted in zip(paths, image.files, strict=True):
                assert (path.stat().st_size, path.name) == (wanted.size_bytes, wanted.name)
        with only_our_errors():
            verify_web(published, top, fetch=Downloader(), now=NOW.timestamp)
    finally:
        file.write_bytes(before)
