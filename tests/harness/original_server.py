"""A tree exactly as the original server lays it out (system-image §1, §2 and appendix A): pairs, none of our own keys.

Written from the description, without the code that publishes our own trees; only signatures are made by it.

| channel | is |
|---|---|
| `ubuntu-core/15.04/edge` | plain: versions 1, 2 and 3, with deltas from each to the next; 3 is phased |
| `ubuntu-core/15.04/alpha` | hidden; its `generic_amd64` is redirected to edge, its `maker_armhf` has a keyring |
| `ubuntu-core/edge` | an alias of edge |
| `ubuntu-core/devel` | a redirect to edge |
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coreimage.signing import Role, Signer

EDGE, ALPHA, ALIAS, REDIRECT = (
    "ubuntu-core/15.04/edge",
    "ubuntu-core/15.04/alpha",
    "ubuntu-core/edge",
    "ubuntu-core/devel",
)
DEVICE, MAKER = "generic_amd64", "maker_armhf"
NEWEST = 3
TIME = 1_433_116_800
"""June 2015."""
_STAMP = {"generated_at": "Mon Nov 23 18:34:20 UTC 2026"}
_TWO_YEARS_S = 63_072_000

File, Folder, Soft, Hard = tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
Members = Sequence[tuple[str, bytes, bytes | str]]


MERGED_USR: Members = [
    ("system/usr", Folder, ""),
    ("system/usr/lib", Folder, ""),
    ("system/lib", Soft, "usr/lib"),
    ("system/lib/modules", Folder, ""),
    ("system/lib/firmware", Folder, ""),
    ("system/lib/firmware/rootfs.bin", File, b"of the rootfs"),
]
"""What becomes of a rootfs with a merged `/usr`: the server adds `system/lib/modules` whatever `lib` is."""
MERGED_USR_DEVICE: Members = [
    ("system/lib/modules/3.19", Folder, ""),
    ("system/lib/modules/3.19/one.ko", File, b"module"),
    ("system/lib/modules/3.19/same.ko", Hard, "system/lib/modules/3.19/one.ko"),
    ("system/lib/firmware/device.bin", File, b"of the device"),
]


def original_tree(root: Path, signer: Signer, now: float, rootfs: Members = (), device: Members = ()) -> None:
    """`now` is UNIX seconds: keyrings end two years after. `rootfs` and `device` are further members of full images."""
    _Original(root, signer, now, rootfs, device).publish()


def _members(version: int, *, modules: bool = True) -> Members:
    """A rootfs after the import of product core: content of equal size and time in each version."""
    return [
        ("system/etc", Folder, ""),
        ("system/etc/issue", File, b"version %d" % version),
        (f"system/etc/only-{version}", File, b""),
        ("system/writable", Folder, ""),
        ("system/etc/mtab", Soft, "/proc/mounts"),
        *([("system/lib/modules", Folder, "")] if modules else []),
    ]


_DEVICE_MEMBERS: Members = [
    ("assets/vmlinuz", File, b"kernel"),
    ("assets/initrd.img", File, b"initrd"),
    ("hardware.yaml", File, b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n"),
]


def _delta_members(version: int) -> Members:
    """`removed` has what goes and what changes, and comes first."""
    removed = f"system/etc/issue\nsystem/etc/only-{version - 1}\n"
    return [("removed", File, removed.encode()), *_members(version)[1:3]]


def _tarball(members: Members) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content in members:
            member = tarfile.TarInfo(name)
            member.type, member.mtime, member.uname, member.gname = kind, TIME, "root", "root"
            member.mode = 0o775 if name.endswith("config.d") else 0o755 if kind == Folder else 0o644
            if isinstance(content, str):
                member.linkname = content
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return lzma.compress(plain.getvalue())


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=4, separators=(",", ": ")) + "\n").encode()


@dataclass
class _Original:
    root: Path
    signer: Signer
    now: float
    rootfs: Members = ()
    device: Members = ()
    _channels: dict[str, Any] = field(default_factory=dict)

    def publish(self) -> None:
        self._keyrings()
        alpha = {"index": f"/{ALPHA}/{MAKER}/index.json", "keyring": self._device_keyring()}
        edge = {"index": self._index(EDGE, DEVICE)}
        self._index(ALPHA, MAKER, by=Role.CDIMAGE)
        self._channels = {
            EDGE: {"devices": {DEVICE: edge}},
            ALPHA: {"devices": {DEVICE: {**edge, "redirect": EDGE}, MAKER: alpha}, "hidden": True},
            ALIAS: {"alias": EDGE, "devices": {DEVICE: {"index": self._index(ALIAS, DEVICE, target=EDGE)}}},
            REDIRECT: {"devices": {DEVICE: edge}, "hidden": True, "redirect": EDGE},
        }
        self._put("channels.json", _json(self._channels))

    def _put(self, path: str, content: bytes, by: Role = Role.IMAGE_SIGNING) -> None:
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        Path(f"{file}.asc").write_bytes(self.signer.detached(by, content))

    # Keyrings

    def _keyrings(self) -> None:
        end = int(self.now) + _TWO_YEARS_S
        signing = {"type": "image-signing", "expiry": end}
        for role, by, said in (
            (Role.ARCHIVE_MASTER, Role.ARCHIVE_MASTER, {"type": "archive-master"}),
            (Role.IMAGE_MASTER, Role.ARCHIVE_MASTER, {"type": "image-master"}),
            (Role.IMAGE_SIGNING, Role.IMAGE_MASTER, signing),
        ):
            self._put(f"gpg/{role.value}.tar.xz", self._keyring(said, self.signer.public_key(role)), by)
        self._put("gpg/blacklist.tar.xz", self._keyring({"type": "blacklist"}, b""), Role.IMAGE_MASTER)

    def _device_keyring(self) -> dict[str, str]:
        """The maker's key: another one than all that the server signs with."""
        path = f"/{ALPHA}/{MAKER}/device.tar.xz"
        said = {"type": "device-signing", "model": MAKER, "expiry": int(self.now) + 2_678_400}
        self._put(path, self._keyring(said, self.signer.public_key(Role.CDIMAGE)))
        return {"path": path, "signature": f"{path}.asc"}

    def _keyring(self, said: dict[str, Any], keys: bytes) -> bytes:
        return _tarball([("keyring.json", File, _json(said)), ("keyring.gpg", File, keys)])

    # Images

    def _index(self, channel: str, device: str, *, by: Role = Role.IMAGE_SIGNING, target: str = "") -> str:
        images = []
        for version in range(1, NEWEST + 1):
            images.append(self._image(channel, device, version, by=by, target=target))
            if version > 1:
                images.append(self._image(channel, device, version, by=by, target=target, base=version - 1))
        path = f"/{channel}/{device}/index.json"
        self._put(path, _json({"global": _STAMP, "images": images}), by)
        return path

    def _image(
        self, channel: str, device: str, version: int, *, by: Role, target: str, base: int | None = None
    ) -> dict[str, Any]:
        detail = f"ubuntu=2015060{version},raw-device=20150601,version={version}"
        parts = [
            self._rootfs(version, base),
            *([] if base else [self._pool("device", [*_DEVICE_MEMBERS, *self.device])]),
        ]
        ini = self._ini(channel, device, version, target, detail)
        parts.append((f"/{channel}/{device}/version-{version}.tar.xz", _tarball(_identity(version, ini))))
        files = []
        for order, (path, content) in enumerate(parts):
            self._put(path, content, by if "version-" in path else Role.IMAGE_SIGNING)
            if "version-" not in path or not target:
                self._put(f"{path.removesuffix('.tar.xz')}.json", _json({"generator": "cdimage", "version": version}))
            checksum = hashlib.sha256(content).hexdigest()
            entry = {"path": path, "signature": f"{path}.asc", "checksum": checksum, "size": len(content)}
            files.append({**entry, "order": order})
        kind: dict[str, Any] = {"type": "delta", "base": base} if base else {"type": "full"}
        phase = {"phased-percentage": 40} if version == NEWEST else {}
        about = {"version": version, "version_detail": detail, "description": detail}
        return {**kind, **phase, **about, "files": files}

    def _rootfs(self, version: int, base: int | None) -> tuple[str, bytes]:
        if base is None:
            return self._pool("ubuntu", self._members(version))
        target, source = (self._pool("ubuntu", self._members(number))[0] for number in (version, base))
        name = target.removesuffix(".tar.xz") + ".delta-" + source.removeprefix("/pool/")
        return name, _tarball(_delta_members(version))

    def _members(self, version: int) -> Members:
        return [*_members(version, modules=not self.rootfs), *self.rootfs]

    def _pool(self, prefix: str, members: Members) -> tuple[str, bytes]:
        """Named by the digest of the input, which is another one than that of the file."""
        source = hashlib.sha256(repr(members).encode()).hexdigest()
        return f"/pool/{prefix}-{source}.tar.xz", _tarball(members)

    def _ini(self, channel: str, device: str, version: int, target: str, detail: str) -> bytes:
        said = {"base": "system-image.ubuntu.com", "http_port": "80", "https_port": "443"}
        said |= {"channel": channel, "device": device, "build_number": str(version)}
        said |= {"channel_target": target} if target else {}
        lines = [f"{name}: {value}\n" for name, value in {**said, "version_detail": detail}.items()]
        return "".join(["[service]\n", *lines]).encode()


def _identity(version: int, ini: bytes) -> Members:
    top = "system/etc/system-image"
    return [
        ("system/etc/ubuntu-build", File, b"%d\n" % version),
        (f"{top}/channel.ini", File, ini),
        (f"{top}/config.d", Folder, ""),
        (f"{top}/config.d/00_default.ini", Soft, "../client.ini"),
        (f"{top}/config.d/01_channel.ini", Soft, "../channel.ini"),
    ]
