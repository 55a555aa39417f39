"""`coreimage verify` after every operation of a test. What was verified once is remembered: trees share their files."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from coreimage.http import Downloader
from coreimage.system_image.verify.walk import walk_tree
from coreimage.system_image.web import FetchWeb, GpgvVerify, client_errors

_Known = tuple[str, bytes, bytes, tuple[bytes, ...], frozenset[str]]
_verified: dict[_Known, bytes] = {}


class _RememberingVerify:
    def __init__(self) -> None:
        self._verify = GpgvVerify()

    def detached(
        self, content: bytes | Path, signature: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str
    ) -> None:
        digest = hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).digest()

        def verify() -> bytes:
            self._verify.detached(content, signature, keyrings, refused, where)
            return b""

        self._once(("detached", digest, signature, tuple(keyrings), frozenset(refused)), verify)

    def inline(self, message: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str) -> bytes:
        known = ("inline", message, b"", tuple(keyrings), frozenset(refused))
        return self._once(known, lambda: self._verify.inline(message, keyrings, refused, where))

    def _once(self, known: _Known, verify: Callable[[], bytes]) -> bytes:
        if known not in _verified:
            _verified[known] = verify()
        return _verified[known]


def require_verified(www: Path, archive_master: bytes, now: float) -> None:
    """Fails where `verify` would end with status 3, or warns of what clients of 2015 see."""
    names = [path.relative_to(www).as_posix() for path in www.rglob("*") if path.is_file()]
    web = FetchWeb(www.absolute().as_uri(), Downloader())
    with tempfile.TemporaryDirectory() as folder, client_errors():
        found = walk_tree(web, _RememberingVerify(), archive_master, names=names, now=now, folder=Path(folder))
    wrong = [*found.errors, *(finding for finding in found.findings if "clients of 2015" in finding.problem)]
    assert not wrong, [f"{finding.where}: {finding.problem}" for finding in wrong]
