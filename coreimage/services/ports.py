"""TCP ports of this machine's loopback interface: which are in use, and which can be taken."""

from __future__ import annotations

import secrets
import socket

_SEAWEED_OFFSET = 10_000
"""SeaweedFS listens for gRPC this far above each of its ports."""


def is_listening(port: int) -> bool:
    """Return whether something accepts connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Return a port that the kernel says is free now; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_seaweed_port() -> int:
    """Return a free port that SeaweedFS can have: the one 10,000 above it is free, too."""
    while True:
        # Below the range that the kernel hands out to outgoing connections.
        port = 20_000 + secrets.randbelow(2_000)
        if not is_listening(port) and not is_listening(port + _SEAWEED_OFFSET):
            return port
