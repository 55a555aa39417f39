"""A store as it is after some days: builds published, imported with deltas, booted and released.

The tarballs are tiny, their packages and all documents are as real ones are; a few bytes stand for each disk image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import tarfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from coreimage.host.process import run
from coreimage.model import (
    DISK_IMAGE_ZSTD,
    JSON,
    LOG,
    TAR_GZ,
    TEXT,
    Architecture,
    BootReport,
    DeviceBuild,
    PublishedBuild,
    RootfsBuild,
)
from coreimage.publication import BuildContent, BuildTree, mark_good, publish_build
from coreimage.signing import Signer
from coreimage.storage import Store, put_blob_bytes
from coreimage.system_image import ChannelTree, import_build, publish_keyrings, release_candidate
from tests.harness.trees import device_tarball, rootfs_tarball
from tests.unit.publication.builds import lock

CHANNEL, DEVICE = "debian-core/13/edge", "generic_amd64"
ARCHITECTURE: Architecture = "amd64"
TREE = BuildTree(project="debian-core", series="13", image_type="daily-preinstalled")
START = datetime(2026, 11, 2, 4, 30, tzinfo=UTC)
_PACKAGES = {"base-files": "13.8", "bash": "5.2.37", "libc6": "2.41-12", "openssh-server": "1:10.0p1", "tar": "1.35"}


def grow(store: Store, signer: Signer, days: int, *, first: int = 0) -> list[PublishedBuild]:
    """A build and a version a day; day `n` upgrades some packages, and every fifth adds or removes one."""
    publish_keyrings(ChannelTree(store, signer, lambda: START))
    return [_build(store, signer, day) for day in range(first, first + days)]


def packages_of(day: int) -> dict[str, str]:
    names = sorted(_PACKAGES)
    packages = {name: f"{version}+deb13u{(day + names.index(name)) // 3}" for name, version in _PACKAGES.items()}
    return packages | ({"nano": "8.4-1"} if day % 5 == 4 else {})


def publish_day(store: Store, signer: Signer, day: int) -> PublishedBuild:
    return publish_build(_content(store, day), store=store, signer=signer, now=START + timedelta(days=day))


def _build(store: Store, signer: Signer, day: int) -> PublishedBuild:
    now = START + timedelta(days=day)
    published = publish_day(store, signer, day)
    candidate = import_build(ChannelTree(store, signer, lambda: now), published, CHANNEL, DEVICE, run=run)
    raw_sha256 = put_image(store, candidate.version)
    release_candidate(ChannelTree(store, signer, lambda: now), candidate)
    mark_good(published, ARCHITECTURE, list(_boots(store, raw_sha256)), store=store, now=now)
    return published


def put_image(store: Store, version: int) -> str:
    """What stands for the disk image of a version; gives the digest of what it would unpack to."""
    prefix, name = f"images/{CHANNEL}/{DEVICE}/{version}", f"{CHANNEL.replace('/', '-')}-{DEVICE}-{version}.img"
    packed = f"image {version}".encode() * 40_000
    raw_sha256 = hashlib.sha256(f"raw {version}".encode()).hexdigest()
    store.put_bytes(f"{prefix}/{name}.zst", packed, media_type=DISK_IMAGE_ZSTD)
    sums = f"{raw_sha256} *{name}\n{hashlib.sha256(packed).hexdigest()} *{name}.zst\n"
    store.put_bytes(f"{prefix}/SHA256SUMS", sums.encode(), media_type=TEXT)
    return raw_sha256


def _boots(store: Store, raw_sha256: str) -> Iterator[BootReport]:
    log = put_blob_bytes(store, b"debian-core login:", LOG)
    for firmware in ("bios", "uefi"):
        yield BootReport.model_validate(
            {
                "image_sha256": raw_sha256,
                "firmware": firmware,
                "accelerator": "tcg",
                "passed": True,
                "reason": "reached the login prompt",
                "duration_s": 41.0,
                "serial_log": log,
                "last_lines": ("debian-core login:",),
            }
        )


def _rootfs_tarball(changing: bytes, day: int) -> bytes:
    """Most of it stays from day to day."""
    plain = io.BytesIO(gzip.decompress(rootfs_tarball(changing)))
    with tarfile.open(fileobj=plain, mode="a", format=tarfile.PAX_FORMAT) as tar:
        for number in range(8 + day // 3):
            member = tarfile.TarInfo(f"usr/lib/stable-{number}")
            content = _noise(1000 + number, 9_000)
            member.size, member.mtime = len(content), 1_700_000_000
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def _noise(seed: int, size_bytes: int) -> bytes:
    return random.Random(seed).randbytes(size_bytes)  # noqa: S311


def _content(store: Store, day: int) -> BuildContent:
    changing = _noise(day, 6_000 + 4_000 * (day % 5))
    manifest = "".join(f"{name}\t{version}\n" for name, version in sorted(packages_of(day).items()))
    planned = put_blob_bytes(store, lock(ARCHITECTURE).model_dump_json().encode(), JSON)
    log = put_blob_bytes(store, f"built on day {day}\n".encode(), LOG)
    return BuildContent(
        project=TREE.project,
        series=TREE.series,
        codename="trixie",
        product="core",
        image_type=TREE.image_type,
        rootfs=(
            RootfsBuild(
                architecture=ARCHITECTURE,
                rootfs=put_blob_bytes(store, _rootfs_tarball(changing, day), TAR_GZ),
                manifest=put_blob_bytes(store, manifest.encode(), TEXT),
                filelist=put_blob_bytes(store, b"etc/issue\n", TEXT),
                lock=planned,
                log=log,
            ),
        ),
        devices=(
            DeviceBuild(
                device=DEVICE,
                architecture=ARCHITECTURE,
                tarball=put_blob_bytes(store, device_tarball(), TAR_GZ),
                manifest=put_blob_bytes(store, f"linux-image-cloud-amd64\t6.12.{48 + day // 4}-1\n".encode(), TEXT),
                lock=planned,
                log=log,
            ),
        ),
    )
