"""Which files go on the boot partition: the boot loader's, the kernel of slot a, the gadget's, the install record."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import yaml

from coreimage.architecture.facts import FACTS
from coreimage.disk_image.boot_loaders import (
    FOLDERS,
    GRUB_ENVIRONMENT,
    INITIAL_STATE,
    SCRIPT_SOURCE_SUFFIX,
    SCRIPT_SUFFIX,
    UBOOT_ENVIRONMENT,
    grub_environment,
    make_efi_grub,
    uboot_environment,
    uboot_script,
)
from coreimage.disk_image.gadget.structure import Content, Gadget
from coreimage.disk_image.install_record import INSTALL_RECORD
from coreimage.disk_image.layout import ImageIdentity
from coreimage.errors import BuildError
from coreimage.host.process import Run

BootFiles = dict[str, Path | None]
"""Path on the filesystem to the file that goes there, or to None for an empty folder."""


def boot_files(
    tree: Path, gadget: Gadget, gadget_folder: Path, identity: ImageIdentity, record: str, *, work: Path, run: Run
) -> BootFiles:
    """Collect the files of the boot partition. The gadget's take the place of those in the tarballs.

    Args:
        tree: What the tarballs unpacked to, without `system/` and `writable/`.
        gadget: Whose boot loader and files are used.
        gadget_folder: Where its files are.
        identity: What the image is of.
        record: The text of the install record.
        work: A folder for files that are made here.
        run: Starts programs.

    Raises:
        BuildError: The tarballs have no kernel, or the gadget puts two files in one place.
        HostError: A GRUB must be made, and there is none for the architecture.
    """
    loader = gadget.volume.bootloader
    folder = PurePosixPath(FOLDERS[loader])
    scratch = work / "boot"
    scratch.mkdir()
    (scratch / INSTALL_RECORD).write_text(record, "utf-8")
    files: BootFiles = {str(folder / "b"): None, str(folder / INSTALL_RECORD): scratch / INSTALL_RECORD}
    files |= {path.relative_to(tree / "boot").as_posix(): path for path in _files_below(tree / "boot")}
    files |= {str(folder / "a" / name): path for name, path in _kernel_files(tree).items()}
    files |= _gadget_files(gadget, gadget_folder, identity, scratch)
    if loader == "u-boot":
        (scratch / UBOOT_ENVIRONMENT).write_bytes(uboot_environment(INITIAL_STATE))
        return files | {UBOOT_ENVIRONMENT: scratch / UBOOT_ENVIRONMENT}
    (scratch / GRUB_ENVIRONMENT).write_bytes(grub_environment(INITIAL_STATE))
    files[str(folder / GRUB_ENVIRONMENT)] = scratch / GRUB_ENVIRONMENT
    # A GRUB in the tarballs is as old or new as the rest of the system.
    efi_path = FACTS[identity.architecture].efi_path
    if efi_path not in files:
        files[efi_path] = make_efi_grub(identity.architecture, scratch / "grub.efi", identity.epoch, run=run)
    return files


def _kernel_files(tree: Path) -> dict[str, Path]:
    """Return hardware.yaml and what it names: kernel, initrd and, below `dtbs/`, device trees if there are any."""
    hardware = tree / "hardware.yaml"
    if not hardware.is_file():
        raise BuildError(
            "no tarball has a hardware.yaml", resolution="give the device tarball too: it holds kernel and initrd"
        )
    described = yaml.safe_load(hardware.read_text("utf-8")) or {}
    files = {"hardware.yaml": hardware}
    for key, name in (("kernel", "vmlinuz"), ("initrd", "initrd.img")):
        files[name] = _named_path(tree, described, key)
    if "dtbs" in described:
        dtbs = _named_path(tree, described, "dtbs")
        files |= {f"dtbs/{path.relative_to(dtbs).as_posix()}": path for path in _files_below(dtbs)}
    return files


def _named_path(tree: Path, described: Mapping[str, object], key: str) -> Path:
    inner = PurePosixPath(str(described.get(key, "")))
    path = (tree / inner).resolve()
    exists = path.is_dir() if key == "dtbs" else path.is_file()
    if not exists or not path.is_relative_to(tree.resolve()):
        raise BuildError(f"{key} {str(inner)!r} is not in the tarballs", where="hardware.yaml")
    return path


def _gadget_files(gadget: Gadget, folder: Path, identity: ImageIdentity, scratch: Path) -> BootFiles:
    """Copy the gadget's files, since their times are going to be set; sources of U-Boot scripts become scripts."""
    files: BootFiles = {}
    for structure in gadget.structures:
        for content in structure.content:
            for target, path in _placed(content, folder):
                if target in files:
                    raise BuildError(
                        f"two of its files go to {target}",
                        where=f"structure {structure.name}",
                        resolution="change their targets in meta/gadget.yaml",
                    )
                files[target] = copy = scratch / "gadget" / target
                copy.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == SCRIPT_SOURCE_SUFFIX and copy.suffix == SCRIPT_SUFFIX:
                    copy.write_bytes(uboot_script(path.read_bytes(), identity.architecture, identity.epoch))
                else:
                    shutil.copyfile(path, copy)
    return files


def _placed(content: Content, folder: Path) -> list[tuple[str, Path]]:
    """Return the files of a content, each with its path on the filesystem, as snapd places them.

    A source that is a folder goes into the target; a file does where the target ends with a slash.
    """
    if content.source is None or content.target is None:
        return []
    source, target = folder / content.source, PurePosixPath(content.target)
    if source.is_dir():
        return [(str(target / path.relative_to(source).as_posix()), path) for path in _files_below(source)]
    into_folder = content.target.endswith("/") or content.target == "."
    return [(str(target / source.name) if into_folder else content.target, source)]


def _files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
