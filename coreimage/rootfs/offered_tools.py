"""Tools for those who have no store of their own: beside the gadgets, named by a signed object for each architecture.

```
oem/tools/<architecture>/<sha256>.tar.gz    a packed tools tree; never changes
oem/tools/<architecture>.json.gpg           which one builds use now: an OpenPGP message, signed by image-signing
```

The tree before the one that is named stays, too, for those who have just read its name.
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
from coreimage.errors import LostWriteError
from coreimage.model import Architecture, Sha256, ToolsTree, Value
from coreimage.rootfs.unpacked_tools import trees_folder, unpacked_tree
from coreimage.signing import Signer, name_object
from coreimage.storage import Store

log = structlog.get_logger("coreimage.tools")

ROOT = "oem/"
_FOLDER = "tools/"
_KEPT = 2
_POINTER_LIMIT_BYTES = 64 << 10
_TREE_LIMIT_BYTES = 1 << 30


class OfferedTools(Value):
    """The signed document: which packed tree builds use on machines of an architecture.

    `sha256` and `size_bytes` are those of the packed tree; `lock_sha256` is for people.
    """

    format: int = 1
    architecture: Architecture
    sha256: Sha256
    size_bytes: int = Field(ge=1, le=_TREE_LIMIT_BYTES)
    lock_sha256: Sha256

    @property
    def path(self) -> str:
        """Where the packed tree is, below `oem/`."""
        return f"{_FOLDER}{self.architecture}/{self.sha256}.tar.gz"


def pointer_path(architecture: Architecture) -> str:
    """Return where the document of an architecture is, below `oem/`."""
    return f"{_FOLDER}{architecture}.json.gpg"


def offer_tools(tools: ToolsTree, architecture: Architecture, *, store: Store, signer: Signer) -> None:
    """Make a tree the one that `flash` uses on machines of an architecture. Doing it again changes nothing."""
    offered = OfferedTools(
        architecture=architecture,
        sha256=tools.tree.sha256,
        size_bytes=tools.tree.size_bytes,
        lock_sha256=tools.lock.sha256,
    )
    if store.head(ROOT + offered.path) is None:
        with suppress(LostWriteError):
            store.copy(tools.tree.uri, ROOT + offered.path, if_absent=True)
    document = json.dumps(offered.model_dump(), sort_keys=True, indent=4).encode()
    if name_object(ROOT + pointer_path(architecture), document, store=store, signer=signer):
        log.info("tools offered", architecture=architecture, tree=offered.sha256)
        trees = sorted(store.list(f"{ROOT}{_FOLDER}{architecture}/"), key=lambda tree: tree.modified)
        store.delete(tree.key for tree in trees[:-_KEPT] if tree.key != ROOT + offered.path)


def offered_tools(
    architecture: Architecture, *, webs: Sequence[Web], open_message: Callable[[bytes, str], bytes]
) -> tuple[Web, OfferedTools]:
    """Find the tools for machines of an architecture.

    Args:
        architecture: That of this machine.
        webs: Where to look, each an `oem/`; the first that offers tools is taken.
        open_message: Returns what a message says that the server's image-signing key signed. Its arguments are the
            message and what errors call it.

    Returns:
        Where the tools are offered, and what is said of them.

    Raises:
        NotPresentError: Nobody offers any.
        RepositoryError: A server does not answer, or what it says is not right or not signed.
    """
    path = pointer_path(architecture)
    for web in webs:
        with suppress(NotPresentError):
            document = open_message(web.read(path, _POINTER_LIMIT_BYTES), path)
            return web, _read(document, architecture, path)
    raise NotPresentError("there are no tools", where=path)


def offered_tree(web: Web, offered: OfferedTools) -> Path:
    """Return the tree on this machine, downloaded and unpacked if it is not there; this process holds it from now on.

    Raises:
        RepositoryError: The tree cannot be downloaded, or is not the one that was signed.
    """

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
            f"the document about the tools is not right: {error.errors()[0]['msg']}", where=where
        ) from error
    if offered.architecture != architecture:
        raise RepositoryError(f"the document is about tools for {offered.architecture}", where=where)
    return offered
