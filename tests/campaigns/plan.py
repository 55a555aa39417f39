"""Which campaigns there are. Each is one command of minutes to an hour; a killed run goes on with the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MUTATED_PARTS = {
    "client": ["coreimage.client.*"],
    "signing": ["coreimage.signing.*"],
    "documents": ["coreimage.system_image.documents.*"],
    "promotion": ["coreimage.system_image.channels.*"],
    "retention": ["coreimage.retention.*"],
    "cache-keys": ["tasks.cache.*"],
}
"""Module patterns by part. The rules in these parts are those that a device or a fleet pays for."""


@dataclass(frozen=True)
class Campaign:
    """One part of `make test-all`.

    `argv` is run with the Python of the virtual environment; `mutants` are the patterns of a mutation run instead.
    """

    name: str
    tries: str
    argv: tuple[str, ...] = ()
    mutants: tuple[str, ...] = ()


def campaigns() -> tuple[Campaign, ...]:
    """Return all campaigns in the order in which they run: the ordinary tests first."""
    in_long_files_first = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")
    ordinary = Campaign("ordinary", "everything that `make test` runs", _pytest(*in_long_files_first, "-m", "not slow"))
    slow = [Campaign(name, tries, _pytest("-m", "slow", *paths)) for name, tries, *paths in _SLOW]
    mutations = [
        Campaign(f"mutations-{part}", f"`{' '.join(patterns)}`, changed one place at a time", mutants=tuple(patterns))
        for part, patterns in MUTATED_PARTS.items()
    ]
    return (ordinary, *mutations, *slow)


def _pytest(*arguments: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-p", "no:cacheprovider", *arguments)


_SLOW: Sequence[tuple[str, ...]] = (
    ("keys-killed", "rotations and revocations killed at every store call", "tests/integration/test_keys.py"),
    ("publishing-killed", "publishing killed at every S3 request", "tests/integration/test_publication.py"),
    (
        "operations-killed",
        "operations on channels killed at every call",
        "tests/integration/test_operations_killed.py",
    ),
    ("hostile", "hostile trees, archives and documents, many examples", "tests/integration/test_hostile.py"),
    ("hostile-servers", "servers that lie, stall and flood", "tests/integration/test_hostile_servers.py"),
    ("debian-13-host", "the same bytes on a Debian 13 host", "tests/integration/test_debian_13_host.py"),
    ("customised", "a customised image with a key only, booted", "tests/chain/test_customised.py"),
    ("full-arm64", "the whole chain for arm64, booted", "tests/chain/test_full_arm64.py"),
    ("missed-schedules", "schedules missed while the worker was away", "tests/operate/test_missed.py"),
    ("retry", "each stage broken once and retried", "tests/operate/test_retry.py"),
    ("another-machine", "a retry on another machine", "tests/operate/test_another_machine.py"),
    ("secrets", "no secret in logs, records and pages", "tests/operate/test_secrets.py"),
    ("prefect-ui", "the Prefect UI in a browser", "tests/operate/test_ui.py"),
    ("installation", "`make up` from the first minute to the last", "tests/operate/test_installation.py"),
    ("units", "the systemd units inside an image of ours", "tests/operate/test_units.py"),
    ("scale-out", "three machines, 120 devices, one machine lost", "tests/operate/test_scale_out.py"),
)
