"""Published builds: SHA256SUMS, its signature, and every file that it lists."""

from __future__ import annotations

import hashlib

import pytest

from coreimage.model import TEXT
from coreimage.storage import Store
from coreimage.storage.checksums import format_checksums
from coreimage.system_image.verify.builds import verify_builds
from coreimage.system_image.verify.findings import Findings
from tests.harness.memory_store import MemoryStore
from tests.unit.signing.gnupg import Gnupg, signature

FIRST, SECOND = ("cdimage/debian-core/13/daily/20261123", "cdimage/debian-core/13/daily/20261124.1")
FILES = {"a.img": b"an image", "a.manifest": b"a list" * (1 << 19)}
AGAIN = "publish the build again, or remove it"


def put(store: Store, key: str, content: bytes) -> None:
    store.put_bytes(key, content, media_type=TEXT)


def sums() -> bytes:
    return format_checksums({name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()})


@pytest.fixture
def store() -> Store:
    store = MemoryStore()
    for build in (FIRST, SECOND):
        for name, content in FILES.items():
            put(store, f"{build}/{name}", content)
        put(store, f"{build}/SHA256SUMS", sums())
        put(store, f"{build}/SHA256SUMS.gpg", signature("cdimage", sums()))
    put(store, "cdimage/debian-core/13/daily/current.json", b"{}")
    put(store, "cdimage/debian-core/13/daily/20261125/half.img", b"of a build that is not complete")
    return store


def verify(store: Store) -> Findings:
    return verify_builds(store, b"cdimage", run=Gnupg())


def test_whole_builds_are_silent(store: Store) -> None:
    assert verify(store) == Findings(checked=8)


def test_a_tree_without_builds_has_nothing_to_check() -> None:
    assert verify(MemoryStore()) == Findings()


@pytest.mark.parametrize(
    ("name", "content", "where", "problem"),
    [
        ("a.img", None, "a.img", "it is missing"),
        ("a.img", b"an imagE", "a.img", "it does not have the digest that SHA256SUMS lists"),
        ("a.manifest", FILES["a.manifest"] + b"x", "a.manifest", "it does not have the digest that SHA256SUMS lists"),
        ("SHA256SUMS.gpg", None, "SHA256SUMS.gpg", "it is missing"),
        ("SHA256SUMS.gpg", signature("somebody", sums()), "SHA256SUMS", "by a key that is not in the keyring"),
        ("SHA256SUMS", sums() + sums(), "SHA256SUMS", "the signature does not match the content"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_the_other_build_is_checked(
    store: Store, name: str, content: bytes | None, where: str, problem: str
) -> None:
    store.delete([f"{FIRST}/{name}"])
    if content is not None:
        put(store, f"{FIRST}/{name}", content)
    store.delete([f"{SECOND}/a.img"])
    found = verify(store)
    assert [(each.where, each.problem.removeprefix("the signature is "), each.resolution) for each in found.errors] == [
        (f"{FIRST}/{where}", problem, AGAIN),
        (f"{SECOND}/a.img", "it is missing", AGAIN),
    ]


def test_signed_lines_that_are_no_checksums_are_named(store: Store) -> None:
    put(store, f"{FIRST}/SHA256SUMS", b"nonsense\n")
    put(store, f"{FIRST}/SHA256SUMS.gpg", signature("cdimage", b"nonsense\n"))
    (found,) = verify(store).errors
    assert found.where == f"{FIRST}/SHA256SUMS"
    assert "line 1" in found.problem


def test_what_nothing_lists_is_an_orphan_but_for_what_comes_after_a_build(store: Store) -> None:
    for name in (".marked_good", "pinned.json", "index.html", "evidence/boot.json"):
        put(store, f"{FIRST}/{name}", b"x")
    for name in ("left.img", "evidence/boot.png", "evidence/a/b.json", "SHA256SUMS.gpg.old"):
        put(store, f"{FIRST}/{name}", b"x")
    found = verify(store)
    assert found.errors == ()
    assert found.orphans == tuple(
        f"{FIRST}/{name}" for name in ("SHA256SUMS.gpg.old", "evidence/a/b.json", "evidence/boot.png", "left.img")
    )
