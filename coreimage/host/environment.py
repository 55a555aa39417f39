"""The environment that children see, and what this host must allow for their sandboxes."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coreimage.errors import HostError
from coreimage.host.sandbox import Sandbox

_INHERITED = ("PATH", "HOME", "TMPDIR", "USER")
_INHERITED_WITH_NETWORK = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR")
"""The address of a proxy may hold a password: a child without network does not get to see it."""
_TREE_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def environment(
    extra: Mapping[str, str] | None = None, *, tree: Path | None = None, network: bool = True
) -> dict[str, str]:
    """Return the environment of a child: few inherited names, a fixed locale and time zone, then `extra`."""
    names = (*_INHERITED, *_INHERITED_WITH_NETWORK) if network else _INHERITED
    inherited = {name: os.environ[name] for name in names if name in os.environ}
    folders = inherited.get("PATH", "").split(":")
    folders += [folder for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin") if folder not in folders]
    path = _TREE_PATH if tree else ":".join(folders).lstrip(":")
    return {**inherited, "PATH": path, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", **(extra or {})}


@dataclass(frozen=True)
class HostFacts:
    """What decides whether an ordinary user of this host may make namespaces."""

    apparmor_restricts: bool
    max_user_namespaces: int
    subordinate_ids: bool
    newuidmap: bool


def host_facts() -> HostFacts:
    """Read the facts from /proc, /etc/subuid and /etc/subgid."""
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:  # as in many containers; /etc/subuid names such a user by the number
        user = str(os.geteuid())
    return HostFacts(
        apparmor_restricts=_read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
        max_user_namespaces=int(_read("/proc/sys/user/max_user_namespaces") or 1),
        subordinate_ids=all(
            any(line.split(":")[0] in {user, str(os.geteuid())} for line in _read(path).splitlines())
            for path in ("/etc/subuid", "/etc/subgid")
        ),
        newuidmap=shutil.which("newuidmap", path=environment()["PATH"]) is not None,
    )


def sandbox_refusal(facts: HostFacts, sandbox: Sandbox) -> HostError | None:
    """Return why such a host refuses `sandbox` to an ordinary user, with the exact remedy; `None` if it should work."""
    if facts.max_user_namespaces == 0:
        return HostError("this host forbids user namespaces", resolution="sudo sysctl user.max_user_namespaces=15000")
    if facts.apparmor_restricts:
        return HostError(
            "AppArmor keeps ordinary users from user namespaces",
            resolution="sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        )
    if sandbox is Sandbox.ROOT and not facts.newuidmap:
        return HostError("newuidmap is not installed", resolution="sudo apt-get install uidmap")
    if sandbox is Sandbox.ROOT and not facts.subordinate_ids:
        return HostError(
            "this user has no subordinate ids in /etc/subuid and /etc/subgid",
            resolution='sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 "$USER"',
        )
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
