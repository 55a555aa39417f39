"""A whole product that is tiny: its chain, from archive to released image, is real and takes seconds.

The archive of `tiny` and beside it a "kernel" and what makes an "initrd", which nothing can boot: its channels have no
gate.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml

from coreimage.signing import Role, create_keys
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.tiny import ROOT_DIR, tiny_archive

RELEASE = "6.1.0-tiny"
_UPDATE_INITRAMFS = f"#!/bin/sh\nset -eu\necho initrd of the modules > /boot/initrd.img-{RELEASE}\n"
_TOOLS = ("busybox", "e2fsprogs", "initramfs-tools", "kmod", "udev", "zstd")


class Product:
    """`folder/project.yaml` is its project; `move_on` is what a distribution does every day."""

    def __init__(
        self,
        folder: Path,
        *,
        channels: tuple[str, ...] = ("tiny/1/edge",),
        devices: dict[str, str] | None = None,
        settings: dict[str, object] | None = None,
    ) -> None:
        self.folder, self.project_file = folder, folder / "project.yaml"
        self.archive = self._archive(folder)
        self._versions = 1
        shutil.copytree(ROOT_DIR / "deployments/gadgets/generic_amd64", folder / "gadget")
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
                name: {"architecture": architecture, "gadget": "gadget", "packages": ["tiny-kernel"]}
                for name, architecture in (devices or {"board_amd64": "amd64"}).items()
            },
            "channels": {
                name: {"series": "1", "devices": list(devices or ["board_amd64"]), "boot_test": []} for name in channels
            },
            **(settings or {}),
        }
        self.write()

    def write(self) -> None:
        self.project_file.write_text(yaml.safe_dump(self.config, sort_keys=False))

    def move_on(self) -> None:
        """A new version of a package."""
        self._versions += 1
        self.archive.add("tiny", "editor", f"{self._versions}.0")
        self.archive.publish()

    @staticmethod
    def _archive(folder: Path) -> LocalArchive:
        key = TestKey.make(folder / "archive-key", "tiny")
        archive = tiny_archive(folder / "archive", key)
        module = f"usr/lib/modules/{RELEASE}/kernel/tiny.ko"
        archive.add("tiny", "tiny-kernel", files={f"boot/vmlinuz-{RELEASE}": "a kernel\n", module: "a module\n"})
        for name in _TOOLS:
            files = {"usr/sbin/update-initramfs": _UPDATE_INITRAMFS} if name == "initramfs-tools" else {}
            archive.add("tiny", name, files=dict(files))
        return archive.publish()


def small_keys(folder: Path) -> Path:
    """Signing keys that are made in a second."""
    create_keys(folder, bits=dict.fromkeys(Role, 2048))
    return folder
