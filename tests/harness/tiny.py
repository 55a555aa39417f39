"""A distribution so small that a chroot of it takes a second: this machine's own dpkg, tar and shell, packed as .debs.

It is real all the same: apt resolves it, mmdebstrap installs it with its own dpkg, hooks run in it. Where it is wanted
for another architecture too, Debian's programs for that take the place of this machine's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from coreimage.host.process import Run, run
from coreimage.model import Architecture, RootfsBuild
from coreimage.project.loading import load_project
from coreimage.rootfs import build_rootfs, machine_architecture, plan_packages, probe_archives, rootfs_spec
from coreimage.storage import open_store
from tests.harness.archive import LocalArchive, TestKey, fetch
from tests.harness.two import add_debian_base

ROOT_DIR = Path(__file__).parents[2]
SUITE = "tiny"
_BASE = "tiny-base"
_PROGRAMS = (
    *("sh", "dpkg", "dpkg-deb", "dpkg-split", "dpkg-query", "dpkg-divert", "dpkg-trigger", "dpkg-statoverride"),
    *("tar", "env", "cat", "ls", "rm", "mkdir", "chmod", "sleep", "id", "sort", "kill", "ps", "touch", "mknod"),
    *("chroot", "mount", "setcap", "ln", "cp", "grep", "diff", "ldconfig", "start-stop-daemon", "find"),
)
_PASSWD = "root:x:0:0:root:/root:/bin/sh\n"
_GROUP = "root:x:0:\nshadow:x:42:\n"
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


def tiny_archive(
    folder: Path,
    key: TestKey,
    *,
    suite: str = SUITE,
    origin: str = "Tiny",
    codename: str = "",
    others: Sequence[Architecture] = (),
) -> LocalArchive:
    """An archive with one suite, for this machine's architecture and `others`; more may be added before the next
    `publish`."""
    own = machine_architecture()
    archive = LocalArchive(folder, key, origin=origin, label=origin, codename=codename, architectures=(own, *others))
    _add_base(archive, suite, own)
    for architecture in others:
        add_debian_base(archive, suite, _BASE, architecture, folder / "debian" / architecture)
    archive.add(suite, "editor", "1.0")
    return archive.publish()


def _add_base(archive: LocalArchive, suite: str, architecture: Architecture) -> None:
    files: dict[str, Path | str] = {"etc/passwd": _PASSWD, "etc/group": _GROUP}
    for name in _PROGRAMS:
        program = _found(name)
        files[f"usr/bin/{name}"] = program
        files |= _libraries(program)
    files["usr/bin/systemctl"] = '#!/bin/sh\necho "$@" >> /etc/systemctl-calls\n'
    essential = "Essential: yes\n"
    archive.add(suite, _BASE, architecture=architecture, fields=essential, files=files, links=_LINKS, folders=_FOLDERS)


def _found(name: str) -> Path:
    places = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
    return next(path.resolve() for place in places if (path := Path(place, name)).exists())


def _libraries(program: Path) -> dict[str, Path | str]:
    """Where the loader looks for them, below /usr: the loader itself included."""
    found = re.findall(r"(/\S+) \(0x", run(["ldd", program], accept=(0, 1)).output)
    return {f"usr/{path.removeprefix('/usr').lstrip('/')}": Path(path).resolve() for path in found}


def tiny_project(folder: Path, archive: LocalArchive, *changes: tuple[str, str]) -> Path:
    """tests/projects/tiny.yaml in `folder`, with its key beside it; each change replaces a text that must be there."""
    text = (ROOT_DIR / "tests/projects/tiny.yaml").read_text()
    for old, new in (("@ARCHIVE@", archive.uri), *changes):
        assert old in text
        text = text.replace(old, new)
    (folder / "archive.asc").write_bytes(archive.key.public.read_bytes())
    (folder / "project.yaml").write_text(text)
    return folder / "project.yaml"


def build_tiny(project: Path, store_url: str, by: Run = run) -> RootfsBuild:
    store = open_store(store_url)
    spec = rootfs_spec(load_project(project), "tiny/1/edge", "amd64", store=store)
    releases = probe_archives(spec.archives, store=store, fetch=fetch, run=run)
    lock = plan_packages(spec, releases, None, tools={}, store=store, fetch=fetch, run=by)
    return build_rootfs(spec, lock, store=store, fetch=fetch, run=by)
