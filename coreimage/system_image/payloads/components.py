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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from coreimage.client import Image, ImageFile, Seen, Session
from coreimage.client.json_codec import json_bytes, json_sha256
from coreimage.errors import NotFoundError, UsageError, VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import JSON, TAR_GZ, TAR_XZ, Architecture, ArtifactRef, Compression, Value
from coreimage.project.config import ComponentConfig, ImageSourceConfig
from coreimage.storage import Store, fetch_blob, put_blob_bytes, put_blob_file, read_bytes
from coreimage.system_image.documents import layout
from coreimage.system_image.documents.index import details_of
from coreimage.system_image.payloads.pool import pack_payload, recorded_artifact
from coreimage.system_image.server import ChannelTree
from coreimage.system_image.web import GpgvVerify, StoreWeb, client_errors, open_server
from coreimage.tarball import MemberCheck, TarWriter, decompressed, regular

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
class _Source:
    """What a component's source gives: a tarball in the store, and the value that version_detail says of it.

    `packed` is true of a tarball that is a signed pool file already.
    """

    tarball: ArtifactRef
    value: str
    packed: bool = False


def gather_components(
    tree: ChannelTree,
    configs: Sequence[ComponentConfig],
    device: str,
    architecture: Architecture,
    *,
    compression: Compression,
    folder: Path,
    fetch: Fetch,
    run: Run = run_process,
) -> tuple[Component, ...]:
    """Get the components of a device's next version, in the order in which they are applied.

    Args:
        configs: The channel's components; those of other devices are left out.
        folder: Where relative paths of the configuration start: the folder of the project file.
        fetch: Downloads tarballs and the trees of other servers.

    Raises:
        CoreimageError: A source cannot be read, or must not be believed: then there is no next version.
    """
    components = []
    for config in configs:
        if config.devices and device not in config.devices:
            continue
        if config.file is not None:
            source = _read_file(tree.store, config.name, folder / config.file)
        elif config.url is not None:
            source = _download(tree.store, config.url, config.monitor, fetch)
        elif config.keyring is not None:
            source = _pack_keyring(tree.store, config.keyring)
        else:
            assert config.image is not None  # noqa: S101 - the configuration has exactly one source
            part = config.image.component or config.name
            session = _open_session(tree, config.image, folder, fetch=fetch, run=run)
            source = _read_image(tree.store, config.image, part, config.image.device or device, session)
        file, detail = source.tarball, f"{config.name}={source.value}"
        if not source.packed:
            file = pack_payload(tree, config.name, file, architecture, detail=detail, compression=compression, run=run)
        components.append(Component(name=config.name, file=file, detail=detail))
    return tuple(components)


def require_fit(store: Store, parts: Sequence[ArtifactRef], *, run: Run) -> None:
    """Refuse parts of which one cannot be unpacked over those before it, as where it goes through a symbolic link.

    Where such a member ends is for each unpacker to decide, and a delta could not tell what stands there. Parts that
    were found fit are remembered.

    Args:
        parts: The tarballs of a version, in the order in which they are applied.

    Raises:
        VerificationError: `MemberCheck` refuses a member.
    """
    digest = json_sha256({"fit": [part.sha256 for part in parts]})
    record = f"{layout.IMPORT_CACHE}{digest}.json"
    if store.head(record) is not None:
        return
    check = MemberCheck(overwrite=True)
    with workspace("fit", run=run) as folder:
        for part in parts:
            packed = fetch_blob(store, part, folder / "part")
            with decompressed(packed, run=run) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
                for member in tar:
                    check.accept(member, part.uri)
    store.put_bytes(record, json_bytes({"fit": True}), media_type=JSON)


# A tarball of this machine


def _read_file(store: Store, name: str, path: Path) -> _Source:
    if not path.is_file():
        raise UsageError(
            f"there is no tarball for component {name!r}", where=str(path), resolution="mend its `file`, or make it"
        )
    tarball = put_blob_file(store, path, TAR_GZ)
    return _Source(tarball, _short(tarball))


# A web server


def _download(store: Store, url: str, monitor: str, fetch: Fetch) -> _Source:
    """Fetch the tarball at `url`: every time, or where there is a monitor, when the monitor's number changes."""
    if not monitor:
        tarball = _downloaded(store, url, fetch)
        return _Source(tarball, _short(tarball))
    number = _read_number(monitor, fetch)
    digest = json_sha256({"url": url, "number": number})
    record = f"{layout.IMPORT_CACHE}{digest}.json"
    remembered = recorded_artifact(store, record)
    if remembered is None:
        remembered = _downloaded(store, url, fetch)
        store.put_bytes(record, remembered.model_dump_json().encode(), media_type=JSON)
    return _Source(remembered, number)


def _read_number(monitor: str, fetch: Fetch) -> str:
    with tempfile.TemporaryDirectory(prefix="monitor-") as folder:
        path = fetch(monitor, Path(folder) / "number", limit_bytes=_MONITOR_LIMIT_BYTES)
        text = path.read_bytes().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != 1 or set(",=% ") & set(lines[0]) or not lines[0].isprintable():
        raise VerificationError(
            "it does not say one build number, on one line, without blanks, commas, `=` and `%`",
            where=monitor,
            resolution="mend what the server says there, or the component's `monitor`",
        )
    return lines[0]


def _downloaded(store: Store, url: str, fetch: Fetch) -> ArtifactRef:
    with tempfile.TemporaryDirectory(prefix="component-") as folder:
        path = fetch(url, Path(folder) / "component", limit_bytes=SIZE_LIMIT_BYTES)
        return put_blob_file(store, path, TAR_XZ)


# A keyring of ours


def _pack_keyring(store: Store, kind: str) -> _Source:
    """Pack a published keyring and its signature where images have the keyring that they trust.

    It is for images of others, who shall trust this server.
    """
    plain = io.BytesIO()
    with TarWriter(plain, epoch=1, form="legacy") as tar:
        for suffix in ("", ".asc"):
            with store.open(f"{layout.key(layout.keyring(kind))}{suffix}") as file:
                content = file.read()
            member = regular(f"{KEYRING_FOLDER}/archive-master.tar.xz{suffix}", len(content))
            member.mtime = 1
            tar.add(member, content)
    return _Source(put_blob_bytes(store, plain.getvalue(), TAR_XZ), kind)


# Another channel or server


def _read_image(store: Store, config: ImageSourceConfig, part: str, device: str, session: Session) -> _Source:
    """Read a part of the newest full version of another channel.

    From our own tree it is shared. From another server it is verified as a device would, and what that server said is
    remembered, so that no older tree is believed later.
    """
    with client_errors():
        image = session.select(config.channel, device)
        file = _find_part(part, image, f"{config.channel} {device}")
        value = details_of(image.version_detail).get(part, str(image.version))
        if not config.server:
            uri = layout.key(file.path)
            ref = ArtifactRef(uri=uri, sha256=file.sha256, size_bytes=file.size_bytes, media_type=TAR_XZ)
            return _Source(ref, value, packed=True)
        others = [other.name for other in image.files if other is not file]
        with tempfile.TemporaryDirectory(prefix="component-") as folder:
            (path,) = session.download(config.channel, device, image, Path(folder), leave_out=others)
            tarball = put_blob_file(store, path, TAR_XZ)
        seen = session.seen()
        if _read_seen(store, config.server).number <= seen.number:
            document = {"server": config.server, "number": seen.number, "sha256": seen.sha256}
            store.put_bytes(_seen_key(config.server), json_bytes(document), media_type=JSON)
    return _Source(tarball, value)


def _open_session(tree: ChannelTree, config: ImageSourceConfig, folder: Path, *, fetch: Fetch, run: Run) -> Session:
    def now_s() -> float:
        return tree.now().timestamp()

    if not config.server:
        with tree.store.open(layout.key(layout.keyring("archive-master"))) as file:
            return Session(StoreWeb(tree.store), GpgvVerify(run), file.read(), now_s)
    keyring = folder / config.keyring
    try:
        trusted = keyring.read_bytes()
    except OSError as error:
        raise UsageError(
            f"the keyring of the server cannot be read: {error.strerror}",
            where=str(keyring),
            resolution="get the server's archive-master.tar.xz from somebody you trust",
        ) from error
    url = config.server if "://" in config.server else (folder / config.server).absolute().as_uri()
    seen = _read_seen(tree.store, config.server)
    return open_server(url, trusted, fetch=fetch, run=run, now=now_s, seen=seen, legacy=config.legacy)


def _find_part(prefix: str, image: Image, where: str) -> ImageFile:
    """Find the file that is named after the component: its name is `<prefix>-<digest>…` (system-image §5)."""
    files = [file for file in image.files if file.name.rpartition("-")[0] == prefix]
    if len(files) != 1:
        known = ", ".join(sorted({file.name.rpartition("-")[0] for file in image.files}))
        raise NotFoundError(f"version {image.version} has no {prefix!r}", where=where, resolution=f"it has {known}")
    return files[0]


def _seen_key(server: str) -> str:
    return f"{layout.IMPORT_CACHE}servers/{hashlib.sha256(server.encode()).hexdigest()}.json"


def _read_seen(store: Store, server: str) -> Seen:
    content = read_bytes(store, _seen_key(server))
    if content is None:
        return Seen()
    document = json.loads(content)
    return Seen(number=int(document["number"]), sha256=str(document["sha256"]))


def _short(ref: ArtifactRef) -> str:
    return ref.sha256[:_DIGEST_LETTERS]
