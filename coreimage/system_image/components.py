"""What a version may have besides rootfs and device part: further tarballs, each from a source of its own.

A tarball of this machine, of a web server (with a number to watch), one of our keyrings, or a part of another
system-image server's newest version. Every one is read member by member, packed anew and signed: nothing that was not
verified, where there is something to verify it by, is signed here.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath

import structlog

from coreimage.client import Image, ImageFile, Seen, Session
from coreimage.config import ComponentConfig, ImageSourceConfig
from coreimage.errors import NotFoundError, UsageError, VerificationError
from coreimage.http import Fetch
from coreimage.image_server import GpgvVerify, StoreWeb, client_errors, open_server
from coreimage.model import JSON, TAR_GZ, TAR_XZ, Architecture, ArtifactRef, Compression, Value
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import Signer
from coreimage.storage import Store, fetch_blob, put_blob_bytes, put_blob_file
from coreimage.system_image import layout
from coreimage.system_image.documents import details_of, json_bytes
from coreimage.system_image.payload import payload
from coreimage.tarball import TarWriter, decompressed, regular
from coreimage.workspace import workspace

log = structlog.get_logger("coreimage.system_image")

KEYRING_FOLDER = "system/usr/share/system-image"
"""Where clients have the keyring that they trust (system-image §2.7)."""
SIZE_LIMIT_BYTES = 4 << 30
_MONITOR_LIMIT_BYTES = 4096
_DIGEST_LETTERS = 16


class Component(Value):
    """One more tarball of a version, signed and in the pool. `detail` is its `name=value` of the version_detail."""

    name: str
    file: ArtifactRef
    detail: str


@dataclass(frozen=True)
class Gathering:
    """What components are made for and with. `folder` is what relative paths of the configuration start from."""

    device: str
    architecture: Architecture
    compression: Compression
    folder: Path
    store: Store
    signer: Signer
    fetch: Fetch
    now: Callable[[], datetime]
    run: Run = run_process


def gather(configs: Sequence[ComponentConfig], by: Gathering) -> tuple[Component, ...]:
    """The components of a device's next version, in the order in which they are applied.

    Raises what a source that cannot be had, or must not be believed, calls for; then there is no next version.
    """
    return tuple(_component(config, by) for config in configs if by.device in (config.devices or (by.device,)))


def require_fit(parts: Sequence[ArtifactRef], *, store: Store, run: Run) -> None:
    """Raises VerificationError where a part would write through a symbolic link of one before it: where that ends is
    for each unpacker to say, and a delta could not tell what is there. What was found fit is remembered."""
    asked = hashlib.sha256(json_bytes({"fit": [part.sha256 for part in parts]})).hexdigest()
    record = f"{layout.IMPORT_CACHE}{asked}.json"
    if store.head(record) is not None:
        return
    links: set[str] = set()
    with workspace("fit", run=run) as folder:
        for part in parts:
            packed = fetch_blob(store, part, folder / "part")
            with decompressed(packed, run=run) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    _require_no_link_above(member, links, part)
                    links.add(member.name) if member.issym() else links.discard(member.name)
    store.put_bytes(record, json_bytes({"fit": True}), media_type=JSON)


def _require_no_link_above(member: tarfile.TarInfo, links: set[str], part: ArtifactRef) -> None:
    for parent in PurePosixPath(member.name).parents:
        if str(parent) in links:
            raise VerificationError(
                f"{member.name[:200]!r} goes through {str(parent)!r}, which is a symbolic link",
                where=part.uri,
                resolution="let the component name the place that the link leads to",
            )


def _component(config: ComponentConfig, by: Gathering) -> Component:
    if config.file is not None:
        return _of_file(config.name, by.folder / config.file, by)
    if config.url is not None:
        return _of_web(config, config.url, by)
    if config.keyring is not None:
        return _of_keyring(config.name, config.keyring, by)
    assert config.image is not None  # noqa: S101 - the configuration has exactly one source
    return _of_image(config.name, config.image, by)


def _packed(name: str, source: ArtifactRef, by: Gathering) -> ArtifactRef:
    return payload(
        name,
        source,
        by.architecture,
        compression=by.compression,
        store=by.store,
        signer=by.signer,
        run=by.run,
    )


# A tarball of this machine


def _of_file(name: str, path: Path, by: Gathering) -> Component:
    if not path.is_file():
        raise UsageError(
            f"there is no tarball for component {name!r}", where=str(path), resolution="mend its `file`, or make it"
        )
    source = put_blob_file(by.store, path, TAR_GZ)
    return Component(name=name, file=_packed(name, source, by), detail=f"{name}={_short(source)}")


# A web server


def _of_web(config: ComponentConfig, url: str, by: Gathering) -> Component:
    """With a monitor, the tarball is fetched when the monitor's number is another one; without, every time."""
    name = config.name
    if not config.monitor:
        source = _downloaded(url, by)
        return Component(name=name, file=_packed(name, source, by), detail=f"{name}={_short(source)}")
    number = _number(config.monitor, by)
    asked = hashlib.sha256(json_bytes({"url": url, "number": number})).hexdigest()
    record = f"{layout.IMPORT_CACHE}{asked}.json"
    remembered = _remembered(record, by)
    if remembered is None:
        remembered = _downloaded(url, by)
        by.store.put_bytes(record, remembered.model_dump_json().encode(), media_type=JSON)
    return Component(name=name, file=_packed(name, remembered, by), detail=f"{name}={number}")


def _number(monitor: str, by: Gathering) -> str:
    with tempfile.TemporaryDirectory(prefix="monitor-") as folder:
        path = by.fetch(monitor, Path(folder) / "number", limit_bytes=_MONITOR_LIMIT_BYTES)
        text = path.read_bytes().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1 or set(",=% ") & set(lines[0]) or not lines[0].isprintable():
        raise VerificationError(
            "it does not say one build number, on one line, without blanks, commas, `=` and `%`",
            where=monitor,
            resolution="mend what the server says there, or the component's `monitor`",
        )
    return lines[0]


def _downloaded(url: str, by: Gathering) -> ArtifactRef:
    with tempfile.TemporaryDirectory(prefix="component-") as folder:
        path = by.fetch(url, Path(folder) / "component", limit_bytes=SIZE_LIMIT_BYTES)
        return put_blob_file(by.store, path, TAR_XZ)


def _remembered(record: str, by: Gathering) -> ArtifactRef | None:
    """What was fetched for a number before, if it is still there."""
    try:
        with by.store.open(record) as file:
            ref = ArtifactRef.model_validate_json(file.read())
    except (NotFoundError, ValueError):
        return None
    found = by.store.head(ref.uri)
    return ref if found is not None and found.size_bytes == ref.size_bytes else None


# A keyring of ours


def _of_keyring(name: str, kind: str, by: Gathering) -> Component:
    """The published keyring and its signature, where images have the one that they trust: for images of others, whose
    trust this server is to have."""
    plain = io.BytesIO()
    with TarWriter(plain, epoch=1, form="gnu") as tar:
        for suffix in ("", ".asc"):
            with by.store.open(f"{layout.key(layout.keyring(kind))}{suffix}") as file:
                content = file.read()
            member = regular(f"{KEYRING_FOLDER}/archive-master.tar.xz{suffix}", len(content))
            member.mtime = 1
            tar.add(member, content)
    source = put_blob_bytes(by.store, plain.getvalue(), TAR_XZ)
    return Component(name=name, file=_packed(name, source, by), detail=f"{name}={kind}")


# Another channel or server


def _of_image(name: str, config: ImageSourceConfig, by: Gathering) -> Component:
    """A part of the newest full version there. From our own tree it is shared; from another server it is verified as a
    device would, remembered so that no older tree is believed later, and packed anew."""
    device = config.device or by.device
    session = _session(config, by)
    with client_errors():
        image = session.select(config.channel, device)
        file = _part(config.component or name, image, f"{config.channel} {device}")
        detail = details_of(image.version_detail).get(config.component or name, str(image.version))
        if not config.server:
            ref = ArtifactRef(
                uri=layout.key(file.path), sha256=file.sha256, size_bytes=file.size_bytes, media_type=TAR_XZ
            )
            return Component(name=name, file=ref, detail=f"{name}={detail}")
        others = [other.name for other in image.files if other is not file]
        with tempfile.TemporaryDirectory(prefix="component-") as folder:
            (path,) = session.download(config.channel, device, image, Path(folder), leave_out=others)
            source = put_blob_file(by.store, path, TAR_XZ)
        _keep(config.server, session.seen(), by.store)
    return Component(name=name, file=_packed(name, source, by), detail=f"{name}={detail}")


def _session(config: ImageSourceConfig, by: Gathering) -> Session:
    if not config.server:
        with by.store.open(layout.key(layout.keyring("archive-master"))) as file:
            return Session(StoreWeb(by.store), GpgvVerify(by.run), file.read(), lambda: by.now().timestamp())
    try:
        trusted = (by.folder / config.keyring).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the keyring of the server cannot be read: {error.strerror}",
            where=str(by.folder / config.keyring),
            resolution="get the server's archive-master.tar.xz from somebody you trust",
        ) from error
    url = config.server if "://" in config.server else (by.folder / config.server).absolute().as_uri()
    seen = _seen(config.server, by.store)
    return open_server(
        url,
        trusted,
        fetch=by.fetch,
        run=by.run,
        now=lambda: by.now().timestamp(),
        seen=seen,
        legacy=config.legacy,
    )


def _part(prefix: str, image: Image, where: str) -> ImageFile:
    """The file that is called after the component: all before the last `-` (system-image §5)."""
    found = [file for file in image.files if file.name.rpartition("-")[0] == prefix]
    if len(found) != 1:
        known = ", ".join(sorted({file.name.rpartition("-")[0] for file in image.files}))
        raise NotFoundError(f"version {image.version} has no {prefix!r}", where=where, resolution=f"it has {known}")
    return found[0]


def _seen_key(server: str) -> str:
    return f"{layout.IMPORT_CACHE}servers/{hashlib.sha256(server.encode()).hexdigest()}.json"


def _seen(server: str, store: Store) -> Seen:
    try:
        with store.open(_seen_key(server)) as file:
            found = json.loads(file.read())
        return Seen(number=int(found["number"]), sha256=str(found["sha256"]))
    except NotFoundError:
        return Seen()


def _keep(server: str, seen: Seen, store: Store) -> None:
    document = {"server": server, "number": seen.number, "sha256": seen.sha256}
    if _seen(server, store).number <= seen.number:
        store.put_bytes(_seen_key(server), json_bytes(document), media_type=JSON)


def _short(ref: ArtifactRef) -> str:
    return ref.sha256[:_DIGEST_LETTERS]
