"""An import into a tree of 200 channels with 50 devices and 20 versions each, against one into an empty tree; and the
search for a way to the newest version, in indexes of more and more images.

The fixture shares payloads and signatures: what an import reads and writes of other channels is their documents.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
import random
import statistics
import tarfile
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from coreimage import logs
from coreimage.client import Image, Index
from coreimage.client.documents import Channel, Channels, DeviceEntry
from coreimage.client.upgrade import find_path
from coreimage.host.process import run
from coreimage.model import JSON, TAR_GZ, TEXT, PublishedBuild, PublishedFile
from coreimage.signing import GnupgSigner, Role, create_keys
from coreimage.storage import Store, put_blob_bytes
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import ChannelTree, import_build, publish_keyrings, release_candidate
from coreimage.system_image.channels.document import heal_pair, put_channels, read_channels, read_index
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import build_index, generated_at
from tests.benchmarks.page import Row, ratios
from tests.benchmarks.place import Place

CHANNELS, DEVICES, VERSIONS = 200, 50, 20
CHANNEL, DEVICE = "bench/13/edge", "generic_amd64"
ROUNDS = 5
_MEMBERS, _MEMBER_BYTES = 1000, 8 << 10
"""A rootfs that is small beside a real one: what the tree costs shows the more."""
_SEARCHED = (1_000, 10_000)

_PAGE = """# A large tree

An import with its delta and release, of a build whose rootfs has {rootfs} MB: into a tree of {channels} channels with
{devices} devices and {versions} versions each, whose channels document has {document} MB, and into an empty tree.
Median of {rounds} each, taken in turn.

{imports}

Two deltas lead to every version; the search looks at each image once.

{searches}
"""


def section(place: Place) -> str:
    logs.show(logging.WARNING)
    folder = place.folder("tree-scale")
    create_keys(folder / "keys", bits=dict.fromkeys(Role, 2048))
    signer = GnupgSigner(folder / "keys")
    empty, large = DirectoryStore(folder / "empty"), DirectoryStore(folder / "large")
    for store in (empty, large):
        publish_keyrings(ChannelTree(store, signer, _now))
        _import(store, signer, 0)
    _fill(large, signer)
    durations: dict[str, list[float]] = {"empty": [], "large": []}
    for number in range(1, ROUNDS + 1):
        for name, store in (("empty", empty), ("large", large)):
            durations[name].append(_import(store, signer, number))
    alone_s, among_s = (statistics.median(durations[name]) for name in ("empty", "large"))
    document = (folder / "large" / layout.key(layout.CHANNELS)).stat().st_size
    return _PAGE.format(
        rootfs=round(_MEMBERS * _MEMBER_BYTES / 1e6),
        channels=CHANNELS,
        devices=DEVICES,
        versions=VERSIONS,
        document=f"{document / 1e6:.1f}",
        rounds=ROUNDS,
        imports=ratios(
            [Row("import into the large tree / into an empty one", among_s / alone_s, _said(among_s, alone_s), "≤ 1.5")]
        ),
        searches=ratios([_search_row()]),
    )


def _search_row() -> Row:
    few, many = (_search_s(count) for count in _SEARCHED)
    factor = _SEARCHED[1] / _SEARCHED[0]
    figure = f"{factor:.0f} times the images / {factor:.0f} times the time"
    return Row(figure, many / few / factor, f"{many * 1e3:.0f} ms / {few * 1e3:.0f} ms", "≤ 1.5")


def _said(one_s: float, other_s: float) -> str:
    return f"{one_s:.2f} s / {other_s:.2f} s"


def _now() -> datetime:
    return datetime.now(UTC)


def _import(store: Store, signer: GnupgSigner, number: int) -> float:
    """Seconds, of import and release alone."""
    build = _published(store, signer, number)
    start_s = time.perf_counter()
    candidate = import_build(ChannelTree(store, signer, _now), build, CHANNEL, DEVICE, run=run)
    release_candidate(ChannelTree(store, signer, _now), candidate)
    return time.perf_counter() - start_s


def _published(store: Store, signer: GnupgSigner, number: int) -> PublishedBuild:
    hardware = b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n"
    device = [("hardware.yaml", hardware), ("assets/vmlinuz", b"kernel"), ("assets/initrd.img", b"initrd")]
    files = (
        PublishedFile(
            name="trixie-preinstalled-core-amd64.device.tar.gz",
            role="device",
            architecture="amd64",
            device=DEVICE,
            artifact=put_blob_bytes(store, _tar_gz(device), TAR_GZ),
        ),
        PublishedFile(
            name="trixie-preinstalled-core-amd64.tar.gz",
            role="rootfs",
            architecture="amd64",
            artifact=put_blob_bytes(store, _tar_gz(_rootfs(number)), TAR_GZ),
        ),
    )
    sums = "".join(f"{file.artifact.sha256} *{file.name}\n" for file in files).encode()
    return PublishedBuild(
        project="bench",
        series="13",
        image_type="daily-preinstalled",
        build_id=f"202611{number + 1:02d}",
        prefix=f"cdimage/bench/{number}/",
        files=files,
        info=put_blob_bytes(store, b"{}", JSON),
        checksums=put_blob_bytes(store, sums, TEXT),
        signature=put_blob_bytes(store, signer.detached(Role.CDIMAGE, sums), TEXT),
    )


def _rootfs(number: int) -> Iterable[tuple[str, bytes]]:
    """A twentieth of the files is another in each build."""
    for at in range(_MEMBERS):
        seed = at if at % 20 else at * 1000 + number
        yield f"usr/share/bench/{at:04d}", random.Random(seed).randbytes(_MEMBER_BYTES)  # noqa: S311 - content


def _tar_gz(members: Iterable[tuple[str, bytes]]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_700_000_000
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), compresslevel=1, mtime=0)


def _fill(store: DirectoryStore, signer: GnupgSigner) -> None:
    """Channels, devices and versions beside the one that is imported into, all of the same files."""
    tree = ChannelTree(store, signer, _now)
    current = read_channels(tree)
    channels = current.channels
    model = read_index(store, channels, CHANNEL, DEVICE).images[0]
    images = [replace(model, version=version) for version in range(1, VERSIONS + 1)]
    for number in range(CHANNELS):
        name = f"bench/{number}/stable"
        devices = {}
        for device in (f"device{at}_amd64" for at in range(DEVICES)):
            content = build_index(images, name, device, generated_at(_now())).to_bytes()
            digest = hashlib.sha256(content).hexdigest()
            path = layout.index(name, device, digest)
            for key in (layout.key(path), layout.key(layout.plain_index(name, device))):
                store.put_bytes(key, content, media_type=TEXT)
                store.put_bytes(f"{key}.asc", b"shared", media_type=TEXT)
            devices[device] = DeviceEntry(path, digest)
        channels = Channels({**channels, name: Channel(devices)})
    put_channels(tree, current, replace(current.signed, channels=channels))
    store.put_bytes(layout.key(layout.CHANNELS), channels.to_bytes(), media_type=TEXT)
    heal_pair(tree, thorough=False)


def _search_s(count: int) -> float:
    images = _images(count)
    durations = []
    for _ in range(ROUNDS):
        start_s = time.perf_counter()
        assert find_path(images, 1).images
        durations.append(time.perf_counter() - start_s)
    return statistics.median(durations)


def _images(count: int) -> tuple[Image, ...]:
    """`count` images: a full one, and to every later version a delta from each of the two before."""
    entries: list[dict[str, Any]] = [{"type": "full", "version": 1}]
    for version in range(2, count // 2 + 1):
        entries += [{"type": "delta", "base": max(1, version - step), "version": version} for step in (1, 2)]
    for number, entry in enumerate(entries):
        path = f"/pool/{number}.tar.xz"
        entry["files"] = [{"path": path, "signature": f"{path}.asc", "checksum": "0" * 64, "size": 1 + number % 7}]
    return Index.from_bytes(json.dumps({"global": {}, "images": entries}).encode(), "benchmark").images
