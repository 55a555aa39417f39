"""A chroot made by mmdebstrap from exactly the packages of a lock, without network, as root or as an ordinary user."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from coreimage.errors import BuildError, CoreimageError, HostError, ProcessError
from coreimage.http import Fetch
from coreimage.model import ArtifactRef, LockedPackage, PackageLock
from coreimage.process import Run, Sandbox
from coreimage.storage import Store, blob_key, fetch_blob, put_blob_file

T = TypeVar("T")
DEB = "application/vnd.debian.binary-package"
_DOWNLOADS = 8

SLIM = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/groff/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/linda/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)
"""Never unpacked (dpkg(1), path filters); copyright files stay, as licences ask."""

FAILED_HOOK = "coreimage-hook-failed"


@dataclass(frozen=True)
class Chroot:
    """The finished chroot as an uncompressed tar, and what mmdebstrap said while making it."""

    tar: Path
    log: str


@contextmanager
def workspace(run: Run) -> Iterator[Path]:
    """A folder that goes away again, with whatever files of other ids a killed chroot left in it."""
    folder = Path(tempfile.mkdtemp(prefix="coreimage-rootfs-"))
    try:
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        except PermissionError:
            run(["rm", "-rf", folder], sandbox=Sandbox.ROOT)


def fetch_packages(packages: Sequence[LockedPackage], *, store: Store, fetch: Fetch) -> None:
    """Puts every .deb into the store, several at a time; those already there are not fetched again."""

    def one(package: LockedPackage) -> None:
        if store.head(blob_key(package.sha256)) is None:
            uri = package.archive.rpartition(" ")[0]
            with tempfile.TemporaryDirectory(prefix="coreimage-deb-") as folder:
                path = Path(folder) / "deb"
                fetch(f"{uri}/{package.filename}", path, sha256=package.sha256, size_bytes=package.size_bytes)
                put_blob_file(store, path, DEB)

    _in_parallel(one, packages)


def make_chroot(
    lock: PackageLock,
    folder: Path,
    customize: str,
    files: Mapping[str, ArtifactRef],
    *,
    store: Store,
    fetch: Fetch,
    run: Run,
    on_line: Callable[[str], None] | None = None,
) -> Chroot:
    """Installs the packages, then runs `customize` (sh; $1 is the chroot, $FILES holds `files`) in the sandbox.

    Raises BuildError for what does not install and for a failing hook, HostError when the disk is full.
    """
    fetch_packages(lock.packages, store=store, fetch=fetch)
    archive = _local_archive(lock.packages, folder / "archive", store=store, run=run)
    for name, ref in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        fetch_blob(store, ref, folder / name)
    script = folder / "customize"
    script.write_text(f"#!/bin/sh\nset -eu\nFILES={folder}\n{customize}")
    script.chmod(0o755)
    (folder / "tmp").mkdir()
    return _bootstrap(lock, folder, _argv(lock, archive, script), run, on_line)


def _bootstrap(
    lock: PackageLock, folder: Path, argv: Sequence[str], run: Run, on_line: Callable[[str], None] | None
) -> Chroot:
    tar, lines = folder / "chroot.tar", list[str]()

    def keep(line: str) -> None:
        lines.append(line)
        if on_line:
            on_line(line)

    env = {"SOURCE_DATE_EPOCH": str(lock.epoch), "TMPDIR": str(folder / "tmp"), "INITRD": "No", "HOME": "/root"}
    try:
        with tar.open("wb") as target:
            run(argv, sandbox=Sandbox.ROOT, network=False, env=env, cwd=folder, stdout=target, on_line=keep)
    except ProcessError as error:
        raise explain(error, lines) from error
    return Chroot(tar, "".join(f"{line}\n" for line in lines))


def _argv(lock: PackageLock, archive: Path, script: Path) -> list[str]:
    # umask: mmdebstrap and hooks create files with the caller's, which must not show in the result.
    return [
        *("sh", "-c", 'umask 022; exec "$@"', "sh"),
        "mmdebstrap",
        "--mode=root",
        "--variant=essential",
        "--format=tar",
        f"--architectures={lock.architecture}",
        f"--include={','.join(package.name for package in lock.packages)}",
        '--aptopt=APT::Sandbox::User "root"',
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt={rule}" for rule in SLIM),
        f"--customize-hook={script}",
        "--skip=output/dev",
        "",
        "-",
        f"deb [trusted=yes] copy:{archive} ./",
    ]


def explain(error: ProcessError, lines: Sequence[str]) -> CoreimageError:
    """Pure: what went wrong, out of what mmdebstrap said."""
    text = "\n".join(lines)
    if "No space left on device" in text or "File too large" in text:
        return HostError(
            "the disk is full, or a limit on file sizes was reached",
            where="while installing packages",
            resolution="free some space, or let TMPDIR name a folder with about 2 GB free",
        )
    failed = re.search(rf"^{FAILED_HOOK} (\S+) (\d+)$", text, re.M)
    if failed:
        said = "\n".join(f"  | {line}" for line in text[: failed.start()].splitlines()[-10:])
        return BuildError(
            f"ended with status {failed[2]}; its last lines:\n{said}",
            where=f"hook {failed[1]}",
            resolution="mend the hook; it runs as root in the rootfs, without network",
        )
    return error


def _local_archive(packages: Sequence[LockedPackage], folder: Path, *, store: Store, run: Run) -> Path:
    """A flat archive (sources.list(5), exact path) of the locked packages and nothing else."""
    folder.mkdir()

    def stanza(package: LockedPackage) -> str:
        name = f"{package.sha256}.deb"
        ref = ArtifactRef(
            uri=blob_key(package.sha256), sha256=package.sha256, size_bytes=package.size_bytes, media_type=DEB
        )
        path = fetch_blob(store, ref, folder / name)
        control = run(["dpkg-deb", "--field", path]).output.rstrip("\n")
        return f"{control}\nFilename: ./{name}\nSize: {package.size_bytes}\nSHA256: {package.sha256}\n"

    (folder / "Packages").write_text("\n".join(_in_parallel(stanza, packages)))
    return folder


def _in_parallel(work: Callable[[LockedPackage], T], packages: Sequence[LockedPackage]) -> list[T]:
    with ThreadPoolExecutor(_DOWNLOADS) as pool:
        futures = [pool.submit(work, package) for package in packages]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
