"""Tools for whoever has no store: beside the gadgets, named by one signed object for each architecture.

```
oem/tools/<architecture>/<sha256>.tar.gz    a packed tools tree; never changes
oem/tools/<architecture>.json.gpg           which one builds use now: an OpenPGP message, signed by image-signing
```

The tree before the one that is named stays too, for those who have just read its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import structlog
from pydantic import Field, ValidationError

from coreimage.client import NotPresentError, RepositoryError, Web
from coreimage.errors import ConflictError
from coreimage.model import Architecture, Sha256, ToolsTree, Value
from coreimage.rootfs.unpacked import trees_folder, unpacked_tree
from coreimage.signing import Signer, name_object
from coreimage.storage import Store

log = structlog.get_logger("coreimage.tools")

ROOT = "oem/"
_FOLDER = "tools/"
_KEPT = 2
_POINTER_LIMIT_BYTES = 64 << 10
_TREE_LIMIT_BYTES = 1 << 30


class OfferedTools(Value):
    """`sha256` and `size_bytes` are those of the packed tree; the lock's digest is for people."""

    format: int = 1
    architecture: Architecture
    sha256: Sha256
    size_bytes: int = Field(ge=1, le=_TREE_LIMIT_BYTES)
    lock_sha256: Sha256

    @property
    def path(self) -> str:
        """Below `oem/`."""
        return f"{_FOLDER}{self.architecture}/{self.sha256}.tar.gz"


def pointer_path(architecture: Architecture) -> str:
    return f"{_FOLDER}{architecture}.json.gpg"


def offer_tools(tools: ToolsTree, architecture: Architecture, *, store: Store, signer: Signer) -> None:
    """Makes the tree the one that `flash` takes on machines of that architecture. Doing it again changes nothing."""
    offered = OfferedTools(
        architecture=architecture,
        sha256=tools.tree.sha256,
        size_bytes=tools.tree.size_bytes,
        lock_sha256=tools.lock.sha256,
    )
    if store.head(ROOT + offered.path) is None:
        with suppress(ConflictError):
            store.copy(tools.tree.uri, ROOT + offered.path, if_absent=True)
    document = json.dumps(offered.model_dump(), sort_keys=True, indent=4).encode()
    if name_object(ROOT + pointer_path(architecture), document, store=store, signer=signer):
        log.info("tools offered", architecture=architecture, tree=offered.sha256)
        trees = sorted(store.list(f"{ROOT}{_FOLDER}{architecture}/"), key=lambda tree: tree.modified)
        store.delete(tree.key for tree in trees[:-_KEPT] if tree.key != ROOT + offered.path)


def offered_tools(
    architecture: Architecture, *, webs: Sequence[Web], open_message: Callable[[bytes, str], bytes]
) -> tuple[Web, OfferedTools]:
    """The tools that the first of `webs`, each an `oem/`, has for machines of that architecture, and where.

    `open_message` gives what a message signed by the server's image-signing key says. Raises the client's errors:
    NotPresentError when nobody offers any.
    """
    path = pointer_path(architecture)
    for web in webs:
        with suppress(NotPresentError):
            document = open_message(web.read(path, _POINTER_LIMIT_BYTES), path)
            return web, _read(document, architecture, path)
    raise NotPresentError("there are no tools", where=path)


def offered_tree(web: Web, offered: OfferedTools) -> Path:
    """The tree on this machine, downloaded and unpacked if it is not there yet; held by this process."""

    def fetch(path: Path) -> None:
        web.download(offered.path, path, offered.sha256, offered.size_bytes)
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != offered.sha256:
                raise RepositoryError("the tools are not those that were signed", where=offered.path)

    return unpacked_tree(offered.sha256, folder=trees_folder(), fetch=fetch)


def _read(document: bytes, architecture: Architecture, where: str) -> OfferedTools:
    try:
        offered = OfferedTools.model_validate_json(document)
    except ValidationError as error:
        raise RepositoryError(
            f"says nothing that can be used of tools: {error.errors()[0]['msg']}", where=where
        ) from error
    if offered.architecture != architecture:
        raise RepositoryError(f"is of tools for {offered.architecture}", where=where)
    return offered
