"""Contents to publish, made of a few bytes, and a signer without GnuPG."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from coreimage.errors import HostError
from coreimage.model import (
    JSON,
    LOG,
    TAR_GZ,
    TEXT,
    Architecture,
    ArchiveRelease,
    BootReport,
    DeviceBuild,
    PackageLock,
    RootfsBuild,
)
from coreimage.publication import BuildContent
from coreimage.signing import Role
from coreimage.storage import Store, put_blob_bytes
from tests.harness.memory_signer import MemorySigner

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class KeylessSigner(MemorySigner):
    def fingerprint(self, role: Role) -> str:
        raise HostError(f"no key for {role}")


def content(
    store: Store,
    tag: str = "a",
    *,
    logs: str = "log",
    architectures: tuple[Architecture, ...] = ("amd64",),
    devices: tuple[str, ...] = ("generic_amd64",),
    product: str = "core",
) -> BuildContent:
    """Devices of which the name does not end in `arm64` are of amd64, where the build has amd64 at all."""
    return BuildContent(
        project="debian-core",
        series="13",
        codename="trixie",
        product=product,
        image_type="daily-preinstalled",
        rootfs=tuple(rootfs(store, tag, architecture, logs) for architecture in architectures),
        devices=tuple(device(store, tag, name, logs, architectures) for name in devices),
    )


def lock(architecture: Architecture, epoch: int = 1_700_000_000) -> PackageLock:
    release_sha256 = hashlib.sha256(b"release").hexdigest()
    return PackageLock(
        architecture=architecture,
        epoch=epoch,
        packages=(),
        releases=(
            ArchiveRelease(
                uri="http://archive.example/debian",
                suite="trixie",
                date="2026-11-22T00:00:00Z",
                release_sha256=release_sha256,
                release={"uri": "blobs/x", "sha256": release_sha256, "size_bytes": 7, "media_type": TEXT},
            ),
        ),
    )


def rootfs(store: Store, tag: str, architecture: Architecture, logs: str) -> RootfsBuild:
    return RootfsBuild(
        architecture=architecture,
        rootfs=put_blob_bytes(store, f"rootfs {architecture} {tag}".encode(), TAR_GZ),
        manifest=put_blob_bytes(store, f"bash 5.2+{re.sub('[^A-Za-z0-9]', '', tag)}\n".encode(), TEXT),
        filelist=put_blob_bytes(store, b"etc/hostname\n", TEXT),
        lock=put_blob_bytes(store, lock(architecture).model_dump_json().encode(), JSON),
        log=put_blob_bytes(store, f"rootfs {logs}".encode(), LOG),
    )


def device(store: Store, tag: str, name: str, logs: str, architectures: tuple[Architecture, ...]) -> DeviceBuild:
    architecture: Architecture = "arm64" if name.endswith("arm64") or "amd64" not in architectures else "amd64"
    return DeviceBuild(
        device=name,
        architecture=architecture,
        tarball=put_blob_bytes(store, f"device {name} {tag}".encode(), TAR_GZ),
        manifest=put_blob_bytes(store, b"linux-image 6.12\n", TEXT),
        lock=put_blob_bytes(store, lock(architecture, 1_700_000_007).model_dump_json().encode(), JSON),
        log=put_blob_bytes(store, f"device {logs}".encode(), LOG),
    )


def boot_report(store: Store, *, passed: bool = True) -> BootReport:
    return BootReport(
        image_sha256="1" * 64,
        firmware="bios",
        accelerator="tcg",
        passed=passed,
        reason="login prompt" if passed else "no login prompt",
        duration_s=35.0,
        serial_log=put_blob_bytes(store, b"login:", LOG),
        last_lines=("login:",),
    )
