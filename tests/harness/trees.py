"""Small published trees, made with the real importer: what tests of system-image start from."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coreimage.host.process import run
from coreimage.model import JSON, TAR_GZ, TEXT, Candidate, Compression, PublishedBuild, PublishedFile
from coreimage.signing import Role, Signer
from coreimage.storage import Store, put_blob_bytes
from coreimage.system_image import ChannelTree, import_build, release_candidate

CHANNEL, DEVICE = "debian-core/13/edge", "generic_amd64"
NOW = datetime.now(UTC).replace(microsecond=0)


def now() -> datetime:
    return NOW


def _tar_gz(members: list[tuple[str, bytes, bytes, str]]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content, link in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname, member.mtime = kind, len(content), link, 1_700_000_000
            if name == "usr/bin/ping":
                member.pax_headers = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00\x00" + "\x00" * 12}
            tar.addfile(member, io.BytesIO(content))
    return gzip.compress(plain.getvalue(), mtime=0)


def rootfs_tarball(text: bytes, names: Sequence[str] = ()) -> bytes:
    """`names` are of empty files beside the rest."""
    file, folder, soft, hard = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
    return _tar_gz(
        [
            ("SWAP.swap", file, b"swap", ""),
            ("etc", folder, b"", ""),
            ("etc/mtab", file, b"", ""),
            ("etc/issue", file, text, ""),
            ("lib", soft, b"", "usr/lib"),
            ("usr", folder, b"", ""),
            ("usr/bin", folder, b"", ""),
            ("usr/bin/ping", file, b"ping", ""),
            ("usr/bin/ping6", hard, b"", "usr/bin/ping"),
            ("usr/lib", folder, b"", ""),
            *((name, file, b"", "") for name in names),
        ]
    )


def device_tarball() -> bytes:
    hardware = b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n"
    contents = {"hardware.yaml": hardware, "assets/vmlinuz": b"kernel", "assets/initrd.img": b"initrd"}
    return _tar_gz([(name, tarfile.REGTYPE, content, "") for name, content in contents.items()])


def published(
    store: Store, signer: Signer, build_id: str = "20261123", text: bytes = b"one", names: Sequence[str] = ()
) -> PublishedBuild:
    files = [
        PublishedFile(
            name="trixie-preinstalled-core-amd64.device.tar.gz",
            role="device",
            architecture="amd64",
            device=DEVICE,
            artifact=put_blob_bytes(store, device_tarball(), TAR_GZ),
        ),
        PublishedFile(
            name="trixie-preinstalled-core-amd64.tar.gz",
            role="rootfs",
            architecture="amd64",
            artifact=put_blob_bytes(store, rootfs_tarball(text, names), TAR_GZ),
        ),
    ]
    sums = "".join(f"{file.artifact.sha256} *{file.name}\n" for file in files).encode()
    return PublishedBuild(
        project="debian-core",
        series="13",
        image_type="daily-preinstalled",
        build_id=build_id,
        prefix=f"cdimage/debian-core/daily-preinstalled/{build_id}/",
        files=tuple(files),
        info=put_blob_bytes(store, b"{}", JSON),
        checksums=put_blob_bytes(store, sums, TEXT),
        signature=put_blob_bytes(store, signer.detached(Role.CDIMAGE, sums), TEXT),
    )


def imported(
    store: Store,
    signer: Signer,
    build_id: str = "20261123",
    text: bytes = b"one",
    *,
    compression: Compression = "fast",
    delta_bases: int = 1,
    names: Sequence[str] = (),
) -> Candidate:
    build = published(store, signer, build_id, text, names)
    tree = ChannelTree(store, signer, now)
    return import_build(tree, build, CHANNEL, DEVICE, compression=compression, delta_bases=delta_bases, run=run)


def released(store: Store, signer: Signer, build_id: str = "20261123", text: bytes = b"one", **options: Any) -> int:
    """`options` are those of `imported`."""
    candidate = imported(store, signer, build_id, text, **options)
    return release_candidate(ChannelTree(store, signer, now), candidate).version


class RememberingSigner:
    """Signs equal content once: for tests that do the same again and again, where GnuPG would take most of the time."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer
        self._signatures: dict[tuple[str, Role, bytes], bytes] = {}
        self.has, self.fingerprint, self.public_key = signer.has, signer.fingerprint, signer.public_key
        self.verify, self.open_inline = signer.verify, signer.open_inline

    def detached(self, role: Role, content: bytes) -> bytes:
        return self._once("detached", role, content, self._signer.detached)

    def detached_file(self, role: Role, path: Path) -> bytes:
        return self.detached(role, path.read_bytes())

    def inline(self, role: Role, content: bytes) -> bytes:
        return self._once("inline", role, content, self._signer.inline)

    def _once(self, kind: str, role: Role, content: bytes, sign: Callable[[Role, bytes], bytes]) -> bytes:
        wanted = (kind, role, content)
        if wanted not in self._signatures:
            self._signatures[wanted] = sign(role, content)
        return self._signatures[wanted]
