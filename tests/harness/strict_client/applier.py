"""Recovery: carries out an `ubuntu_command` (§2.9) on a device that exists in memory only.

What an update leaves can so be compared name by name with what a full installation leaves.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.harness.strict_client import openpgp
from tests.harness.strict_client.refusal import json_object, require
from tests.harness.strict_client.tar import FOLDER, HARD, SOFT, Member, read_tarball

_SIGNERS = {
    "image-master": "archive-master",
    "image-signing": "image-master",
    "blacklist": "image-master",
    "device-signing": "image-signing",
}


@dataclass(frozen=True)
class Node:
    """`inode` tells files with several names. Folders have no time: what happens inside changes it."""

    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    digest: bytes = b""
    link: str = ""
    device: tuple[int, int] = (0, 0)
    attributes: tuple[tuple[bytes, bytes], ...] = ()
    inode: int = 0


@dataclass
class Applier:
    """`tree` has what is below the staging directory: nodes by name."""

    archive_master: bytes
    device: str
    now: float
    tree: dict[str, Node] = field(default_factory=dict)
    refused: frozenset[str] = frozenset()
    _keys: dict[str, bytes] = field(default_factory=dict)
    _formatted: bool = False
    _inodes: int = 0

    def run(self, command: str, files: Mapping[str, bytes]) -> None:
        """Raises RefusedError for what recovery would stop at."""
        self._keys = {"archive-master": self._read(self.archive_master, "archive-master")}
        self._formatted = False
        for line in command.splitlines():
            verb, *words = line.split(" ")
            if verb == "load_keyring":
                self._load_keyring(*(files[word] for word in words))
            elif line == "format system":
                self.tree = {name: node for name, node in self.tree.items() if not name.startswith("system/")}
                self._formatted = True
            elif verb == "update":
                self._update(words[0], *(files[word] for word in words))
            else:
                require(line in {"mount system", "unmount system"}, f"unknown command {line!r}")

    def _load_keyring(self, tarball: bytes, signature: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(tarball), mode="r:xz") as tar:
            kind = json_object(tar.extractfile("keyring.json").read(), "keyring.json")["type"]  # type: ignore[union-attr]
        require(kind not in self._keys, f"{kind} is loaded twice")
        require(_SIGNERS[kind] in self._keys, f"the signer of {kind} is loaded before")
        openpgp.verify(tarball, signature, (self._keys[_SIGNERS[kind]],), self.refused, kind)
        self._keys[kind] = self._read(tarball, kind)

    def _read(self, tarball: bytes, kind: str) -> bytes:
        return openpgp.keyring(tarball, kind, self.device, self.now).keys

    def _update(self, name: str, tarball: bytes, signature: bytes) -> None:
        keys = tuple(self._keys[kind] for kind in ("device-signing", "image-signing") if kind in self._keys)
        openpgp.verify(tarball, signature, keys, self.refused, name)
        self.unpack(tarball)

    def unpack(self, tarball: bytes) -> None:
        """Deletes what `removed` lists, unless the system was formatted in the same run; then unpacks."""
        for at, member in enumerate(read_tarball(tarball)):
            if member.name == "removed":
                require(at == 0, "removed comes first")
                self._remove(member.content.decode())
            else:
                self._unpack(member)

    def _remove(self, lines: str) -> None:
        for line in lines.splitlines():
            require(
                line and not line.startswith(("/", "./")) and ".." not in line.split("/"), f"removed names {line!r}"
            )
            if not self._formatted:
                gone = {name for name in self.tree if name == line or name.startswith(f"{line}/")}
                self.tree = {name: node for name, node in self.tree.items() if name not in gone}

    def _unpack(self, member: Member) -> None:
        name = member.name
        parts = name.split("/")
        require(not name.startswith("/") and not {"", ".", ".."} & set(parts), f"{name!r} leaves the staging directory")
        for count in range(1, len(parts)):
            parent = self.tree.setdefault("/".join(parts[:count]), Node(FOLDER, 0o755))
            require(parent.kind == FOLDER, f"{name!r} goes through something that is no folder")
        old = self.tree.get(name)
        require(old is None or (old.kind == FOLDER) == (member.kind == FOLDER), f"{name!r} cannot become another kind")
        self.tree[name] = self._node(member)

    def _node(self, member: Member) -> Node:
        if member.kind == HARD:
            require(member.link in self.tree, f"{member.name!r} is a link to nothing")
            return self.tree[member.link]
        self._inodes += 1
        return Node(
            member.kind,
            0 if member.kind == SOFT else member.mode,
            member.uid,
            member.gid,
            0 if member.kind == FOLDER else member.mtime,
            member.digest,
            member.link,
            member.device,
            tuple(sorted(member.attributes)),
            self._inodes,
        )

    def look(self) -> dict[str, tuple[Node, str]]:
        """What is there: each name with its node and the first name of the same file."""
        firsts: dict[int, str] = {}
        for name in sorted(self.tree):
            firsts.setdefault(self.tree[name].inode, name)
        return {name: (replace(node, inode=0), firsts[node.inode]) for name, node in self.tree.items() if node.inode}
