"""What the client needs of this machine: the files of a tree, from a store or a server, and gpgv. Its errors are
translated into ours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coreimage.client import DownloadError, NotPresentError, RepositoryError, Seen, Session, SignatureError
from coreimage.client.errors import ClientError, NoSpaceError, TargetError
from coreimage.client.fetch import CHANNELS
from coreimage.errors import DiskFullError, HostError, InfrastructureError, NotFoundError, VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.http import Fetch, NoProgress, Progress
from coreimage.signing import open_inline, verify_detached
from coreimage.storage import Store

WEB_ROOT = "system-image/"


class StoreWeb:
    """The `Web` of a folder of a store, by default its web root; no web server is in between."""

    def __init__(self, store: Store, progress: Progress | None = None, *, root: str = WEB_ROOT) -> None:
        self._store, self._progress, self._root = store, progress or NoProgress(), root

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the content of a file, at most `limit_bytes`."""
        content = b""
        try:
            with self._store.open(self._root + path.lstrip("/"), stop=limit_bytes + 1) as file:
                content = file.read()
        except NotFoundError as error:
            raise NotPresentError(error.problem, where=path) from error
        except InfrastructureError as error:
            raise DownloadError(error.problem, where=path) from error
        if len(content) > limit_bytes:
            raise RepositoryError(f"is larger than {limit_bytes} bytes", where=path)
        return content

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
        """Copy a file of at most `size_bytes` to `target`; the caller checks it."""
        left_bytes, name = size_bytes, path.rpartition("/")[2]
        advance = self._progress.start(name, size_bytes)
        try:
            with self._store.open(self._root + path.lstrip("/")) as source, target.open("wb") as file:
                while left_bytes and (chunk := source.read(min(left_bytes, 1 << 20))):
                    left_bytes -= file.write(chunk)
                    advance(len(chunk))
                if source.read(1):
                    raise RepositoryError(f"is larger than {size_bytes} bytes", where=path)
        except NotFoundError as error:
            raise NotPresentError(error.problem, where=path) from error
        except InfrastructureError as error:
            raise DownloadError(error.problem, where=path) from error
        finally:
            self._progress.finish(name)


class FetchWeb:
    """The `Web` below `base_url` (http, https or file)."""

    def __init__(self, base_url: str, fetch: Fetch) -> None:
        self._base_url, self._fetch = base_url.rstrip("/"), fetch

    def read(self, path: str, limit_bytes: int) -> bytes:
        """Return the content of a file, at most `limit_bytes`."""
        with tempfile.TemporaryDirectory(prefix="document-") as folder, _as_client_errors(self._url(path)):
            return self._fetch(self._url(path), Path(folder) / "document", limit_bytes=limit_bytes).read_bytes()

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
        """Download a file to `target`, and verify it."""
        with _as_client_errors(self._url(path)):
            self._fetch(self._url(path), target, sha256=sha256, size_bytes=size_bytes)

    def _url(self, path: str) -> str:
        if path.startswith(("http://", "https://")):
            return path
        return f"{self._base_url}/{path.lstrip('/')}"


class GpgvVerify:
    """`Verify` by gpgv."""

    def __init__(self, run: Run = run_process) -> None:
        self._run = run

    def detached(
        self, content: bytes | Path, signature: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str
    ) -> None:
        """Check a detached signature of `content`."""
        with _as_client_errors(where):
            verify_detached(content, signature, keyrings, refused=refused, where=where, run=self._run)

    def inline(self, message: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str) -> bytes:
        """Check a signed message, and return what it says."""
        with _as_client_errors(where):
            return open_inline(message, keyrings, refused=refused, where=where, run=self._run)[1]


def open_server(
    url: str,
    archive_master: bytes,
    *,
    fetch: Fetch,
    run: Run = run_process,
    now: Callable[[], float] = time.time,
    channels_path: str = CHANNELS,
    seen: Seen = Seen(),  # noqa: B008
    legacy: bool = False,
) -> Session:
    """Open a session with the tree at `url` (see `Session` for the arguments); use it inside `client_errors()`."""
    web = FetchWeb(url, fetch)
    return Session(web, GpgvVerify(run), archive_master, now, channels_path=channels_path, seen=seen, legacy=legacy)


@contextmanager
def client_errors() -> Iterator[None]:
    """Turn the client's errors into ours: VerificationError, NotFoundError, InfrastructureError, HostError."""
    try:
        yield
    except NotPresentError as error:
        raise NotFoundError(
            error.problem,
            where=error.where,
            resolution=error.resolution or "list what there is: `coreimage channel list`",
        ) from error
    except DownloadError as error:
        raise InfrastructureError(error.problem, where=error.where, resolution="try again") from error
    except NoSpaceError as error:
        raise DiskFullError(error.problem, where=error.where, resolution="free some space, and run it again") from error
    except TargetError as error:
        raise HostError(error.problem, where=error.where, resolution="check the disk, and run it again") from error
    except SignatureError as error:
        raise VerificationError(
            error.problem,
            where=error.where,
            resolution="check that the keyring belongs to this server; if it does, do not install from the server",
        ) from error
    except ClientError as error:
        raise VerificationError(
            error.problem,
            where=error.where,
            resolution=error.resolution or "do not install from this server until its publisher has repaired it",
        ) from error


@contextmanager
def _as_client_errors(where: str) -> Iterator[None]:
    try:
        yield
    except VerificationError as error:
        raise SignatureError(error.problem, where=where) from error
    except NotFoundError as error:
        raise NotPresentError(error.problem, where=where) from error
    except InfrastructureError as error:
        raise DownloadError(error.problem, where=where) from error
