"""The .debs of a lock: kept in the store, laid out as files, and made an archive that apt can read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import TypeVar

from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import ArtifactRef, LockedPackage
from coreimage.storage import Store, blob_key, fetch_blob, put_blob_file

Item = TypeVar("Item")
Result = TypeVar("Result")

_DEB = "application/vnd.debian.binary-package"
_AT_ONCE = 8

_INDEX = (
    "apt-ftparchive",
    "packages",
    ".",
    *(f"-oAPT::FTPArchive::{name}=false" for name in ("MD5", "SHA1", "SHA512")),
)
"""One process reads all packages in the time that dpkg-deb takes for a few: it starts two children for each."""


def fetch_packages(packages: Sequence[LockedPackage], *, store: Store, fetch: Fetch) -> None:
    """Put every .deb into the store, several at a time; those that are there are not downloaded again."""
    missing = [package for package in packages if store.head(blob_key(package.sha256)) is None]
    with workspace("packages") as folder:

        def fetch_one(package: LockedPackage) -> None:
            uri, path = package.archive.rpartition(" ")[0], folder / package.sha256
            fetch(f"{uri}/{package.filename}", path, sha256=package.sha256, size_bytes=package.size_bytes)
            put_blob_file(store, path, _DEB)
            path.unlink()

        _in_parallel(fetch_one, missing)


def lay_out_packages(packages: Sequence[LockedPackage], folder: Path, *, store: Store) -> list[Path]:
    """Write every .deb of the store to `folder`, which is made; return the files in the order of `packages`."""
    folder.mkdir()

    def lay_out(package: LockedPackage) -> Path:
        uri = blob_key(package.sha256)
        ref = ArtifactRef(uri=uri, sha256=package.sha256, size_bytes=package.size_bytes, media_type=_DEB)
        return fetch_blob(store, ref, folder / f"{package.sha256}.deb")

    return _in_parallel(lay_out, packages)


def make_archive(packages: Sequence[LockedPackage], folder: Path, *, unpack: bool, store: Store, run: Run) -> None:
    """Make a flat archive (sources.list(5), exact path) of the packages and nothing else.

    Args:
        packages: They are in the store.
        folder: Where the archive is made.
        unpack: Whether the .debs are decompressed: to unpack one then costs an emulated dpkg next to nothing.
        store: Has the packages.
        run: Runs apt-ftparchive and dpkg-deb.
    """
    paths = lay_out_packages(packages, folder, store=store)
    if unpack:
        _in_parallel(lambda path: decompress_deb(path, run=run), paths)
    with (folder / "Packages").open("wb") as file:
        run(_INDEX, cwd=folder, stdout=file)


def decompress_deb(package: Path, *, run: Run) -> None:
    """Replace a .deb by one of the same content in which nothing is compressed.

    A .deb is an ar(5) archive of three members (deb(5)). A member is as long as what dpkg-deb writes, so its header is
    written after it.
    """
    target, version = package.with_suffix(".plain"), b"2.0\n"
    with target.open("wb") as file:
        file.write(b"!<arch>\n" + _ar_header("debian-binary", len(version)) + version)
        for name, option in (("control.tar", "--ctrl-tarfile"), ("data.tar", "--fsys-tarfile")):
            header = file.tell()
            file.write(_ar_header(name, 0))
            file.flush()
            start = file.tell()
            run(["dpkg-deb", option, package], stdout=file)
            end = file.seek(0, 2)
            file.seek(header)
            file.write(_ar_header(name, end - start))
            file.seek(end)
            if end % 2:
                file.write(b"\n")
    target.replace(package)


def _ar_header(name: str, size_bytes: int) -> bytes:
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{size_bytes:<10}`\n".encode()


def _in_parallel(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of `work`, in the order of `items`. When one fails, those that have not begun are dropped."""
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        futures = [executor.submit(copy_context().run, work, item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
