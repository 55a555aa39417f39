"""The namespaces that a child runs in, and the tools tree whose programs it sees in place of the machine's."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path

_ENTER_TREE = """
set -eu
tree=$1; shift
for folder in usr etc; do mount --bind -o ro "$tree/$folder" "/$folder"; done
[ "$$" != 1 ] || mount -t proc proc /proc
exec "$@"
"""
"""Puts the tree's /usr and /etc in place of the machine's. As /bin, /lib and their like are links into /usr, these hold
all of its programs, libraries and settings."""


class Sandbox(Enum):
    """What a child is wrapped in. In each of them the child dies when we die.

    NONE: nothing; the child's own children may outlive us.
    PID_NAMESPACE: a process namespace of its own, so that all its descendants die with it.
    ROOT: the same, and the child believes to be root: all ids that /etc/subuid and /etc/subgid grant are mapped, and
    it may mount in a mount namespace of its own. For root itself no user namespace is made.

    With a tools tree every child gets a mount namespace, and the child of an ordinary user believes to be root.
    """

    NONE = "none"
    PID_NAMESPACE = "pid-namespace"
    ROOT = "root"


def sandbox_argv(sandbox: Sandbox = Sandbox.NONE, *, network: bool = True, tree: Path | None = None) -> list[str]:
    """Return the words to put before an argv so that it runs in `sandbox`.

    Args:
        network: Without it the child has a loopback interface that is down, and no other.
        tree: The folder of a tools tree, whose /usr and /etc the child sees.
    """
    die_with_us = ["setpriv", "--pdeathsig", "KILL", "--"]
    if sandbox is Sandbox.NONE and network and not tree:
        return die_with_us
    namespaces = [] if network else ["--net"]
    if os.geteuid() != 0:
        if sandbox is Sandbox.ROOT:
            namespaces += ["--map-root-user", "--map-auto", "--user"]
        else:
            namespaces += ["--map-root-user" if tree else "--map-current-user", "--user"]
    if sandbox is Sandbox.ROOT or tree:
        namespaces.append("--mount")
    if sandbox is not Sandbox.NONE or not network:
        namespaces += ["--pid", "--fork", "--kill-child=KILL"]
    enter_tree = ["sh", "-c", _ENTER_TREE, "sh", str(tree)] if tree else []
    return [*die_with_us, "unshare", *namespaces, "--", *enter_tree]
