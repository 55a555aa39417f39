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
from coreimage.disk_image.gadget.package import SNAP, GadgetDescription, describe_gadget, open_gadget, pack_snap
from coreimage.errors import LostWriteError, VerificationError
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.model import Sha256, Value
from coreimage.signing import Signer, name_object
from coreimage.storage import Store

log = structlog.get_logger("coreimage.disk_image")

_ROOT = "oem/"
_POINTER_LIMIT_BYTES = 64 << 10
_SNAP_LIMIT_BYTES = 1 << 30


class PublishedGadget(Value):
    """What the name of a gadget means now. `path` is below `oem/`."""

    format: int = 1
    gadget: GadgetDescription
    path: str = Field(pattern=r"^[a-z0-9-]+/[0-9a-f]{64}\.snap$")
    sha256: Sha256
    size_bytes: int = Field(ge=1, le=_SNAP_LIMIT_BYTES)


def pointer_path(name: str) -> str:
    """Return the path of a gadget's pointer, below `oem/`."""
    return f"{name}.json.gpg"


def publish_gadget(package: Path, *, store: Store, signer: Signer, run: Run) -> PublishedGadget:
    """Publish a gadget, and let its name mean it from now on. Doing it again changes nothing.

    Args:
        package: A folder or a snap.
        store: Where it is published.
        signer: Signs the pointer, as image-signing.
        run: Starts programs.

    Raises:
        ConfigError: The gadget is not valid.
        VerificationError: `package` is no gadget, or there are links or special files in it.
    """
    with workspace("gadget") as work:
        folder = open_gadget(package, work, run=run)
        snap = pack_snap(folder, work / "gadget.snap", run=run)
        content = snap.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        gadget = describe_gadget(folder)
        path = f"{gadget.name}/{sha256}.snap"
        published = PublishedGadget(gadget=gadget, path=path, sha256=sha256, size_bytes=len(content))
        with suppress(LostWriteError):
            store.put_file(_ROOT + path, snap, media_type=SNAP, if_absent=True)
    document = json.dumps(published.model_dump(), sort_keys=True, indent=4).encode()
    if name_object(_ROOT + pointer_path(gadget.name), document, store=store, signer=signer):
        log.info("gadget published", name=gadget.name, version=gadget.version)
    return published


def fetch_gadget(
    name: str, work_folder: Path, *, webs: Sequence[Web], open_message: Callable[[bytes, str], bytes], run: Run
) -> Path:
    """Download the gadget that a name means, verify it, and return its folder.

    Args:
        name: The gadget's name.
        work_folder: Gets the snap and the folder.
        webs: Servers' `oem/` folders. The first one that has the name counts.
        open_message: Returns the text of a message that the server's image-signing key signed.
        run: Starts programs.

    Raises:
        NotPresentError: No server has the gadget.
        RepositoryError: The signed pointer, or the snap, is of another gadget.
        VerificationError: The signed pointer cannot be read, or the snap is damaged.
    """
    web, message = _read_pointer(name, webs)
    where = pointer_path(name)
    try:
        published = PublishedGadget.model_validate_json(open_message(message, where))
    except ValidationError as error:
        problem = f"the pointer does not describe a gadget: {error.errors()[0]['msg']}"
        raise VerificationError(problem, where=where) from error
    if published.gadget.name != name or published.path != f"{name}/{published.sha256}.snap":
        raise RepositoryError(f"is of the gadget {published.gadget.name}", where=where)
    snap = work_folder / f"{name}.snap"
    web.download(published.path, snap, published.sha256, published.size_bytes)
    if hashlib.sha256(snap.read_bytes()).hexdigest() != published.sha256:
        raise RepositoryError("the gadget is not the one that was signed", where=published.path)
    folder = open_gadget(snap, work_folder, run=run)
    if describe_gadget(folder) != published.gadget:
        raise RepositoryError("the snap is of another gadget than its name says", where=published.path)
    return folder


def _read_pointer(name: str, webs: Sequence[Web]) -> tuple[Web, bytes]:
    for web in webs:
        try:
            return web, web.read(pointer_path(name), _POINTER_LIMIT_BYTES)
        except NotPresentError:
            continue
    raise NotPresentError(f"there is no gadget {name!r}", where=_ROOT)
