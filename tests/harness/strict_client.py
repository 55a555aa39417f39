"""A strict reader of published trees, written from the wire format alone (system-image §1 to §3), with gpg and tarfile.

It knows nothing of `coreimage.client`, so that the two can disagree. It checks what an unmodified client of 2015 or
an old recovery image would stumble over.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import subprocess
import tarfile
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


class RefusedError(AssertionError):
    pass


def require(condition: object, problem: str) -> None:
    if not condition:
        raise RefusedError(problem)


def check_tree(root: Path, archive_master: bytes) -> dict[tuple[str, str], list[int]]:
    """Every channel and device of the tree at `root`; gives the full versions of each, in the index's order."""
    signing = _signing_key(root, archive_master)
    channels = _json(_signed(root, "channels.json", signing))
    seen = {}
    for channel, entry in channels.items():
        require(isinstance(entry, dict) and "devices" in entry, f"channel {channel} has no devices")
        require(channel.split("/")[0] not in {"pool", "gpg"}, f"channel is called {channel}")
        require(type(entry.get("hidden", False)) is bool, "hidden is a boolean")
        for device, described in entry["devices"].items():
            seen[channel, device] = _check_index(root, described["index"], channel, device, signing)
            plain = root / channel / device / "index.json"
            require(plain.read_bytes() == _file(root, described["index"]).read_bytes(), "index.json is another one")
            _signed(root, f"{channel}/{device}/index.json", signing)
    return seen


def _signing_key(root: Path, archive_master: bytes) -> bytes:
    top = _keyring(archive_master, "archive-master")
    require(_signed(root, "gpg/archive-master.tar.xz", top), "archive-master signs itself")
    master = _keyring(_signed(root, "gpg/image-master.tar.xz", top), "image-master")
    refused = b""
    if (root / "gpg/blacklist.tar.xz").exists():
        refused = _keyring(_signed(root, "gpg/blacklist.tar.xz", master), "blacklist")
    signing = _keyring(_signed(root, "gpg/image-signing.tar.xz", master), "image-signing")
    require(not _primaries(refused) & _primaries(signing), "image-signing is blacklisted")
    return signing


def _keyring(tarball: bytes, kind: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(tarball, lzma.FORMAT_XZ))) as tar:
        require(tar.getnames() == ["keyring.json", "keyring.gpg"], f"members of {kind} are {tar.getnames()}")
        text, keys = (tar.extractfile(name).read() for name in tar.getnames())  # type: ignore[union-attr]
    lines = text.decode().splitlines()
    require(lines[0] == "{" and lines[-1] == "}", f"{kind}: one key a line")
    require(
        all(re.fullmatch(r' {4}"[a-z]+": [^ ].*', line) for line in lines[1:-1]), f"{kind}: four blanks, key: value"
    )
    described = _json(text)
    require(described["type"] == kind, f"{kind} says it is {described['type']}")
    if "expiry" in described:
        require(type(described["expiry"]) is int, f"{kind}: integer expiry")
        require(described["expiry"] > time.time(), f"{kind} has expired")
    return keys


def _check_index(root: Path, index: str, channel: str, device: str, signing: bytes) -> list[int]:
    document = _json(_signed(root, index, signing))
    stamp = document["global"]["generated_at"]
    require(time.strptime(stamp, "%a %b %d %H:%M:%S UTC %Y"), "generated_at")
    versions = [image["version"] for image in document["images"]]
    require(versions == sorted(versions), "newest last")
    for image in document["images"]:
        require(image["type"] in {"full", "delta"}, "type")
        require(type(image["version"]) is int and 0 <= image["version"] <= 65535, "version")
        require(("base" in image) == (image["type"] == "delta"), "base")
        _check_files(root, image, channel, device, signing)
    bases = {image["base"] for image in document["images"] if image["type"] == "delta"}
    for image in document["images"]:
        closed = image["type"] == "full" and image.get("minversion", 0) >= image["version"]
        require(
            image["type"] == "delta" or closed == (image["version"] in bases), "never a full image and then a delta"
        )
    return [image["version"] for image in document["images"] if image["type"] == "full"]


def _check_files(root: Path, image: dict[str, Any], channel: str, device: str, signing: bytes) -> None:
    files = image["files"]
    names = [file["path"].rpartition("/")[2] for file in files]
    require(len(set(names)) == len(names), "unique base names")
    require(sorted(file["order"] for file in files) == list(range(len(files))), "order from 0")
    for file in files:
        require(set(file) >= {"path", "signature", "checksum", "size", "order"}, "keys of a file")
        content = _file(root, file["path"]).read_bytes()
        require(type(file["size"]) is int and file["size"] == len(content), f"size of {file['path']}")
        require(hashlib.sha256(content).hexdigest() == file["checksum"], f"checksum of {file['path']}")
        require(file["signature"] == file["path"] + ".asc", "the signature is beside its file")
        _signed(root, file["path"], signing)
    details = dict(part.split("=", 1) for part in image["version_detail"].split(","))
    require(details["version"] == str(image["version"]), "version_detail")
    payloads = [_file(root, f["path"]) for f in sorted(files, key=lambda file: file["order"])]
    kinds, all_kinds = [path.name.split("-")[0] for path in payloads], ["ubuntu", "device", "version"]
    _check_version_tarball(payloads[-1], image, channel, device)
    if image["type"] == "full":
        require(kinds == all_kinds, "components in order")
        _check_rootfs(payloads[0])
    else:
        require(kinds == [kind for kind in all_kinds if kind in kinds] and kinds[-1] == "version", "some, in order")
        for path in payloads[:-1]:
            _check_delta(path)


def _check_delta(path: Path) -> None:
    with tarfile.open(path, "r:xz") as tar:
        first = tar.next()
        require(first is not None and first.name == "removed" and first.isreg(), "removed comes first")
        lines = tar.extractfile(first).read().decode().splitlines()  # type: ignore[arg-type, union-attr]
        names = [member.name for member in tar]
    require(lines and all(lines), "removed names something (LP #1437225)")
    require(not any(line.startswith(("/", "./")) or ".." in line.split("/") for line in lines), "removed stays inside")
    require(len(set(names)) == len(names), "no duplicates")


def _check_rootfs(path: Path) -> None:
    with tarfile.open(path, "r:xz") as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    require(all(name.startswith("system/") for name in names), "everything is below system/")
    require(not {"system/SWAP.swap"} & set(names), "no swap file")
    require(names.count("system/etc/mtab") == 1, "one mtab")
    files = [name for name in names if not next(m for m in members if m.name == name).isdir()]
    require(len(set(files)) == len(files), "no duplicates")
    found = {member.name: member for member in members}
    require(found["system/etc/mtab"].linkname == "/proc/mounts", "mtab")
    require(found["system/writable"].isdir(), "writable mount point")
    modules = "usr/lib/modules" if "system/lib" in found and found["system/lib"].issym() else "lib/modules"
    require(found[f"system/{modules}"].isdir(), "modules mount point")
    require(all(m.linkname.startswith("system/") for m in members if m.islnk()), "hard links move along")


def _check_version_tarball(path: Path, image: dict[str, Any], channel: str, device: str) -> None:
    top = "system/etc/system-image"
    with tarfile.open(path, "r:xz") as tar:
        members = {member.name: member for member in tar}
        texts = {m.name: tar.extractfile(m).read().decode() for m in members.values() if m.isreg()}  # type: ignore[union-attr]
    require(
        list(members)
        == [
            "system/etc/ubuntu-build",
            f"{top}/channel.ini",
            f"{top}/config.d",
            f"{top}/config.d/00_default.ini",
            f"{top}/config.d/01_channel.ini",
        ],
        "members of the version tarball",
    )
    require(all(m.mtime > 0 and m.uid == m.gid == 0 for m in members.values()), "mtimes and owners")
    require(members[f"{top}/config.d"].mode == 0o775, "mode of config.d")
    require(members[f"{top}/config.d/00_default.ini"].linkname == "../client.ini", "00_default.ini")
    require(members[f"{top}/config.d/01_channel.ini"].linkname == "../channel.ini", "01_channel.ini")
    require(texts["system/etc/ubuntu-build"] == f"{image['version']}\n", "ubuntu-build")
    lines = texts[f"{top}/channel.ini"].splitlines()
    require(lines[0] == "[service]" and "%" not in texts[f"{top}/channel.ini"], "channel.ini")
    ini = dict(line.split(": ", 1) for line in lines[1:])
    order = ["base", "http_port", "https_port", "channel", "device", "build_number", "version_detail"]
    require(list(ini) == order, "keys of channel.ini")
    require(
        (ini["channel"], ini["device"], ini["build_number"]) == (channel, device, str(image["version"])), "identity"
    )
    require(ini["version_detail"] == image["version_detail"], "version_detail of channel.ini")


def _signed(root: Path, path: str, keys: bytes) -> bytes:
    """The file's bytes, when exactly one detached, armoured signature by a primary key of `keys` is beside it."""
    file = _file(root, path)
    signature = _file(root, path + ".asc")
    require(signature.read_bytes().startswith(b"-----BEGIN PGP SIGNATURE-----"), f"{path}.asc is armoured")
    status = _gpg(keys, "--status-fd", "1", "--trust-model", "always", "--verify", str(signature), str(file))
    valid = [line.split() for line in status.splitlines() if line.startswith("[GNUPG:] VALIDSIG")]
    require(len(valid) == 1, f"{path} has {len(valid)} valid signatures")
    require(valid[0][2] in _primaries(keys), f"{path} is signed by a subkey or a stranger")
    require(valid[0][9] in {"8", "9", "10"}, f"{path} has a weak digest")
    return file.read_bytes()


def _primaries(keys: bytes) -> set[str]:
    if not keys:
        return set()
    listing = _gpg(keys, "--with-colons", "--fingerprint", "--list-keys")
    records = [line.split(":") for line in listing.splitlines()]
    return {after[9] for record, after in pairwise(records) if record[0] == "pub"}


def _gpg(keys: bytes, *arguments: str) -> str:
    with tempfile.TemporaryDirectory() as home:
        Path(home, "keyring.gpg").write_bytes(keys)
        command = ["gpg", "--homedir", home, "--batch", "--no-autostart", "--no-default-keyring"]
        keyring = ["--keyring", f"{home}/keyring.gpg"]
        done = subprocess.run([*command, *keyring, *arguments], capture_output=True, text=True, check=False)
        return done.stdout


def _file(root: Path, path: str) -> Path:
    file = root / path.lstrip("/")
    require(file.is_file(), f"{path} is not there")
    return file


def _json(content: bytes) -> dict[str, Any]:
    document = json.loads(content)
    require(isinstance(document, dict), "an object")
    return document  # type: ignore[no-any-return]
