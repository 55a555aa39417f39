"""Publication into a directory: signed and verified by real GnuPG, publishers killed with SIGKILL."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from coreimage.errors import ProcessError
from coreimage.process import run
from coreimage.publication import BuildContent, BuildTree, complete_builds, mark_good, publish_build, read_build
from coreimage.publication.pointers import read_bytes
from coreimage.signing import Role
from coreimage.storage import Store
from coreimage.storage.directory import DirectoryStore
from tests.unit.publication.builds import NOON, boot_report, content
from tests.unit.publication.stores import WatchedStore

TREE = BuildTree(project="debian-core", series="13", image_type="daily-preinstalled")


class GpgSigner:
    """One RSA key for every role."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._gpg(["--passphrase", "", "--quick-generate-key", "builds@coreimage.example", "rsa2048", "sign", "never"])

    def detached(self, role: Role, content: bytes) -> bytes:
        return self._gpg(["--armor", "--detach-sign", "--digest-algo", "SHA512", "--output", "-"], content)

    def detached_file(self, role: Role, path: Path) -> bytes:
        return self.detached(role, path.read_bytes())

    def inline(self, role: Role, content: bytes) -> bytes:
        return self._gpg(["--sign", "--compress-level", "0", "--output", "-"], content)

    def fingerprint(self, role: Role) -> str:
        listing = self._gpg(["--with-colons", "--list-secret-keys"]).decode().splitlines()
        return next(line.split(":")[9] for line in listing if line.startswith("fpr:"))

    def verify(self, signature: bytes, content: bytes) -> None:
        """Raises ProcessError for a bad signature."""
        with tempfile.NamedTemporaryFile(dir=self._home) as file:
            file.write(signature)
            file.flush()
            self._gpg(["--verify", file.name, "-"], content)

    def _gpg(self, arguments: list[str], stdin: bytes = b"") -> bytes:
        with tempfile.TemporaryFile(dir=self._home) as output:
            argv = [
                "gpg",
                "--homedir",
                str(self._home),
                "--batch",
                "--quiet",
                "--pinentry-mode",
                "loopback",
                *arguments,
            ]
            run(argv, stdin=stdin, stdout=output, timeout_s=60)
            output.seek(0)
            return output.read()


@pytest.fixture(scope="module")
def signer() -> Iterator[GpgSigner]:
    # Not below pytest's folder: the agent's socket must have a short path.
    with tempfile.TemporaryDirectory(prefix="gpg-", ignore_cleanup_errors=True) as home:
        yield GpgSigner(Path(home))
        run(["gpgconf", "--homedir", home, "--kill", "all"])


def read(store: Store, key: str) -> bytes:
    found = read_bytes(store, key)
    assert found is not None, key
    return found


def check_as_a_poller(store: Store, signer: GpgSigner) -> list[str]:
    """The ids of the builds that stand there, each verified whole; the pointers name none but these."""
    builds = complete_builds(TREE, store=store)
    for build_id in builds:
        published = read_build(TREE, build_id, store=store)
        signer.verify(read(store, published.signature.uri), read(store, published.checksums.uri))
        for file in published.files:
            assert hashlib.sha256(read(store, file.artifact.uri)).hexdigest() == file.artifact.sha256
    ids = [str(build_id) for build_id in builds]
    pending = read_bytes(store, TREE.pending_key)
    assert pending is None or json.loads(pending)["build_id"] in ids
    current = read_bytes(store, TREE.current_key)
    assert current is None or all(good["build_id"] in ids for good in json.loads(current)["architectures"].values())
    return ids


def test_sha256sum_and_gpg_accept_what_is_published(tmp_path: Path, signer: GpgSigner) -> None:
    store = DirectoryStore(tmp_path)
    published = publish_build(content(store), store=store, signer=signer, now=NOON)
    run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=tmp_path / published.prefix)
    mark_good(published, "amd64", [boot_report(store)], store=store, now=NOON)
    assert check_as_a_poller(store, signer) == ["20261123"]
    assert read(store, published.signature.uri).startswith(b"-----BEGIN PGP SIGNATURE-----")


def test_a_changed_checksum_is_seen(tmp_path: Path, signer: GpgSigner) -> None:
    store = DirectoryStore(tmp_path)
    published = publish_build(content(store), store=store, signer=signer, now=NOON)
    changed = read(store, published.checksums.uri).replace(b"a", b"b")
    with pytest.raises(ProcessError):
        signer.verify(read(store, published.signature.uri), changed)


def publish_and_mark(built: BuildContent, store: Store, signer: GpgSigner, *, days_later: int = 0) -> str:
    now = NOON + timedelta(days=days_later)
    published = publish_build(built, store=store, signer=signer, now=now)
    mark_good(published, "amd64", [], store=store, now=now)
    return published.build_id


def die_at(root: Path, built: BuildContent, signer: GpgSigner, call: int, *, after: bool) -> None:
    """What the child does: publishes, and is gone at the `call`-th call of the store."""
    calls = iter(range(1_000_000))

    def count(operation: str, key: str) -> None:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    store = DirectoryStore(root)
    publish_and_mark(built, WatchedStore(store, after=count) if after else WatchedStore(store, count), signer)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_every_call_a_rerun_completes_with_the_same_id(
    tmp_path: Path, signer: GpgSigner, after: bool
) -> None:
    fork = multiprocessing.get_context("fork")
    for call in range(1_000):
        root = tmp_path / f"{call}"
        store = DirectoryStore(root)
        built = content(store, logs="of the first run")
        child = fork.Process(target=die_at, args=(root, built, signer, call), kwargs={"after": after})
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        check_as_a_poller(store, signer)
        reserved = store.head(f"{TREE.reservations_prefix}/20261123.json") is not None
        rerun = content(store, logs="of the rerun")
        assert publish_and_mark(rerun, store, signer, days_later=int(reserved)) == "20261123"
        assert check_as_a_poller(store, signer) == ["20261123"]
    assert call > 10
