"""A gadget as one file: a tar for the pipeline's own stages, a squashfs snap for everybody else."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Literal

import yaml
from pydantic import ConfigDict, Field, ValidationError

from coreimage.disk_image.gadget import load_gadget
from coreimage.errors import ConfigError, NotFoundError, Problem, ProcessError, UsageError, VerificationError
from coreimage.model import Architecture, ArtifactRef, Value
from coreimage.process import Run
from coreimage.storage import Store, put_blob_bytes, read_blob

TAR = "application/x-tar"
SNAP = "application/vnd.snap"
_MAGIC = b"hsqs"
_EPOCH = "1"
"""Times in a gadget say nothing: the same files make the same snap."""
_UNPACKED_LIMIT_BYTES = 1 << 30


class GadgetDescription(Value):
    """What `meta/snap.yaml` says of a gadget; the keys that only snapd needs are not read."""

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
        """2015's name of the device: a snap's name has no underscore, a device's ends with `_<architecture>`."""
        stem = self.name.removesuffix(f"-{self.architecture}")
        return f"{stem.replace('-', '_')}_{self.architecture}"


def gadget_name(device: str) -> str:
    """What the gadget of a device is called."""
    return device.replace("_", "-")


def describe_gadget(folder: Path) -> GadgetDescription:
    """Raises ConfigError for what is wrong in `meta/snap.yaml`."""
    path = folder / "meta" / "snap.yaml"
    try:
        return GadgetDescription.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problems = [Problem("(file)", f"cannot be read: {error}")]
    except ValidationError as error:
        problems = [Problem(".".join(map(str, e["loc"])) or "(top)", str(e["msg"])) for e in error.errors()]
    raise ConfigError(str(path), problems, resolution="mend it; docs/gadgets.md says what a gadget's snap.yaml has")


def pack_gadget(folder: Path, *, store: Store) -> ArtifactRef:
    """Checks a gadget folder and stores its files as a tar whose bytes depend on their names and contents only.

    Raises ConfigError when the gadget is not valid, VerificationError for links and special files in it.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in _checked_files(folder):
            content = path.read_bytes()
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size, member.mode = len(content), 0o644
            tar.addfile(member, io.BytesIO(content))
    return put_blob_bytes(store, buffer.getvalue(), TAR)


def unpack_gadget(ref: ArtifactRef, folder: Path, *, store: Store) -> Path:
    """The gadget in `folder`. Raises VerificationError for anything but plain files inside it."""
    with tarfile.open(fileobj=io.BytesIO(read_blob(store, ref)), mode="r:") as tar:
        for member in tar:
            parts = member.name.split("/")
            if not member.isreg() or any(part in {"", ".", ".."} for part in parts):
                raise VerificationError(f"member {member.name!r} is no plain file inside", where=ref.uri)
            source = tar.extractfile(member)
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(source.read() if source else b"")
    return folder


def pack_snap(folder: Path, target: Path, *, run: Run) -> Path:
    """Checks a gadget folder and makes a snap of it: the same bytes for the same names and contents."""
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
    """The folder of a gadget that is a folder already, or a snap. Raises VerificationError for another file."""
    if package.is_dir():
        return package
    try:
        with package.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise NotFoundError(
            f"cannot be read: {error.strerror}", where=str(package), resolution="name a gadget snap or its folder"
        ) from error
    if magic != _MAGIC:
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
    """The files of a valid gadget, sorted."""
    load_gadget(folder)
    paths = sorted(folder.rglob("*"))
    bad = next((path for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())), None)
    if bad:
        raise VerificationError(
            "is neither a file nor a folder", where=str(bad), resolution="a gadget holds plain files only"
        )
    return [path for path in paths if path.is_file()]


def require_architecture(found: GadgetDescription, architecture: Architecture, where: str) -> None:
    if found.architecture != architecture:
        raise UsageError(
            f"the gadget is for {found.architecture}, and the image is for {architecture}",
            where=where,
            resolution="name another gadget with --oem, or another device",
        )
