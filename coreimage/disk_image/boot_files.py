"""What goes on system-boot: the boot loader's own, the kernel of slot a, the gadget's files, how the image was made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import yaml

from coreimage.boot_loader import EFI_FILES, FOLDER
from coreimage.disk_image import grub, uboot
from coreimage.disk_image.gadget import Bootloader, Gadget, InnerPath
from coreimage.disk_image.layout import ImageIdentity
from coreimage.errors import BuildError
from coreimage.process import Run

FOLDERS: dict[Bootloader, str] = {"grub": FOLDER, "u-boot": ""}
"""Where a boot loader has a/, b/ and the state of the slots: below the root of system-boot."""
RECORD = "install.yaml"

BootFiles = dict[str, Path | None]
"""Path on the filesystem to the file that goes there, or to None for an empty folder."""


def boot_files(
    tree: Path, gadget: Gadget, gadget_folder: Path, identity: ImageIdentity, record: str, *, work: Path, run: Run
) -> BootFiles:
    """`tree` is what the tarballs unpacked to; `record` says how the image was made, for its own updater.

    Raises BuildError when the tarballs have no kernel, or the gadget puts two files in one place.
    """
    loader = gadget.volume.bootloader
    folder = PurePosixPath(FOLDERS[loader])
    made = work / "boot"
    made.mkdir()
    (made / RECORD).write_text(record, "utf-8")
    files: BootFiles = {str(folder / "b"): None, str(folder / RECORD): made / RECORD}
    files |= {path.relative_to(tree / "boot").as_posix(): path for path in files_below(tree / "boot")}
    files |= {str(folder / "a" / name): path for name, path in kernel_files(tree).items()}
    files |= gadget_files(gadget, gadget_folder, identity, made)
    if loader == "grub":
        own = EFI_FILES[identity.architecture][1] in files
        files |= _grub_files(identity, made, brings_grub=own, run=run)
    else:
        files |= _uboot_files(made)
    return files


def kernel_files(tree: Path) -> dict[str, Path]:
    """hardware.yaml and what it names: kernel, initrd and, below `dtbs/`, device trees if there are any.

    Raises BuildError when one of them is absent.
    """
    hardware = tree / "hardware.yaml"
    if not hardware.is_file():
        raise BuildError(
            "no tarball has a hardware.yaml", resolution="give the device tarball too: it holds kernel and initrd"
        )
    described = yaml.safe_load(hardware.read_text("utf-8")) or {}
    found = {"hardware.yaml": hardware}
    for key, name in (("kernel", "vmlinuz"), ("initrd", "initrd.img")):
        found[name] = _named(tree, described, key, folder=False)
    if "dtbs" in described:
        dtbs = _named(tree, described, "dtbs", folder=True)
        found |= {f"dtbs/{path.relative_to(dtbs).as_posix()}": path for path in files_below(dtbs)}
    return found


def _named(tree: Path, described: Mapping[str, object], key: str, *, folder: bool) -> Path:
    inner = PurePosixPath(str(described.get(key, "")))
    path = (tree / inner).resolve()
    there = path.is_dir() if folder else path.is_file()
    if not there or not path.is_relative_to(tree.resolve()):
        raise BuildError(f"{key} {str(inner)!r} is not in the tarballs", where="hardware.yaml")
    return path


def gadget_files(gadget: Gadget, folder: Path, identity: ImageIdentity, made: Path) -> BootFiles:
    """Copies, since their times are set; sources of U-Boot scripts become scripts."""
    files: BootFiles = {}
    for structure in gadget.structures:
        for content in structure.content:
            if content.source is None or content.target is None:
                continue
            source = folder / content.source
            for path in files_below(source) if source.is_dir() else [source]:
                inner = path.relative_to(source).as_posix() if source.is_dir() else ""
                target = _target(content.source, content.target, inner)
                if target in files:
                    raise BuildError(
                        f"two of its files go to {target}",
                        where=f"structure {structure.name}",
                        resolution="mend their targets in meta/gadget.yaml",
                    )
                files[target] = _copied(path, made / "gadget" / target, identity)
    return files


def _target(source: InnerPath, target: str, inner: str) -> str:
    """As in snapd: a source or target that ends with a slash is a folder, whose content goes into the target."""
    if inner:
        return str(PurePosixPath(target) / inner)
    return str(PurePosixPath(target) / PurePosixPath(source).name) if target.endswith("/") or target == "." else target


def _copied(path: Path, copy: Path, identity: ImageIdentity) -> Path:
    copy.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == uboot.SOURCE_SUFFIX and copy.suffix == uboot.SCRIPT_SUFFIX:
        copy.write_bytes(uboot.script(path.read_bytes(), identity.architecture, identity.epoch))
        return copy
    return Path(shutil.copyfile(path, copy))


def _grub_files(identity: ImageIdentity, made: Path, *, brings_grub: bool, run: Run) -> BootFiles:
    """`brings_grub`: the tarballs have a GRUB for UEFI, which is as old or new as the rest of the system."""
    (made / "grubenv").write_bytes(grub.grubenv(grub.INITIAL_STATE))
    files: BootFiles = {f"{FOLDER}/grubenv": made / "grubenv"}
    if not brings_grub:
        _, efi_name = EFI_FILES[identity.architecture]
        files[efi_name] = grub.efi_image(identity.architecture, made / "grub.efi", identity.epoch, run=run)
    return files


def _uboot_files(made: Path) -> BootFiles:
    (made / uboot.STATE_FILE).write_bytes(uboot.state(grub.INITIAL_STATE))
    return {uboot.STATE_FILE: made / uboot.STATE_FILE}


def install_record(
    identity: ImageIdentity, part_names: Sequence[str], size_bytes: int | None, options: Mapping[str, object]
) -> str:
    """How an image was made (2015's install.yaml, device-flash §4.7): a device with `rootfs-part` or `device-part`
    among its options takes no updates by itself. Nothing in it depends on when or where it was made.
    """
    said = {"size": size_bytes, **options}
    record = {
        "meta": {
            "timestamp": identity.epoch,
            "channel": identity.channel,
            "device": identity.device,
            "architecture": identity.architecture,
            "initial-version": identity.version,
        },
        "tool": {"name": "coreimage", "version": version("coreimage")},
        "options": {key: value for key, value in said.items() if value},
        "parts": list(part_names),
    }
    return yaml.safe_dump(record, sort_keys=True)


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
