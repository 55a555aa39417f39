"""A distribution so small that a chroot of it takes a second: this machine's own dpkg, tar and shell, packed as .debs.

It is real all the same: apt resolves it, mmdebstrap installs it with its own dpkg, hooks run in it.
"""

from __future__ import annotations

import re
from pathlib import Path

from coreimage.process import run
from tests.harness.archive import LocalArchive, TestKey

SUITE = "tiny"
_PROGRAMS = (
    *("sh", "dpkg", "dpkg-deb", "dpkg-split", "dpkg-query", "dpkg-divert", "dpkg-trigger", "dpkg-statoverride"),
    *("tar", "env", "cat", "ls", "rm", "mkdir", "chmod", "sleep", "id", "sort", "kill", "ps", "touch", "mknod"),
    *("chroot", "mount", "setcap", "ln", "cp", "grep", "diff", "ldconfig", "start-stop-daemon"),
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


def tiny_archive(folder: Path, key: TestKey) -> LocalArchive:
    """An archive with the suite `tiny`; more may be added before the next `publish`."""
    archive = LocalArchive(folder, key, origin="Tiny", label="Tiny")
    files: dict[str, Path | str] = {"etc/passwd": _PASSWD, "etc/group": _GROUP}
    for name in _PROGRAMS:
        program = _found(name)
        files[f"usr/bin/{name}"] = program
        files |= _libraries(program)
    files["usr/bin/systemctl"] = '#!/bin/sh\necho "$@" >> /etc/systemctl-calls\n'
    archive.add(SUITE, "tiny-base", fields="Essential: yes\n", files=files, links=_LINKS, folders=_FOLDERS)
    archive.add(SUITE, "editor", "1.0")
    return archive.publish()


def _found(name: str) -> Path:
    places = ("/usr/bin", "/usr/sbin", "/bin", "/sbin")
    return next(path.resolve() for place in places if (path := Path(place, name)).exists())


def _libraries(program: Path) -> dict[str, Path | str]:
    """Where the loader looks for them, below /usr: the loader itself included."""
    found = re.findall(r"(/\S+) \(0x", run(["ldd", program], accept=(0, 1)).output)
    return {f"usr/{path.removeprefix('/usr').lstrip('/')}": Path(path).resolve() for path in found}
