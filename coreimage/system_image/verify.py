"""Walks a published tree and checks all of it: signatures, digests, sizes, references, pairs, expiry, orphans.

A client stops at the first thing that is wrong; this goes on, so that one look says everything. It reads the tree as
our own clients do and also checks what only clients of 2015 read.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from coreimage.client import (
    Channel,
    DeviceEntry,
    Image,
    ImageFile,
    Index,
    Keyring,
    NotPresentError,
    RepositoryError,
    SignatureError,
    SignedChannels,
    Verify,
    Web,
    parse_channels,
    parse_index,
    parse_signed_channels,
    primary_fingerprints,
    read_keyring,
)
from coreimage.client.documents import CHANNELS_LIMIT_BYTES, INDEX_LIMIT_BYTES
from coreimage.client.keyring import KEYRING_LIMIT_BYTES
from coreimage.client.session import (
    CHANNELS,
    CHANNELS_PAIR,
    SIGNATURE_LIMIT_BYTES,
    keyring_path,
    keyring_signature_path,
)
from coreimage.http import Fetch
from coreimage.image_server import WEB_ROOT, FetchWeb, GpgvVerify, StoreWeb, client_errors
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import Signer
from coreimage.storage import Store
from coreimage.system_image import layout
from coreimage.system_image.findings import REPAIR, Collector, Findings, WaitingCandidate
from coreimage.system_image.keyrings import heal_keyrings
from coreimage.system_image.tree import heal_pair
from coreimage.system_image.verify_builds import verify_builds
from coreimage.system_image.version_tarball import read_identity

EXPIRY_WARNING_DAYS = 90
"""A keyring that ends sooner than this is warned of: devices that are off meanwhile need the new one in time."""
FREEZE_WARNING_DAYS = 30
RENEW = "sign it anew: `coreimage keys re-sign`"

_CANDIDATE = re.compile(r"(?P<channel>.+)/(?P<device>[^/]+)/candidates/(?P<version>[1-9]\d*)/channels\.json\.gpg")
_INDEX = re.compile(r"(?:.*/)?index-([0-9a-f]{64})\.json")
_OWN_HISTORY = re.compile(r".*\.html|gpg/[a-z-]+-[0-9a-f]{64}\.tar\.xz\.asc|.*/candidates/\d+/channels\.json\.gpg")


def verify_store(
    store: Store,
    archive_master: bytes,
    *,
    cdimage_key: bytes | None = None,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
) -> Findings:
    """The `system-image/` tree of a store and, with the public key of cdimage, the builds below `cdimage/`."""
    names = [info.key.removeprefix(WEB_ROOT) for info in store.list(WEB_ROOT)]
    found = verify_tree(StoreWeb(store), archive_master, names=names, run=run, now=now)
    return found if cdimage_key is None else found + verify_builds(store, cdimage_key, run=run)


def verify_web(
    where: str | Path,
    archive_master: bytes,
    *,
    fetch: Fetch,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
) -> Findings:
    """The tree in a folder, or at a URL, where orphans cannot be seen."""
    if isinstance(where, str):
        return verify_tree(FetchWeb(where, fetch), archive_master, run=run, now=now)
    root = where.absolute()
    names = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]
    return verify_tree(FetchWeb(root.as_uri(), fetch), archive_master, names=names, run=run, now=now)


def verify_tree(
    web: Web,
    archive_master: bytes,
    *,
    names: Iterable[str] | None = None,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
) -> Findings:
    """Everything that can be reached from `archive_master`, a keyring tarball that is trusted because it was given.

    `names` are all paths below the web root; None when they cannot be listed, and then neither orphans nor waiting
    candidates are found. Raises InfrastructureError when the tree cannot be read, and never for what is in it.
    """
    with tempfile.TemporaryDirectory(prefix="verify-") as folder, client_errors():
        walk = _Walk(web, GpgvVerify(run), now(), Path(folder), None if names is None else frozenset(names))
        walk.tree(archive_master)
        return walk.findings()


def repair_tree(*, store: Store, signer: Signer) -> bool:
    """Makes the pairs that old clients read agree again with what is signed; whether anything had to be written."""
    keyrings = heal_keyrings(store=store)
    return heal_pair(store=store, signer=signer) or keyrings


class _Walk:
    def __init__(self, web: Web, verify: Verify, now: float, folder: Path, names: frozenset[str] | None) -> None:
        self._web, self._verify, self._now, self._folder, self._names = web, verify, now, folder, names
        self._found = Collector()
        self._seen: set[str] = set()
        self._right: set[tuple[ImageFile, tuple[bytes, ...]]] = set()
        self._refused: frozenset[str] = frozenset()
        self._newest: dict[tuple[str, str], int] = {}
        self._candidates: list[WaitingCandidate] = []

    def findings(self) -> Findings:
        orphans = sorted(name for name in (self._names or frozenset()) - self._seen if not _OWN_HISTORY.fullmatch(name))
        return Findings(
            findings=tuple(self._found.findings),
            checked=len(self._seen),
            candidates=tuple(self._candidates),
            orphans=tuple(orphans),
        )

    def tree(self, archive_master: bytes) -> None:
        with self._found.noting("gpg/image-signing.tar.xz"):
            signing = self._signing_keyring(archive_master)
            with self._found.noting(CHANNELS):
                for channel in self._channels(signing).values():
                    for device, entry in channel.devices.items():
                        self._device(channel, device, entry, signing)
            for name in sorted(self._names or ()):
                self._unnamed(name, signing)

    # Keyrings

    def _signing_keyring(self, archive_master: bytes) -> Keyring:
        top = read_keyring(archive_master, "archive-master", now=self._now, where="archive-master")
        with self._found.noting("gpg/archive-master.tar.xz"):
            self._keyring("archive-master", top)
        master = self._keyring("image-master", top)
        try:
            self._refused = primary_fingerprints(self._keyring("blacklist", master).keys)
        except NotPresentError:
            self._refused = frozenset()
        return self._keyring("image-signing", master)

    def _keyring(self, kind: str, signed_by: Keyring) -> Keyring:
        path = keyring_path(kind)
        tarball = self._read(path, KEYRING_LIMIT_BYTES)
        self._keyring_signature(kind, tarball, signed_by)
        keyring = read_keyring(tarball, kind, now=self._now, where=path)
        self._warn_of_expiry(keyring, path)
        return keyring

    def _keyring_signature(self, kind: str, tarball: bytes, signed_by: Keyring) -> None:
        """As our own clients judge it; where only old ones would refuse it, that is noted."""
        path = keyring_path(kind)
        try:
            self._signature(path, tarball, f"{path}.asc", [signed_by])
        except (SignatureError, NotPresentError) as torn:
            try:
                self._signature(path, tarball, keyring_signature_path(kind, tarball), [signed_by])
            except NotPresentError:
                raise torn from None
            self._found.error(path, f"it and its signature do not belong together: {torn.problem}", REPAIR)

    def _warn_of_expiry(self, keyring: Keyring, path: str) -> None:
        if keyring.expiry is not None and keyring.expiry < self._now + EXPIRY_WARNING_DAYS * 86400:
            self._found.warning(
                path,
                f"this keyring ends on {_day(keyring.expiry)}",
                "renew it where the keys are: the next `coreimage build` publishes it",
            )

    # Documents

    def _channels(self, signing: Keyring) -> dict[str, Channel]:
        """Those of the signed object, with which the pair must agree; of the pair, where there is nothing else."""
        try:
            message = self._read(CHANNELS, CHANNELS_LIMIT_BYTES)
        except NotPresentError:
            return parse_channels(self._signed(CHANNELS_PAIR, CHANNELS_LIMIT_BYTES, [signing]), CHANNELS_PAIR)
        content = self._verify.inline(message, [signing.keys], self._refused, CHANNELS)
        document = parse_signed_channels(content, CHANNELS)
        if document.kind != "channels":
            self._found.error(CHANNELS, f"it is of the kind {document.kind!r}")
        self._warn_of_freeze(document)
        with self._found.noting(CHANNELS_PAIR, REPAIR):
            pair = self._signed_apart(CHANNELS_PAIR, CHANNELS_LIMIT_BYTES, [signing])
            if parse_channels(pair, CHANNELS_PAIR) != document.channels:
                raise RepositoryError(f"it does not say what {CHANNELS} says", where=CHANNELS_PAIR)
        return document.channels

    def _warn_of_freeze(self, document: SignedChannels) -> None:
        """Past its end, clients take the channels for frozen by somebody."""
        if document.number == 0:
            self._found.warning(CHANNELS, "it has neither number nor expiry", RENEW)
        elif document.expires is not None and document.expires <= self._now:
            self._found.error(CHANNELS, f"it has ended on {_day(document.expires)}", RENEW)
        elif document.expires is not None and document.expires < self._now + FREEZE_WARNING_DAYS * 86400:
            self._found.warning(CHANNELS, f"it ends on {_day(document.expires)}", RENEW)

    def _device(self, channel: Channel, device: str, entry: DeviceEntry, signing: Keyring) -> None:
        redirect = entry.redirect or channel.redirect
        with self._found.noting(entry.index):
            index, content, keys = self._index(redirect or channel.name, device, entry, signing)
            versions = [image.version for image in index.images if image.type == "full"]
            self._newest[channel.name, device] = max(versions, default=0)
            if redirect is None and entry.index_sha256 is not None:
                plain = f"{channel.name}/{device}/index.json"
                with self._found.noting(plain, REPAIR):
                    self._same(plain, content, INDEX_LIMIT_BYTES, [signing], of=entry.index)
            for image in index.images:
                self._image(image, index, entry.index, keys)

    def _index(
        self, channel: str, device: str, entry: DeviceEntry, signing: Keyring
    ) -> tuple[Index, bytes, list[Keyring]]:
        keys = self._keys_of(entry, device, signing)
        content = self._signed(entry.index, INDEX_LIMIT_BYTES, keys)
        named = _INDEX.fullmatch(entry.index)
        digests = {entry.index_sha256, named and named[1]} - {None}
        if digests - {hashlib.sha256(content).hexdigest()}:
            raise RepositoryError("the index is not the one that the channel names", where=entry.index)
        index = parse_index(content, entry.index)
        if index.channel not in {None, channel} or index.device not in {None, device}:
            raise RepositoryError(
                f"it is of {index.channel} for {index.device}, not of {channel} for {device}", where=entry.index
            )
        for problem in index_problems(index):
            self._found.error(entry.index, problem)
        return index, content, keys

    def _keys_of(self, entry: DeviceEntry, device: str, signing: Keyring) -> list[Keyring]:
        if entry.keyring is None:
            return [signing]
        path, signature = entry.keyring
        tarball = self._read(path, KEYRING_LIMIT_BYTES)
        self._signature(path, tarball, signature, [signing])
        own = read_keyring(tarball, "device-signing", now=self._now, device=device, where=path)
        self._warn_of_expiry(own, path)
        return [signing, own]

    # Images

    def _image(self, image: Image, index: Index, where: str, keys: Sequence[Keyring]) -> None:
        for file in image.files:
            with self._found.noting(file.path):
                self._file(file, image, index, keys)
        named = [file for file in image.files if file.name == f"version-{image.version}.tar.xz"]
        if index.channel is not None and image.type == "full" and len(named) != 1:
            self._found.error(where, f"image {image.version} has no file that says its version")

    def _file(self, file: ImageFile, image: Image, index: Index, keys: Sequence[Keyring]) -> None:
        judged = (file, tuple(key.keys for key in keys))
        if judged in self._right:
            return
        self._right.add(judged)
        local = self._folder / "file"
        try:
            self._fetch(file, local)
            self._signature(file.path, local, file.signature, keys)
            self._sidecar(file.path, keys)
            if index.channel is not None and file.name.startswith("version-"):
                self._identity(file, local, image, index)
        finally:
            local.unlink(missing_ok=True)

    def _fetch(self, file: ImageFile, local: Path) -> None:
        self._seen.add(file.path.lstrip("/"))
        self._web.download(file.path, local, file.sha256, file.size_bytes)
        if local.stat().st_size != file.size_bytes:
            raise RepositoryError(f"it does not have the {file.size_bytes} bytes of the index", where=file.path)
        with local.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != file.sha256:
                raise RepositoryError("it does not have the digest of the index", where=file.path)

    def _sidecar(self, path: str, keys: Sequence[Keyring]) -> None:
        """What the server itself notes beside a file; nothing refers to it, but what is there must be signed."""
        sidecar = layout.sidecar(path)
        if not path.endswith((".tar.xz", ".tar.zst")) or (
            self._names is not None and sidecar.lstrip("/") not in self._names
        ):
            return
        try:
            content = self._read(sidecar, INDEX_LIMIT_BYTES)
        except NotPresentError:
            return
        with self._found.noting(sidecar):
            self._signature(sidecar, content, f"{sidecar}.asc", keys)

    def _identity(self, file: ImageFile, local: Path, image: Image, index: Index) -> None:
        wanted = {
            "channel": index.channel,
            "device": index.device,
            "channel_target": index.channel_target,
            "build_number": str(image.version),
            "version_detail": image.version_detail,
        }
        with local.open("rb") as content:
            found, _ = read_identity(content, file.path)
        for name, value in wanted.items():
            if found.get(name) != value:
                self._found.error(file.path, f"{name} is {found.get(name)!r} inside, and {value!r} in the index")

    # What the channels do not name

    def _unnamed(self, name: str, signing: Keyring) -> None:
        if (superseded := _INDEX.fullmatch(name)) and name not in self._seen:
            with self._found.noting(name):
                content = self._signed(name, INDEX_LIMIT_BYTES, [signing])
                if hashlib.sha256(content).hexdigest() != superseded[1]:
                    raise RepositoryError("the index does not have the digest of its name", where=name)
        elif candidate := _CANDIDATE.fullmatch(name):
            place, version = (candidate["channel"], candidate["device"]), int(candidate["version"])
            if version > self._newest.get(place, 0):
                with self._found.noting(name):
                    self._candidate(name, *place, version, signing)

    def _candidate(self, name: str, channel: str, device: str, version: int, signing: Keyring) -> None:
        message = self._read(name, CHANNELS_LIMIT_BYTES)
        document = parse_signed_channels(self._verify.inline(message, [signing.keys], self._refused, name), name)
        channels = document.channels
        if document.kind != "candidate" and document.number:
            raise RepositoryError("it is not marked as a candidate's", where=name)
        if channels.keys() != {channel} or channels[channel].devices.keys() != {device}:
            raise RepositoryError("a candidate names nothing but its own channel and device", where=name)
        entry = channels[channel].devices[device]
        index, _, keys = self._index(channel, device, entry, signing)
        if max((image.version for image in index.images), default=0) != version:
            raise RepositoryError(f"its index does not end with version {version}", where=name)
        for image in index.images:
            self._image(image, index, entry.index, keys)
        self._candidates.append(WaitingCandidate(channel=channel, device=device, version=version))

    # Reading

    def _read(self, path: str, limit_bytes: int) -> bytes:
        content = self._web.read(path, limit_bytes)
        self._seen.add(path.lstrip("/"))
        return content

    def _signed(self, path: str, limit_bytes: int, keys: Sequence[Keyring]) -> bytes:
        content = self._read(path, limit_bytes)
        self._signature(path, content, f"{path}.asc", keys)
        return content

    def _signature(self, path: str, content: bytes | Path, signature_path: str, keys: Sequence[Keyring]) -> None:
        signature = self._read(signature_path, SIGNATURE_LIMIT_BYTES)
        self._verify.detached(content, signature, [key.keys for key in keys], self._refused, path)

    def _same(self, path: str, content: bytes, limit_bytes: int, keys: Sequence[Keyring], *, of: str) -> None:
        if self._signed_apart(path, limit_bytes, keys) != content:
            raise RepositoryError(f"it does not say what {of.lstrip('/')} says", where=path)

    def _signed_apart(self, path: str, limit_bytes: int, keys: Sequence[Keyring]) -> bytes:
        try:
            return self._signed(path, limit_bytes, keys)
        except SignatureError as error:
            raise RepositoryError(f"it and its signature do not belong together: {error.problem}", where=path) from None


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def index_problems(index: Index) -> list[str]:
    """Pure: what is wrong with the images of an index among themselves."""
    fulls = [image.version for image in index.images if image.type == "full"]
    deltas = [(image.base, image.version, image.form) for image in index.images if image.type == "delta"]
    problems = []
    if fulls != sorted(set(fulls)):
        problems.append("its versions are not in order, each once")
    if len(set(deltas)) != len(deltas):
        problems.append("two deltas lead from one version to the same other")
    problems += [f"a delta leads from {base} to {version}" for base, version, _ in deltas if (base or 0) >= version]
    return problems
