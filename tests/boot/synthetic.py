"""A tiny system to boot: Debian's cloud kernel and a busybox initrd that shows a login prompt on the serial port."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path

from coreimage.disk_image import ImageIdentity
from coreimage.host.process import run

EPOCH = 1_700_000_000
IDENTITY = ImageIdentity(channel="test/13/edge", device="generic_amd64", version=1, architecture="amd64", epoch=EPOCH)
GADGET = Path(__file__).parents[2] / "deployments" / "gadgets" / "generic_amd64"
_INIT = b"""#!/bin/busybox sh
/bin/busybox mkdir -p /proc /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/@CONSOLE@ >/dev/@CONSOLE@ 2>&1
/bin/busybox cat /proc/cmdline
echo -n 'tiny login: '
read name
echo "hello $name"
/bin/busybox reboot -f
"""

Member = tuple[str, bytes | None, dict[str, object]]


def tarball(target: Path, members: list[Member], mode: str = "w:gz") -> Path:
    """`(name, content, TarInfo attributes)`; a folder when there is no content and no type."""
    with tarfile.open(target, mode, format=tarfile.PAX_FORMAT, compresslevel=1) as tar:  # type: ignore[call-overload]
        for name, content, attributes in members:
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.mode, member.mtime = 0o755 if content is None else 0o644, EPOCH - 1000
            member.size = len(content or b"")
            for key, value in attributes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content or b""))
    return target


def kernel_and_busybox(folder: Path) -> tuple[bytes, bytes]:
    depends = run(["apt-cache", "depends", "linux-image-cloud-amd64"]).output
    package = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    run(["apt-get", "download", "-q", package, "busybox-static"], cwd=folder)
    for deb in sorted(folder.glob("*.deb")):
        run(["dpkg", "-x", deb, folder / "x"])
    binary = next(path for path in (folder / "x/usr/bin/busybox", folder / "x/bin/busybox") if path.exists())
    return next((folder / "x" / "boot").glob("vmlinuz-*")).read_bytes(), binary.read_bytes()


def initrd(busybox: bytes, console: str = "ttyS0") -> bytes:
    init = _INIT.replace(b"@CONSOLE@", console.encode())
    nodes = [("bin", 0o40755, b""), ("bin/busybox", 0o100755, busybox), ("init", 0o100755, init)]
    archive = b"".join(_newc(n, *node) for n, node in enumerate([*nodes, ("TRAILER!!!", 0, b"")], start=1))
    return gzip.compress(archive, 1, mtime=0)


def _newc(number: int, name: str, mode: int, content: bytes) -> bytes:
    """One member of a cpio archive of the kind `newc` (Documentation/driver-api/early-userspace/buffer-format)."""
    fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def device_tarball(target: Path, kernel: bytes, ramdisk: bytes) -> Path:
    members: list[Member] = [
        ("hardware.yaml", b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n", {}),
        ("assets/vmlinuz", kernel, {}),
        ("assets/initrd.img", ramdisk, {}),
        ("system/usr/lib/modules/6.1/modules.dep", b"", {}),
    ]
    return tarball(target, members)
