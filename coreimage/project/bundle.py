"""A project in the store: its file and all that the file names, for workers on other machines.

A bundle is `projects/<project>/<sha256>.tar`, written once. A project in the store has the name
`store:projects/<project>/<sha256>.tar/<path of the project file in it>`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from coreimage.errors import LostWriteError, UsageError, VerificationError
from coreimage.project.config import Project
from coreimage.project.loading import load_project
from coreimage.storage import Store
from coreimage.tarball import Limits, TarWriter, extract

_TAR = "application/x-tar"
_NAME = re.compile(r"store:(?P<key>projects/[^/]+/(?P<sha256>[0-9a-f]{64})\.tar)/(?P<path>.+)")
_LIMITS = Limits(members=100_000, total_bytes=1 << 30)
_GNUPG_KEYS = "private-keys-v1.d"
"""Where GnuPG keeps private keys in a home, such as those of a keys folder."""
_PRIVATE_KEY = re.compile(rb"-----BEGIN PGP PRIVATE KEY BLOCK-----|private-keys-v1\.d/[0-9A-F]{40}\.key")
"""An armoured key, or a name in an uncompressed archive of a keys folder."""
_unpacked: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""The bundles that this process has unpacked, by SHA-256; the folders are removed when it ends."""


def open_project(name: str, *, store: Store) -> Project:
    """Load a project from a file of this machine, or from the store.

    Args:
        name: The path of a project file, or a name that `store_project` returned, on whatever machine.
        store: Where bundles are.

    Raises:
        UsageError: The file cannot be read, or the name is none.
        ConfigError: Something is wrong in the project file.
        NotFoundError: The bundle is not in the store.
        VerificationError: The bundle is not what was stored under its name.
    """
    if not name.startswith("store:"):
        return load_project(Path(name))
    match = _NAME.fullmatch(name)
    if match is None:
        raise UsageError(f"{name!r} names no project", resolution="name a file, or what `coreimage deploy` prints")
    key, sha256 = match["key"], match["sha256"]
    if sha256 not in _unpacked:
        with store.open(key) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise VerificationError("is not the project that was put there", where=key, resolution="deploy it again")
        folder = tempfile.TemporaryDirectory(prefix="coreimage-project-")
        extract(io.BytesIO(content), Path(folder.name), where=key, limits=_LIMITS)
        _unpacked[sha256] = folder
    return load_project(Path(_unpacked[sha256].name) / match["path"])


def store_project(project_file: Path, *, store: Store) -> str:
    """Put a project into the store, and return its name there. The same project always has the same name."""
    content, key, path = _bundle(project_file)
    with suppress(LostWriteError):
        store.put_bytes(key, content, media_type=_TAR, if_absent=True)
    return f"store:{key}/{path}"


def project_name(project_file: Path) -> str:
    """Return the name that `store_project` would give a project, without storing it."""
    _, key, path = _bundle(project_file)
    return f"store:{key}/{path}"


def _bundle(project_file: Path) -> tuple[bytes, str, str]:
    """The bundle of a project, its key in the store, and the path of the project file in it."""
    project = load_project(project_file)
    content, path = pack_project(project, project_file)
    return content, f"projects/{project.config.project}/{hashlib.sha256(content).hexdigest()}.tar", path


def pack_project(project: Project, project_file: Path) -> tuple[bytes, str]:
    """Pack a project file and all that it names, each at its place below the folder that holds all of it.

    Returns:
        The tar, of which the bytes depend on nothing but the files, and the path of the project file in it.

    Raises:
        UsageError: Something that the project file names is not there, or it holds private OpenPGP keys: whoever may
            read the store could sign with them.
    """
    own = Path(os.path.normpath(project_file.absolute()))
    named = [Path(os.path.normpath(project.path(path))) for path in named_paths(project)]
    missing = [path for path in named if not path.exists()]
    if missing:
        raise UsageError("does not exist", where=str(missing[0]), resolution="mend its path in the project file")
    top = Path(os.path.commonpath([own.parent, *(path.parent for path in named)]))
    paths = sorted({own, *(file for path in named for file in _with_contents(path))})
    for path in paths:
        if _is_private_key(path):
            raise UsageError(
                "a private key would go into the store with the project",
                where=str(path),
                resolution="keep keys out of what the project file names, such as an overlay or a folder of hooks",
            )
    buffer = io.BytesIO()
    with TarWriter(buffer, epoch=0) as tar:
        tar.add_tree(top, paths=paths)
    return buffer.getvalue(), own.relative_to(top).as_posix()


def named_paths(project: Project) -> list[str]:
    """Return every file and folder that a project file names, as it names them."""
    config = project.config
    paths = [archive.key for archive in config.tools.archives]
    for series in config.series.values():
        paths += [archive.key for archive in series.archives]
        paths += [archive.key for archive in series.extra_archives]
        paths += [series.rootfs.overlay, *series.rootfs.hooks, series.custom.overlay if series.custom else None]
    paths += [device.gadget for device in config.devices.values()]
    for channel in config.channels.values():
        for component in channel.components:
            paths += [component.file, component.image.keyring if component.image else None]
    return [path for path in paths if path]


def _with_contents(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")


def _is_private_key(path: Path) -> bool:
    """Return whether a file is a private OpenPGP key: in a GnuPG home, armoured, or in a backup of a keys folder."""
    if _GNUPG_KEYS in path.parts:
        return True
    return path.is_file() and _PRIVATE_KEY.search(path.read_bytes()) is not None
