"""A gadget as one file: a tar for the pipeline's own tasks, a squashfs snap for everybody else."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, Field

from coreimage.disk_image.gadget.loading import load_gadget, read_text
from coreimage.errors import NotFoundError, ProcessError, VerificationError
from coreimage.host.process import Run
from coreimage.model import Architecture, ArtifactRef, Value
from coreimage.project.yaml_document import load_yaml
from coreimage.storage import Store, put_blob_bytes, read_blob
from coreimage.tarball import TarWriter, extract, regular

_TAR = "application/x-tar"
SNAP = "application/vnd.snap"
_SQUASHFS_MAGIC = b"hsqs"
_EPOCH = "1"
"""The time of all files of a snap, in seconds: the same files make the same snap."""
_UNPACKED_LIMIT_BYTES = 1 << 30
_SNAP_RESOLUTION = "correct it; docs/gadgets.md says what a gadget's snap.yaml has"


class GadgetDescription(Value):
    """What `meta/snap.yaml` says of a gadget. The keys that only snapd needs are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=40)
    version: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9:.+~-]{0,30}[A-Za-z0-9+~])?$")
    type: Literal["gadget"]
    summary: str = ""
    architectures: tuple[Architecture, ...] = Field(min_length=1, max_length=1)

    @property
    def architecture(self) -> Architecture:
        return self.architectures[0]

    @property
    def device(self) -> str:
        """The device that the gadget is for, as 2015 named it.

        A snap's name has no underscore; that of a device ends with `_<architecture>`.
        """
        stem = self.name.removesuffix(f"-{self.architecture}")
        return f"{stem.replace('-', '_')}_{self.architecture}"


def gadget_name(device: str) -> str:
    """Return the name of a device's gadget."""
    return device.replace("_", "-")


def describe_gadget(folder: Path) -> GadgetDescription:
    """Read `meta/snap.yaml` of a gadget folder.

    Raises:
        ConfigError: Everything that is wrong in it.
    """
    path = folder / "meta" / "snap.yaml"
    text = read_text(path, resolution=_SNAP_RESOLUTION)
    return load_yaml(text, str(path), resolution=_SNAP_RESOLUTION).validate(GadgetDescription)


def pack_gadget(folder: Path, *, store: Store) -> ArtifactRef:
    """Store the files of a gadget folder as a tar, whose bytes depend on their names and contents only.

    Raises:
        ConfigError: The gadget is not valid.
        VerificationError: There are links or special files in it.
    """
    buffer = io.BytesIO()
    with TarWriter(buffer, epoch=0) as tar:
        for path in _checked_files(folder):
            content = path.read_bytes()
            tar.add(regular(path.relative_to(folder).as_posix(), len(content)), content)
    return put_blob_bytes(store, buffer.getvalue(), _TAR)


def unpack_gadget(ref: ArtifactRef, folder: Path, *, store: Store) -> Path:
    """Unpack a gadget of the store to `folder`, and return that.

    Raises:
        VerificationError: There is something else than plain files and folders in it, or it leaves the folder.
        ConfigError: The gadget is not valid.
    """
    extract(io.BytesIO(read_blob(store, ref)), folder, where=ref.uri)
    _checked_files(folder)
    return folder


def pack_snap(folder: Path, target: Path, *, run: Run) -> Path:
    """Make a snap of a gadget folder: the same bytes for the same names and contents.

    Raises:
        ConfigError: The gadget is not valid.
        VerificationError: There are links or special files in it.
    """
    describe_gadget(folder)
    with tempfile.TemporaryDirectory(prefix="snap-", dir=target.parent) as name:
        root = Path(name, "gadget")
        for path in _checked_files(folder):
            copy = root / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy).chmod(0o644)
        for inner in (root, *(path for path in root.rglob("*") if path.is_dir())):
            inner.chmod(0o755)
        fixed = ["-all-root", "-all-time", _EPOCH, "-mkfs-time", _EPOCH, "-no-xattrs", "-no-exports"]
        run(["mksquashfs", root, target, "-noappend", "-no-progress", "-processors", "1", "-comp", "xz", *fixed])
    return target


def open_gadget(package: Path, work_folder: Path, *, run: Run) -> Path:
    """Return the folder of a gadget, which may be one already, or a snap that is unpacked below `work_folder`.

    Raises:
        NotFoundError: It cannot be read.
        VerificationError: It is neither, or damaged, or has links or special files in it.
        ConfigError: The gadget in the snap is not valid.
    """
    if package.is_dir():
        return package
    try:
        with package.open("rb") as file:
            magic = file.read(len(_SQUASHFS_MAGIC))
    except OSError as error:
        raise NotFoundError(
            f"cannot be read: {error.strerror}", where=str(package), resolution="name a gadget snap or its folder"
        ) from error
    if magic != _SQUASHFS_MAGIC:
        raise VerificationError("is no snap", where=str(package), resolution="name a gadget snap, or a folder with one")
    work_folder.mkdir(parents=True, exist_ok=True)
    folder = work_folder / "gadget-snap"
    bounded = ["prlimit", f"--fsize={_UNPACKED_LIMIT_BYTES}", "unsquashfs", "-no-progress", "-no-xattrs", "-quiet"]
    try:
        run([*bounded, "-dest", folder, package])
    except ProcessError as error:
        raise VerificationError(f"is a damaged snap\n{error}", where=str(package), resolution="get it again") from error
    _checked_files(folder)
    return folder


def _checked_files(folder: Path) -> list[Path]:
    """Return the files of a valid gadget, sorted."""
    load_gadget(folder)
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise VerificationError(
                "is neither a file nor a folder", where=str(path), resolution="a gadget holds plain files only"
            )
    return [path for path in paths if path.is_file()]
