"""Gadgets in `oem/`: published once by their content, named by one signed object, fetched by that name.

```
oem/<name>/<sha256>.snap      a gadget; never changes
oem/<name>.json.gpg           which one the name means now: an OpenPGP message, signed by image-signing
```
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
from coreimage.disk_image.gadget_package import SNAP, GadgetDescription, describe_gadget, open_gadget, pack_snap
from coreimage.errors import ConflictError, VerificationError
from coreimage.model import Sha256, Value
from coreimage.process import Run
from coreimage.signing import Signer, name_object
from coreimage.storage import Store
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.disk_image")

ROOT = "oem/"
POINTER_LIMIT_BYTES = 64 << 10
_SNAP_LIMIT_BYTES = 1 << 30


class PublishedGadget(Value):
    """`path` is below `oem/`."""

    format: int = 1
    gadget: GadgetDescription
    path: str = Field(pattern=r"^[a-z0-9-]+/[0-9a-f]{64}\.snap$")
    sha256: Sha256
    size_bytes: int = Field(ge=1, le=_SNAP_LIMIT_BYTES)


def pointer_path(name: str) -> str:
    return f"{name}.json.gpg"


def publish_gadget(package: Path, *, store: Store, signer: Signer, run: Run) -> PublishedGadget:
    """Makes `package`, a folder or a snap, what its name means. Doing it again changes nothing.

    Raises ConfigError when the gadget is not valid.
    """
    with workspace("gadget") as work:
        folder = open_gadget(package, work, run=run)
        snap = pack_snap(folder, work / "gadget.snap", run=run)
        content = snap.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        found = describe_gadget(folder)
        path = f"{found.name}/{sha256}.snap"
        published = PublishedGadget(gadget=found, path=path, sha256=sha256, size_bytes=len(content))
        with suppress(ConflictError):
            store.put_file(ROOT + path, snap, media_type=SNAP, if_absent=True)
    _point_to(published, store=store, signer=signer)
    return published


def _point_to(published: PublishedGadget, *, store: Store, signer: Signer) -> None:
    document = json.dumps(published.model_dump(), sort_keys=True, indent=4).encode()
    if name_object(ROOT + pointer_path(published.gadget.name), document, store=store, signer=signer):
        log.info("gadget published", name=published.gadget.name, version=published.gadget.version)


def read_pointer(document: bytes, where: str) -> PublishedGadget:
    """Of a document whose signature was verified."""
    try:
        return PublishedGadget.model_validate_json(document)
    except ValidationError as error:
        raise VerificationError(
            f"says nothing that can be used of a gadget: {error.errors()[0]['msg']}", where=where
        ) from error


def fetch_gadget(
    name: str, work_folder: Path, *, webs: Sequence[Web], open_message: Callable[[bytes, str], bytes], run: Run
) -> Path:
    """The folder of the gadget that `name` means in the first of `webs`, each an `oem/`, that has one.

    `open_message` gives what a message signed by the server's image-signing key says. Raises the client's errors:
    NotPresentError when there is no such gadget, RepositoryError for one that is not as it should be.
    """
    web, message = _pointer(name, webs)
    found = read_pointer(open_message(message, pointer_path(name)), pointer_path(name))
    if found.gadget.name != name or found.path != f"{name}/{found.sha256}.snap":
        raise RepositoryError(f"is of the gadget {found.gadget.name}", where=pointer_path(name))
    snap = work_folder / f"{name}.snap"
    web.download(found.path, snap, found.sha256, found.size_bytes)
    if hashlib.sha256(snap.read_bytes()).hexdigest() != found.sha256:
        raise RepositoryError("the gadget is not the one that was signed", where=found.path)
    folder = open_gadget(snap, work_folder, run=run)
    if describe_gadget(folder) != found.gadget:
        raise RepositoryError("the snap is of another gadget than its name says", where=found.path)
    return folder


def _pointer(name: str, webs: Sequence[Web]) -> tuple[Web, bytes]:
    for web in webs:
        try:
            return web, web.read(pointer_path(name), POINTER_LIMIT_BYTES)
        except NotPresentError:
            continue
    raise NotPresentError(f"there is no gadget {name!r}", where=ROOT)
