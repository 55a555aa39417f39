"""A store in an S3 bucket, or below a prefix of one.

Endpoint, region and credentials come from boto3's usual environment (AWS_ENDPOINT_URL_S3, AWS_REGION,
AWS_ACCESS_KEY_ID, ~/.aws, …). All bytes are sent with their sha256, which the server checks. What the server's errors
mean is told in `s3_errors`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.parsers import ResponseParserError

from coreimage.errors import HostError, InfrastructureError, LostWriteError, NotFoundError, UsageError
from coreimage.storage.s3_errors import CREDENTIALS, ENDPOINT, explain_answer
from coreimage.storage.store import ObjectInfo, check_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 8 << 20
"""Larger files are uploaded in parts of this size."""
_MAX_PARTS = 10_000
_PARALLEL_PARTS = 3
"""How many parts are in memory, and being sent, at a time."""
COPY_PART_BYTES = 5 << 30
"""The most that S3 copies in one request."""
_DELETED_AT_ONCE = 1000
_WRITE_ID = "coreimage-write"
"""Metadata of every object: the id of the one write that made it."""
_PAUSES_S = (0.2, 1.0, 4.0)
"""Before each further attempt."""

T = TypeVar("T")
log = structlog.get_logger("coreimage.storage")


@dataclass(frozen=True)
class _Write:
    """One attempt to write an object, which `id` tells from all others."""

    key: str
    media_type: str
    condition: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def about(self) -> dict[str, Any]:
        return {"ContentType": self.media_type, "Metadata": {_WRITE_ID: self.id}}


class S3Store:
    """The objects of a bucket whose key starts with a prefix."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        part_bytes: int = PART_BYTES,
        copy_part_bytes: int = COPY_PART_BYTES,
    ) -> None:
        self._bucket, self._prefix = bucket, f"{prefix.strip('/')}/".lstrip("/")
        self._part_bytes, self._copy_part_bytes = part_bytes, copy_part_bytes
        with self._errors(""):
            try:
                # A session of its own: boto3's default one keeps the first credentials it saw, and is not for threads.
                session = boto3.session.Session()
                self._client, self._once = _client(session, attempts=5), _client(session, attempts=1)
            except ValueError as error:
                raise UsageError(str(error), where=self.url, resolution=ENDPOINT) from error

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    @property
    def server(self) -> str:
        with self._errors(""):
            answer = self._client.head_bucket(Bucket=self._bucket)
        name = answer["ResponseMetadata"]["HTTPHeaders"].get("server", "")
        return f"{self._client.meta.endpoint_url} {name}".strip()

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode()
        write = _Write(key, media_type, _condition(if_absent, if_match))

        def put(client: S3Client) -> Any:
            return client.put_object(
                **self._object(key), **write.about, Body=content, ChecksumSHA256=sha256, **write.condition
            )

        return self._send(write, put, len(content))

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Upload a large file in parts; it becomes visible when the upload is completed."""
        if not path.is_file():
            raise NotFoundError("there is no such file to store", where=str(path))
        size_bytes = path.stat().st_size
        if size_bytes <= self._part_bytes:
            return self.put_bytes(key, path.read_bytes(), media_type=media_type, if_absent=if_absent, if_match=if_match)
        part_bytes = max(self._part_bytes, -(-size_bytes // _MAX_PARTS))

        def send(upload: dict[str, Any]) -> Iterator[dict[str, Any]]:
            def part(start: int) -> dict[str, Any]:
                with path.open("rb") as file:
                    file.seek(start)
                    chunk = file.read(part_bytes)
                sha256 = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
                number = start // part_bytes + 1
                answer = self._client.upload_part(**upload, PartNumber=number, Body=chunk, ChecksumSHA256=sha256)
                return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumSHA256": sha256}

            return _in_parallel(part, range(0, size_bytes, part_bytes))

        write = _Write(key, media_type, _condition(if_absent, if_match))
        return self._multipart(write, send, size_bytes, ChecksumAlgorithm="SHA256")

    @contextmanager
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
        """Read an object; a download that breaks is resumed where it broke, as long as the object is the same."""
        if stop is not None and start >= stop:
            yield io.BytesIO()
            return
        address = self._object(key)

        def fetch(at: int, etag: str) -> Any:
            request: dict[str, Any] = {"IfMatch": etag} if etag else {}
            if at or stop is not None:
                request["Range"] = f"bytes={at}-{'' if stop is None else stop - 1}"
            return self._client.get_object(**address, **request)

        with self._errors(key):
            try:
                answer = fetch(start, "")
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in {"InvalidRange", "416"}:
                    raise
                yield io.BytesIO()
                return
            with closing(_ResumedDownload(answer, fetch, start)) as file:
                yield cast("BinaryIO", file)

    def head(self, key: str) -> ObjectInfo | None:
        answer = self._head(key)
        return answer and ObjectInfo(key, answer["ContentLength"], answer["ETag"], answer["LastModified"])

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yield the objects, sorted here: not every server sorts them."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            infos = [
                ObjectInfo(item["Key"].removeprefix(self._prefix), item["Size"], item["ETag"], item["LastModified"])
                for page in pages
                if _require(page, "Name")
                for item in page.get("Contents", [])
            ]
        yield from sorted(infos, key=lambda info: info.key)

    def folders(self, prefix: str) -> tuple[str, ...]:
        whole = self._prefix + prefix
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=whole, Delimiter="/"
            )
            prefixes = [
                item["Prefix"] for page in pages if _require(page, "Name") for item in page.get("CommonPrefixes", [])
            ]
        return tuple(sorted(name.removeprefix(whole).removesuffix("/") for name in prefixes))

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        """Copy on the server. A conditional or large copy is made of parts, as completing them can be conditional."""
        origin = self._object(source)
        with self._errors(source):
            original = self._client.head_object(**origin)
        size_bytes = original["ContentLength"]
        write = _Write(target, original.get("ContentType", ""), _condition(if_absent, None))
        if not size_bytes:
            return self.put_bytes(target, b"", media_type=write.media_type, if_absent=if_absent)
        unchanged: dict[str, Any] = {"CopySource": origin, "CopySourceIfMatch": original["ETag"]}
        if not if_absent and size_bytes <= self._copy_part_bytes:
            return self._send(write, lambda client: client.copy_object(**self._object(target), **unchanged), size_bytes)

        def send(upload: dict[str, Any]) -> Iterator[dict[str, Any]]:
            for number, start in enumerate(range(0, size_bytes, self._copy_part_bytes), 1):
                stop = min(start + self._copy_part_bytes, size_bytes)
                span = f"bytes={start}-{stop - 1}"
                part = self._client.upload_part_copy(**upload, **unchanged, PartNumber=number, CopySourceRange=span)
                yield {"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]}

        return self._multipart(write, send, size_bytes)

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter([self._object(key)["Key"] for key in keys])
        while batch := list(islice(rest, _DELETED_AT_ONCE)):
            with self._errors(batch[0]):
                answer = self._client.delete_objects(
                    Bucket=self._bucket, Delete={"Objects": [{"Key": key} for key in batch], "Quiet": True}
                )
            if errors := answer.get("Errors"):
                raise InfrastructureError(
                    f"{len(errors)} objects were not deleted: {errors[0].get('Message', '')}",
                    where=f"s3://{self._bucket}/{errors[0].get('Key', '')}",
                )

    def _multipart(
        self,
        write: _Write,
        send: Callable[[dict[str, Any]], Iterator[dict[str, Any]]],
        size_bytes: int,
        **checksum: Any,
    ) -> ObjectInfo:
        with self._errors(write.key):
            address = self._object(write.key)
            answer = self._client.create_multipart_upload(**address, **write.about, **checksum)
            upload: dict[str, Any] = {**address, "UploadId": _require(answer, "UploadId")}
        try:
            with self._errors(write.key):
                parts: Any = list(send(upload))

            def complete(client: S3Client) -> Any:
                return client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **write.condition)

            return self._send(write, complete, size_bytes)
        except BaseException:
            self._abort(upload)
            raise

    def _abort(self, upload: dict[str, Any]) -> None:
        """Remove the parts of a failed upload, which cost space. A failure of this is only logged."""
        try:
            self._client.abort_multipart_upload(**upload)
        except (ClientError, BotoCoreError) as error:
            log.warning("the parts of a failed upload were not removed", key=upload["Key"], reason=str(error))

    def _send(self, write: _Write, send: Callable[[S3Client], Any], size_bytes: int) -> ObjectInfo:
        """Send a write, and return the object that it made.

        The answer to a conditional write may be lost on the way, and sending it again would then lose against
        ourselves. So boto3 does not retry it; instead the store is asked whether this write made the object. That is
        asked after any failed write, as completing an upload in parts cannot be repeated either.
        """
        pauses_s = (*_PAUSES_S, None) if write.condition else (None,)
        for pause_s in pauses_s:
            try:
                with self._errors(write.key, conditional=bool(write.condition)):
                    answer = send(self._once if write.condition else self._client)
                    return _info(write.key, size_bytes, answer)
            except (LostWriteError, InfrastructureError, NotFoundError) as error:
                present = self._head(write.key)
                if present is not None and present["Metadata"].get(_WRITE_ID) == write.id:
                    return ObjectInfo(write.key, size_bytes, present["ETag"], present["LastModified"])
                if pause_s is None or not error.retryable:
                    raise
                time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _head(self, key: str) -> Any | None:
        try:
            with self._errors(key):
                return self._client.head_object(**self._object(key))
        except NotFoundError:
            return None

    def _object(self, key: str) -> dict[str, Any]:
        return {"Bucket": self._bucket, "Key": self._prefix + check_key(key)}

    @contextmanager
    def _errors(self, key: str, *, conditional: bool = False) -> Iterator[None]:
        where = f"{self.url}/{key}".rstrip("/")
        try:
            yield
        except ClientError as error:
            raise explain_answer(error, where, conditional=conditional) from error
        except (NoCredentialsError, PartialCredentialsError, NoRegionError) as error:
            raise HostError(str(error), where=where, resolution=CREDENTIALS) from error
        except ParamValidationError as error:
            raise UsageError(str(error), where=where, resolution="s3://BUCKET[/PREFIX] names a store") from error
        except FlexibleChecksumError as error:
            raise InfrastructureError(f"the bytes arrived damaged: {error}", where=where) from error
        except (BotoCoreError, ResponseParserError) as error:
            raise InfrastructureError(
                f"the object storage does not answer: {error}",
                where=where,
                resolution=ENDPOINT,
            ) from error


class _ResumedDownload:
    """The bytes of an object from `at` on, read over as many connections as it takes."""

    def __init__(self, answer: Any, fetch: Callable[[int, str], Any], at: int) -> None:
        self._body, self._etag, self._fetch, self._at = answer["Body"], answer["ETag"], fetch, at
        self._pauses_s = list(_PAUSES_S)

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while True:
            try:
                chunk = self._body.read(size)
            except FlexibleChecksumError:
                raise
            except (HTTPClientError, IncompleteReadError):
                if not self._pauses_s:
                    raise
                self._resume()
                continue
            self._at += len(chunk)
            return cast("bytes", chunk)

    def _resume(self) -> None:
        """Ask for the rest. An object that was replaced meanwhile is a conflict: half of each would be neither."""
        time.sleep(self._pauses_s.pop(0))
        self._body.close()
        log.info("a download broke and is resumed", at_bytes=self._at)
        self._body = self._fetch(self._at, self._etag)["Body"]

    def close(self) -> None:
        self._body.close()


def _in_parallel(function: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
    """Yield the results in the order of `items`. After a failure no further call is begun."""
    with ThreadPoolExecutor(_PARALLEL_PARTS) as pool:
        try:
            yield from pool.map(function, items)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _require(answer: Any, name: str) -> str:
    """Return a field that every S3 server sends; without it this is no S3 server, or the answer was cut short."""
    if name not in answer:
        raise InfrastructureError(f"the object storage's answer has no {name}", resolution=ENDPOINT)
    return str(answer[name])


def _condition(if_absent: bool, if_match: str | None) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match is not None else {}


def _info(key: str, size_bytes: int, answer: Any) -> ObjectInfo:
    """Read the answer to a write. Asking afterwards could show the object of another writer."""
    etag = answer.get("ETag") or _require(answer.get("CopyObjectResult", {}), "ETag")
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return ObjectInfo(key, size_bytes, etag, parsedate_to_datetime(date) if date else datetime.now(UTC))


def _client(session: boto3.session.Session, attempts: int) -> S3Client:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=10, read_timeout=60)
    region = os.environ.get("AWS_REGION") or None
    return session.client("s3", config=config, region_name=region)
