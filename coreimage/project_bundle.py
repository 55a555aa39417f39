"""A project in the store: its file and all that it names, so that a worker needs no folder of the machine it came from.

`projects/<project>/<sha256>.tar`, written once. The name of a project in the store is
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

from coreimage.config import Project, ProjectConfig, load_project
from coreimage.errors import ConflictError, UsageError, VerificationError
from coreimage.storage import Store
from coreimage.tarball import Limits, MemberCheck, TarWriter, extract

_TAR = "application/x-tar"
_NAME = re.compile(r"store:(?P<key>projects/[^/]+/(?P<sha256>[0-9a-f]{64})\.tar)/(?P<path>.+)")
_LIMITS = Limits(members=100_000, total_bytes=1 << 30)
_folders: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""By digest; they are removed when the process ends."""


def open_project(name: str, *, store: Store) -> Project:
    """The project of a file, or of a name that `store_project` gave, wherever that was.

    Raises UsageError, ConfigError, NotFoundError, and VerificationError when the store has other bytes than were put.
    """
    if not name.startswith("store:"):
        return load_project(Path(name))
    found = _NAME.fullmatch(name)
    if found is None:
        raise UsageError(f"{name!r} names no project", resolution="name a file, or what `coreimage deploy` prints")
    return load_project(_unpacked(found["key"], found["sha256"], store) / found["path"])


def store_project(project_file: Path, *, store: Store) -> str:
    """Puts a project into the store, and gives its name there. The same project has the same name."""
    content, key, path = _packed(project_file)
    with suppress(ConflictError):
        store.put_bytes(key, content, media_type=_TAR, if_absent=True)
    return f"store:{key}/{path}"


def project_name(project_file: Path) -> str:
    """The name that `store_project` would give."""
    _, key, path = _packed(project_file)
    return f"store:{key}/{path}"


def _packed(project_file: Path) -> tuple[bytes, str, str]:
    """The bundle, its key, and the project file's path in it."""
    project = load_project(project_file)
    content, path = pack_project(project, project_file)
    return content, f"projects/{project.config.project}/{hashlib.sha256(content).hexdigest()}.tar", path


def pack_project(project: Project, project_file: Path) -> tuple[bytes, str]:
    """A tar of the project file and what it names, at their places below the folder that holds all of it; and the
    project file's path there. Its bytes depend on nothing else. Raises UsageError for what is not there."""
    own = Path(os.path.normpath(project_file.absolute()))
    named = [Path(os.path.normpath(project.path(path))) for path in named_paths(project)]
    missing = [path for path in named if not path.exists()]
    if missing:
        raise UsageError("does not exist", where=str(missing[0]), resolution="mend its path in the project file")
    top = Path(os.path.commonpath([own.parent, *(path.parent for path in named)]))
    buffer = io.BytesIO()
    with TarWriter(buffer, epoch=0) as tar:
        tar.add_tree(top, paths=sorted({own, *(file for path in named for file in _files(path))}))
    return buffer.getvalue(), own.relative_to(top).as_posix()


def named_paths(project: Project) -> list[str]:
    """Every file and folder that a project file names, as it names them."""
    config = project.config
    series = list(config.series.values())
    archives = [*config.tools.archives, *(archive for one in series for archive in one.archives)]
    keys = [archive.key for archive in archives if archive.key]
    extra_keys = [archive.key for one in series for archive in one.extra_archives]
    overlays = [one.rootfs.overlay for one in series if one.rootfs.overlay]
    overlays += [one.custom.overlay for one in series if one.custom]
    hooks = [hook for one in series for hook in one.rootfs.hooks]
    gadgets = [device.gadget for device in config.devices.values()]
    return [*keys, *extra_keys, *overlays, *hooks, *gadgets, *_named_by_components(config)]


def _named_by_components(config: ProjectConfig) -> Iterator[str]:
    for channel in config.channels.values():
        for component in channel.components:
            image = component.image
            yield from filter(None, (component.file, image.keyring if image else None))


def _files(path: Path) -> Iterator[Path]:
    yield path
    if path.is_dir():
        yield from path.rglob("*")


def _unpacked(key: str, sha256: str, store: Store) -> Path:
    """Where the project lies on this machine, until this process ends."""
    if sha256 not in _folders:
        with store.open(key) as file:
            content = file.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise VerificationError("is not the project that was put there", where=key, resolution="deploy it again")
        folder = tempfile.TemporaryDirectory(prefix="coreimage-project-")
        extract(io.BytesIO(content), Path(folder.name), MemberCheck(where=key, limits=_LIMITS))
        _folders[sha256] = folder
    return Path(_folders[sha256].name)
