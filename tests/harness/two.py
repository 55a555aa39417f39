"""A distribution of two architectures that boots, and so small that its chroot takes seconds even under emulation.

Its programs are Debian's own, kernel and GRUB included, with a static busybox for some of them. Its initrd shows a
login prompt and mounts nothing.
"""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

from debian.deb822 import Deb822

from coreimage.architecture.facts import FACTS
from coreimage.host.process import run
from coreimage.model import Architecture, RootfsBuild
from coreimage.project.loading import load_project
from coreimage.rootfs import build_rootfs, plan_packages, probe_archives, rootfs_spec
from coreimage.rootfs.apt_sources import host_sources, mirror_for
from coreimage.rootfs.spec import DEVICE_PACKAGES
from coreimage.storage import open_store
from tests.boot.synthetic import initrd
from tests.harness.archive import LocalArchive, TestKey, fetch
from tests.harness.ordinary_user import ROOT_DIR

SUITE = "two"
KERNEL = "6.12-two"
_DEBIAN = "trixie"
_BASE = (
    *("busybox-static", "coreutils", "dash", "dpkg", "tar", "libc6", "libc-bin", "libmd0", "libselinux1"),
    *("libpcre2-8-0", "zlib1g", "liblzma5", "libzstd1", "libbz2-1.0", "libacl1", "libattr1"),
)
_GRUB = ("grub-common", "grub-efi-arm64-bin", "libdevmapper1.02.1", "libudev1", "libcap2")
_UNWANTED = ("usr/share", "etc/default", "etc/grub.d", "etc/systemd", "usr/lib/*/gconv", "var")
_APPLETS = ("diff", "find", "grep", "mount", "ps", "sed")
_LINKS = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
_FOLDERS = (
    "etc/systemd/system",
    "proc",
    "sys",
    "dev",
    "run",
    "root",
    "tmp",
    "var/tmp",
    "var/log",
    "var/lib/extrausers",
)
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\nshadow:x:42:\n",
    "usr/bin/systemctl": '#!/bin/sh\necho "$@" >> /etc/systemctl-calls\n',
}
_UPDATE_INITRAMFS = '#!/bin/sh\nset -e\ncp /usr/lib/two/initrd "/boot/initrd.img-$3"\n'


def two_archive(folder: Path, key: TestKey, work: Path) -> LocalArchive:
    """An archive with one suite for both architectures; more may be added before the next `publish`."""
    archive = LocalArchive(folder, key, origin="Two", label="Two", architectures=tuple(FACTS))
    for architecture in FACTS:
        _add_system(archive, architecture, work / architecture)
    for name in DEVICE_PACKAGES:
        archive.add(SUITE, name)
    archive.add(SUITE, "editor", "1.0")
    return archive.publish()


def two_project(folder: Path, archive: LocalArchive) -> Path:
    """tests/projects/two.yaml in `folder`, with the archive's key beside it."""
    text = (ROOT_DIR / "tests/projects/two.yaml").read_text()
    (folder / "archive.asc").write_bytes(archive.key.public.read_bytes())
    project = folder / "project.yaml"
    project.write_text(text.replace("@ARCHIVE@", archive.uri).replace("@ROOT@", str(ROOT_DIR)))
    return project


def build_two(project: Path, store_url: str, architecture: Architecture) -> RootfsBuild:
    store = open_store(store_url)
    spec = rootfs_spec(load_project(project), "two/1/edge", architecture, store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=run)
    return build_rootfs(spec, lock, store=store, fetch=fetch, run=run)


def _add_system(archive: LocalArchive, architecture: Architecture, work: Path) -> None:
    debian = _Debian(architecture, work)
    base, kernel = debian.unpacked("base", *_BASE), debian.unpacked("kernel", debian.kernel())
    ramdisk = work / "initrd"
    ramdisk.write_bytes(initrd((base / "usr/bin/busybox").read_bytes(), FACTS[architecture].serial_console))
    _add_base(archive, SUITE, "two-base", architecture, base)
    archive.add(
        SUITE,
        "two-kernel",
        architecture=architecture,
        files={
            f"boot/vmlinuz-{KERNEL}": next((kernel / "boot").glob("vmlinuz-*")),
            f"usr/lib/modules/{KERNEL}/modules.dep": "\n",
            "usr/lib/two/initrd": ramdisk,
            "usr/sbin/update-initramfs": _UPDATE_INITRAMFS,
        },
    )
    if architecture == "arm64":
        archive.add(SUITE, "two-grub", architecture=architecture, trees=[debian.unpacked("grub", *_GRUB)])


def add_debian_base(archive: LocalArchive, suite: str, name: str, architecture: Architecture, work: Path) -> None:
    """The essential package `name` with what a chroot of Debian's own programs needs."""
    _add_base(archive, suite, name, architecture, _Debian(architecture, work).unpacked("base", *_BASE))


def _add_base(archive: LocalArchive, suite: str, name: str, architecture: str, tree: Path) -> None:
    archive.add(
        suite,
        name,
        architecture=architecture,
        fields="Essential: yes\n",
        trees=[tree],
        files=_FILES,
        links=_LINKS | {f"usr/bin/{applet}": "busybox" for applet in _APPLETS},
        folders=_FOLDERS,
    )


def debian_packages(architecture: Architecture, work: Path) -> dict[str, Path]:
    """Unpacked: `kernel`, Debian's newest for clouds, and `base`, a static busybox."""
    debian = _Debian(architecture, work)
    return {"kernel": debian.unpacked("kernel", debian.kernel()), "base": debian.unpacked("base", "busybox-static")}


class _Debian:
    """The packages of one architecture as Debian's mirror has them."""

    def __init__(self, architecture: str, work: Path) -> None:
        self._architecture, self._work = architecture, work
        self._mirror = mirror_for(host_sources(), "debian", _DEBIAN)
        work.mkdir(parents=True)
        index = fetch(f"{self._mirror}/dists/{_DEBIAN}/main/binary-{architecture}/Packages.xz", work / "Packages.xz")
        stanzas = lzma.decompress(index.read_bytes()).decode().split("\n\n")
        self._stanzas = {stanza.partition("\n")[0].removeprefix("Package: "): stanza for stanza in stanzas}

    def kernel(self) -> str:
        newest = Deb822(self._stanzas[f"linux-image-cloud-{self._architecture}"])
        return str(newest["Depends"]).partition(" ")[0]

    def unpacked(self, name: str, *packages: str) -> Path:
        tree = self._work / name
        for package in packages:
            fields = Deb822(self._stanzas[package])
            deb = self._work / "deb"
            fetch(f"{self._mirror}/{fields['Filename']}", deb, sha256=fields["SHA256"], size_bytes=int(fields["Size"]))
            run(["dpkg-deb", "--extract", deb, tree])
            deb.unlink()
        for pattern in _UNWANTED:
            for unwanted in tree.glob(pattern):
                shutil.rmtree(unwanted)
        return tree
