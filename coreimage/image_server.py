"""A system-image tree as `flash` and `query` see it: the client with our downloads and gpgv under it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from coreimage.client import DownloadError, NotPresentError, RepositoryError, Seen, Session, SignatureError
from coreimage.client.errors import ClientError, NoSpaceError, TargetError
from coreimage.client.session import CHANNELS
from coreimage.errors import HostError, InfrastructureError, NotFoundError, VerificationError
from coreimage.http import Fetch, NoProgress, Progress
from coreimage.process import Run
from coreimage.process import run as run_process
from coreimage.signing import open_inline, verify_detached
from coreimage.storage import Store

WEB_ROOT = "system-image/"


class StoreWeb:
    """A folder of a store, by default its web root, as the client wants it, without a web server in between."""

    def __init__(self, store: Store, progress: Progress | None = None, *, root: str = WEB_ROOT) -> None:
        self._store, self._progress, self._root = store, progress or NoProgress(), root

    def read(self, path: str, limit_bytes: int) -> bytes:
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
        """Copies at most the bytes that the index names; the caller judges them."""
        left, name = size_bytes, path.rpartition("/")[2]
        advance = self._progress.start(name, size_bytes)
        try:
            with self._store.open(self._root + path.lstrip("/")) as source, target.open("wb") as file:
                while left and (chunk := source.read(min(left, 1 << 20))):
                    left -= file.write(chunk)
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
    """The files below `base_url` (http, https or file), as the client wants them."""

    def __init__(self, base_url: str, fetch: Fetch) -> None:
        self._base_url, self._fetch = base_url.rstrip("/"), fetch

    def read(self, path: str, limit_bytes: int) -> bytes:
        with tempfile.TemporaryDirectory(prefix="document-") as folder, _as_client_errors(self._url(path)):
            return self._fetch(self._url(path), Path(folder) / "document", limit_bytes=limit_bytes).read_bytes()

    def download(self, path: str, target: Path, sha256: str, size_bytes: int) -> None:
        with _as_client_errors(self._url(path)):
            self._fetch(self._url(path), target, sha256=sha256, size_bytes=size_bytes)

    def _url(self, path: str) -> str:
        if path.startswith(("http://", "https://")):
            return path
        return f"{self._base_url}/{path.lstrip('/')}"


class GpgvVerify:
    def __init__(self, run: Run = run_process) -> None:
        self._run = run

    def detached(
        self, content: bytes | Path, signature: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str
    ) -> None:
        with _as_client_errors(where):
            verify_detached(content, signature, keyrings, refused=refused, where=where, run=self._run)

    def inline(self, message: bytes, keyrings: Sequence[bytes], refused: Collection[str], where: str) -> bytes:
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
    """A session with the tree at `url`; use it inside `client_errors()`."""
    web = FetchWeb(url, fetch)
    return Session(web, GpgvVerify(run), archive_master, now, channels_path=channels_path, seen=seen, legacy=legacy)


@contextmanager
def client_errors() -> Iterator[None]:
    """Errors of the client become ours: VerificationError, NotFoundError, InfrastructureError, HostError."""
    try:
        yield
    except NotPresentError as error:
        raise NotFoundError(
            error.problem, where=error.where, resolution="list what there is: `coreimage channel list`"
        ) from error
    except DownloadError as error:
        raise InfrastructureError(error.problem, where=error.where, resolution="try again") from error
    except NoSpaceError as error:
        raise HostError(error.problem, where=error.where, resolution="make room there, and run it again") from error
    except TargetError as error:
        raise HostError(error.problem, where=error.where, resolution="look at the disk, and run it again") from error
    except ClientError as error:
        raise VerificationError(
            error.problem, where=error.where, resolution="do not use this server until its publisher has mended it"
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
