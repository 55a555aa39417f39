"""A whole product that is tiny: its chain, from archive to released image, is real and takes seconds.

The archive of `tiny` and beside it a "kernel" and what makes an "initrd", which nothing can boot: its channels have no
gate. A bootable one has Debian's kernel and an initrd that shows a login prompt. Devices of arm64 have U-Boot.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from coreimage.model import Architecture
from coreimage.rootfs import machine_architecture
from coreimage.signing import Role, create_keys
from tests.boot.synthetic import initrd, kernel_and_busybox
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.tiny import ROOT_DIR, tiny_archive

RELEASE = "6.1.0-tiny"
_INITRD = "usr/lib/tiny/initrd"
_UPDATE_INITRAMFS = f"#!/bin/sh\nset -eu\ncp /{_INITRD} /boot/initrd.img-{RELEASE}\n"
KERNEL = "tiny-kernel"
_NO_KERNEL: dict[str, Path | str] = {
    f"boot/vmlinuz-{RELEASE}": "a kernel\n",
    f"usr/lib/modules/{RELEASE}/kernel/tiny.ko": "a module\n",
    _INITRD: "initrd of the modules\n",
}
_GADGETS: Mapping[Architecture, tuple[str, str]] = {
    "amd64": ("gadget", "generic_amd64"),
    "arm64": ("gadget_arm64", "uboot_arm64"),
}
"""By architecture: the gadget's folder here, and where it is from."""
_TOOLS = ("busybox", "e2fsprogs", "initramfs-tools", "kmod", "udev")


class Product:
    """`folder/project.yaml` is its project; `move_on` is what a distribution does every day."""

    def __init__(
        self,
        folder: Path,
        *,
        channels: tuple[str, ...] = ("tiny/1/edge",),
        devices: Mapping[str, Architecture] | None = None,
        settings: dict[str, object] | None = None,
        bootable: bool = False,
    ) -> None:
        self.folder, self.project_file = folder, folder / "project.yaml"
        self.kernel_files = _bootable(folder) if bootable else _NO_KERNEL
        devices = devices or {"board_amd64": "amd64"}
        architectures = sorted(set(devices.values()))
        self.archive = self._archive(folder, architectures)
        self._versions = 1
        for architecture in architectures:
            name, own = _GADGETS[architecture]
            shutil.copytree(ROOT_DIR / "deployments/gadgets" / own, folder / name)
        (folder / "archive.asc").write_bytes(self.archive.key.public.read_bytes())
        self.config = {
            "project": "tiny",
            "series": {
                "1": {
                    "codename": "tiny",
                    "archives": [{"uri": self.archive.uri, "suites": ["tiny"], "key": "archive.asc"}],
                    "rootfs": {"packages": ["editor"]},
                }
            },
            "devices": {
                name: {"architecture": architecture, "gadget": _GADGETS[architecture][0], "packages": [KERNEL]}
                for name, architecture in devices.items()
            },
            "channels": {name: {"series": "1", "devices": list(devices), "boot_test": []} for name in channels},
            **(settings or {}),
        }
        self.write()

    def write(self) -> None:
        self.project_file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def move_on(self, package: str = "editor", files: Mapping[str, Path | str] | None = None) -> Path:
        """A new version of a package: its .deb."""
        self._versions += 1
        content = files or (self.kernel_files if package == KERNEL else {})
        self.archive.add("tiny", package, f"{self._versions}.0", files=content)
        self.archive.publish()
        return next(self.archive.folder.glob(f"pool/**/{package}_{self._versions}.0_*.deb"))

    def _archive(self, folder: Path, architectures: Sequence[Architecture]) -> LocalArchive:
        key = TestKey.make(folder / "archive-key", "tiny")
        others = [name for name in architectures if name != machine_architecture()]
        archive = tiny_archive(folder / "archive", key, others=others)
        archive.add("tiny", KERNEL, files=self.kernel_files)
        for name in _TOOLS:
            files = {"usr/sbin/update-initramfs": _UPDATE_INITRAMFS} if name == "initramfs-tools" else {}
            archive.add("tiny", name, files=dict(files))
        return archive.publish()


def _bootable(folder: Path) -> dict[str, Path | str]:
    work = folder / "kernel"
    work.mkdir(parents=True)
    kernel, busybox = kernel_and_busybox(work)
    (work / "vmlinuz").write_bytes(kernel)
    (work / "initrd").write_bytes(initrd(busybox))
    return {**_NO_KERNEL, f"boot/vmlinuz-{RELEASE}": work / "vmlinuz", _INITRD: work / "initrd"}


def small_keys(folder: Path) -> Path:
    """Signing keys that are made in a second."""
    create_keys(folder, bits=dict.fromkeys(Role, 2048))
    return folder
