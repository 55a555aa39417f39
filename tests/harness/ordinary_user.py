"""Runs a command as an ordinary user with subordinate ids, also when the tests run as root.

Root enters a mount namespace of its own, where /etc/passwd, /etc/subuid and their like are replaced by copies that know
one more user: nothing changes on the machine. An ordinary user needs none of this and runs the command as it is.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT_DIR = Path(__file__).parents[2]
UID = 42_420

_SCRIPT = r"""
set -eu
home=$1 uid=$2; shift 2
mount --make-rprivate /
accounts=$(mktemp -d)
mount -t tmpfs none "$accounts"
cp /etc/passwd /etc/group "$accounts/"
echo "tester:x:$uid:$uid::$home:/bin/sh" >> "$accounts/passwd"
echo "tester:x:$uid:" >> "$accounts/group"
echo "tester:300000:65536" | tee "$accounts/subuid" > "$accounts/subgid"
for name in passwd group subuid subgid; do mount --bind "$accounts/$name" "/etc/$name"; done
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
"""


def as_ordinary_user(argv: list[str], home: Path) -> list[str]:
    """`argv` so that it runs as an ordinary user; for root, a tester who owns `home` and sees a clean environment."""
    if os.geteuid() != 0:
        return argv
    os.chown(home, UID, UID)
    environment = [f"HOME={home}", "USER=tester", f"PATH={os.environ['PATH']}", f"PYTHONPATH={python_path()}"]
    certificates = [f"{name}={os.environ[name]}" for name in ("SSL_CERT_FILE",) if name in os.environ]
    return [
        *("unshare", "--mount", "--", "sh", "-c", _SCRIPT, "sh", str(home), str(UID)),
        *("env", "-i", *environment, *certificates, *argv),
    ]


def python_path() -> str:
    """Where an interpreter other than the tests' own finds this project and its packages."""
    return os.pathsep.join(path for path in [str(ROOT_DIR), *sys.path] if "site-packages" in path or path == str(ROOT_DIR))


def python() -> str:
    """An interpreter of this version that every user may start."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    return system if Path(system).exists() else sys.executable
