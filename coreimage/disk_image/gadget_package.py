"""A gadget folder as one artifact, so that a stage needs no folder of the machine it was planned on."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from coreimage.disk_image.gadget import load_gadget
from coreimage.errors import VerificationError
from coreimage.model import ArtifactRef
from coreimage.storage import Store, put_blob_bytes, read_blob

TAR = "application/x-tar"


def pack_gadget(folder: Path, *, store: Store) -> ArtifactRef:
    """Checks a gadget folder and stores its files as a tar whose bytes depend on their names and contents only.

    Raises ConfigError when the gadget is not valid, VerificationError for links and special files in it.
    """
    load_gadget(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise VerificationError(
                    "is neither a file nor a folder", where=str(path), resolution="a gadget holds plain files only"
                )
            if path.is_file():
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
