"""Secrets that were planted, searched wherever an installation writes: none of it may tell one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.installed import Installed
from tests.harness.workshop import wait_until
from tests.operate.conftest import MAIL_SECRET, WEBHOOK_SECRET

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EDGE = "build-channel/tiny:1:edge"
_CURIOUS = """#!/bin/sh
echo "the hook looks around"
env
cat /proc/*/environ || true
cat /proc/*/cmdline || true
"""
_PRIVATE = re.compile(r"\([dpqu]#([0-9A-F]+)#")
"""The secret numbers of an RSA key, in the form that gpg-agent keeps it in (GnuPG, agent/keyformat.txt)."""
_ENOUGH_BYTES = 24
"""So much of a number tells that it is there."""


def key_material(folder: Path) -> set[bytes]:
    """Parts of the numbers that make the signing keys secret, as bytes and in hex."""
    found = set()
    for path in folder.rglob("private-keys-v1.d/*.key"):
        for number in _PRIVATE.findall("".join(path.read_text().split())):
            part = bytes.fromhex(number.removeprefix("00"))[:_ENOUGH_BYTES]
            found |= {part, part.hex().encode(), part.hex().upper().encode()}
    return found


def secrets(installed: Installed) -> dict[str, set[bytes]]:
    s3: str = json.loads((installed.folder / "var/up/secret.json").read_text())["AWS_SECRET_ACCESS_KEY"]
    return {
        "S3": {s3.encode()},
        "webhook": {WEBHOOK_SECRET.encode()},
        "mail": {MAIL_SECRET.encode()},
        "signing keys": key_material(installed.folder / "var/keys"),
    }


def in_files(installed: Installed) -> Iterator[tuple[str, bytes]]:
    """What services and workers wrote on this machine: logs, database, results."""
    for folder in ("log", "prefect", "worker"):
        for path in (installed.folder / "var/up" / folder).rglob("*"):
            if path.is_file():
                yield str(path), path.read_bytes()


def in_api(installed: Installed) -> Iterator[tuple[str, bytes]]:
    """What Prefect's server gives to whoever may ask."""
    kinds = ("flow_runs", "task_runs", "deployments", "logs", "artifacts", "automations", "block_documents", "events")
    for kind in kinds:
        found = installed.api(f"/{kind}/filter", {} if kind == "events" else {"limit": 200})
        yield kind, json.dumps(found).encode()


def in_store(installed: Installed) -> Iterator[tuple[str, bytes]]:
    """Every object, cache keys and remembered results among them, with its name."""
    with installed.as_client():
        store = installed.store()
        for info in list(store.list()):
            with store.open(info.key) as file:
                yield info.key, info.key.encode() + file.read()


@pytest.fixture(scope="module")
def busy(installed: Installed) -> Installed:
    """A build whose hook looks around, one that fails, and notifications that reach nobody."""
    (installed.product.folder / "curious.sh").write_text(_CURIOUS)
    with installed.deployed_with(hooks=["curious.sh"]):
        run = installed.start(EDGE)
        installed.completed(run)
        wait_until(lambda: "the hook looks around" in installed.whole_log(run), 120, "what the hook said")
    key = installed.folder / "var/keys/cdimage"
    installed.product.move_on()
    key.rename(key.with_name("away"))
    try:
        failed = installed.finished(installed.start(EDGE))
    finally:
        key.with_name("away").rename(key)
    assert failed["state"]["type"] == "FAILED"
    log = installed.folder / "var/up/log/prefect.log"
    wait_until(lambda: "127.0.0.1" in log.read_text() and "ction" in log.read_text(), 120, "a webhook that fails")
    return installed


Places = Callable[[Installed], Iterator[tuple[str, bytes]]]


@pytest.mark.parametrize("places", [in_files, in_api, in_store])
def test_no_secret_is_told(places: Places, busy: Installed) -> None:
    wanted = secrets(busy)
    assert all(wanted.values()), "there is something to look for"
    looked_at, seen = 0, False
    for place, content in places(busy):
        looked_at += 1
        seen = seen or b"tiny" in content
        told = [kind for kind, needles in wanted.items() if any(needle in content for needle in needles)]
        assert not told, f"{place} tells a secret of {told}"
    assert looked_at > 5
    assert seen, "what is no secret is found"


def test_what_is_searched_would_be_found(busy: Installed) -> None:
    """The same needles in the places where the secrets are kept."""
    wanted = secrets(busy)
    kept = b"".join(b"".join(path.read_bytes().split()) for path in (busy.folder / "var/keys").rglob("*.key"))
    assert any(needle in kept for needle in wanted["signing keys"])
    assert next(iter(wanted["S3"])) in (busy.folder / "var/up/secret.json").read_bytes()
