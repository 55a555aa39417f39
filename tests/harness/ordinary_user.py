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
kept=$(mktemp -d)
mount -t tmpfs none "$kept"
cp /etc/passwd /etc/group "$kept/"
echo "tester:x:$uid:$uid::$home:/bin/sh" >> "$kept/passwd"
echo "tester:x:$uid:" >> "$kept/group"
echo "tester:300000:65536" | tee "$kept/subuid" > "$kept/subgid"
for name in passwd group subuid subgid; do mount --bind "$kept/$name" "/etc/$name"; done
hidden=$1; shift
while [ "$1" != -- ]; do
    mkdir -p "$kept/tree/$1"
    mount --rbind "$1" "$kept/tree/$1"
    opened="${opened:-} $1"
    shift
done
for folder in $hidden; do mount -t tmpfs -o mode=755 none "$folder"; done
for folder in ${opened:-}; do mkdir -p "$folder"; mount --rbind "$kept/tree/$folder" "$folder"; done
shift
cd "$home"
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"
"""

_NO_IDS = """
for name in subuid subgid; do mount --bind /dev/null /etc/$name; done
exec setpriv --inh-caps=-all --ambient-caps=-all -- "$@"
"""
_WITHOUT_IDS = ("unshare", "--user", "--map-current-user", "--keep-caps", "--mount", "--", "sh", "-c", _NO_IDS, "sh")


def as_ordinary_user(argv: list[str], home: Path, *, subordinate_ids: bool = True) -> list[str]:
    """`argv` so that it runs as an ordinary user; for root, a tester who owns `home` and sees a clean environment.

    Without `subordinate_ids` the user has none.
    What only root may reach (an interpreter or a checkout below /root) is shown to the tester at its place.
    """
    if os.geteuid() != 0:
        return argv if subordinate_ids else [*_WITHOUT_IDS, *argv]
    script = _SCRIPT if subordinate_ids else _SCRIPT.replace("tester:300000:65536", "")
    os.chown(home, UID, UID)
    needed = [path for path in (Path(sys.base_prefix), Path(sys.prefix), ROOT_DIR, home) if _hidden_by(path)]
    hidden = {folder for path in needed if (folder := _hidden_by(path))}
    environment = [f"HOME={home}", "USER=tester", f"PATH={os.environ['PATH']}", f"PYTHONPATH={ROOT_DIR}"]
    certificates = [f"{name}={os.environ[name]}" for name in ("SSL_CERT_FILE",) if name in os.environ]
    return [
        *("unshare", "--mount", "--", "sh", "-c", script, "sh", str(home), str(UID)),
        *(" ".join(map(str, hidden)), *map(str, dict.fromkeys(needed)), "--"),
        *("env", "-i", *environment, *certificates, *argv),
    ]


def _hidden_by(path: Path) -> Path | None:
    """The outermost folder on the way to `path` that others may not enter."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None
