"""A store in an S3 bucket, or below a prefix of one.

Endpoint, region and credentials come from boto3's usual environment (AWS_ENDPOINT_URL_S3, AWS_REGION,
AWS_ACCESS_KEY_ID, ~/.aws, …). All bytes are sent with their sha256, which the server checks.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import boto3
import structlog
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, NoRegionError, PartialCredentialsError

from coreimage.errors import ConflictError, CoreimageError, HostError, InfrastructureError, NotFoundError
from coreimage.storage.store import ObjectInfo, check_key

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PART_BYTES = 64 << 20
"""Files above this go up in parts; S3 takes 10,000 parts, so up to 640 GB."""
COPY_PART_BYTES = 5 << 30
"""The most that S3 copies at a time."""
_BATCH = 1000
_WRITE_ID = "coreimage-write"
"""Metadata of every object: which single write made it."""
_PAUSES_S = (0.2, 1.0, 4.0)

_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT = {"NoSuchKey", "NotFound", "404"}
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "ExpiredToken", "InvalidToken"}
_SKEWED = {"RequestTimeTooSkewed", "RequestExpired"}
_PASSING = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "BadDigest", "500", "502", "503"}

log = structlog.get_logger("coreimage.storage")


@dataclass(frozen=True)
class _Write:
    """One attempt to make an object, known again by its `id`."""

    key: str
    media_type: str
    condition: dict[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def described(self) -> dict[str, Any]:
        return {"ContentType": self.media_type, "Metadata": {_WRITE_ID: self.id}}


class S3Store:
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
            self._client, self._once = _client(attempts=5), _client(attempts=1)

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def put_bytes(
        self, key: str, content: bytes, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        sha256 = base64.b64encode(hashlib.sha256(content).digest()).decode()
        write = _Write(key, media_type, _condition(if_absent, if_match))

        def put(client: S3Client) -> Any:
            return client.put_object(
                **self._object(key), **write.described, Body=content, ChecksumSHA256=sha256, **write.condition
            )

        return self._written(write, put, len(content))

    def put_file(
        self, key: str, path: Path, *, media_type: str, if_absent: bool = False, if_match: str | None = None
    ) -> ObjectInfo:
        """Large files go up in parts, and become visible when all of them are there."""
        if not path.is_file():
            raise NotFoundError("there is no such file to store", where=str(path))
        size_bytes = path.stat().st_size
        if size_bytes <= self._part_bytes:
            return self.put_bytes(key, path.read_bytes(), media_type=media_type, if_absent=if_absent, if_match=if_match)
        with path.open("rb") as file:
            chunks = iter(lambda: file.read(self._part_bytes), b"")

            def send(upload: dict[str, Any]) -> Iterator[dict[str, Any]]:
                for number, chunk in enumerate(chunks, 1):
                    sha256 = base64.b64encode(hashlib.sha256(chunk).digest()).decode()
                    part = self._client.upload_part(**upload, PartNumber=number, Body=chunk, ChecksumSHA256=sha256)
                    yield {"PartNumber": number, "ETag": part["ETag"], "ChecksumSHA256": sha256}

            write = _Write(key, media_type, _condition(if_absent, if_match))
            return self._multipart(write, send, size_bytes, ChecksumAlgorithm="SHA256")

    @contextmanager
    def open(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[BinaryIO]:
        if stop is not None and start >= stop:
            yield io.BytesIO()
            return
        span: dict[str, Any] = (
            {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"} if start or stop is not None else {}
        )
        with self._errors(key):
            try:
                body = self._client.get_object(**self._object(key), **span)["Body"]
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") not in {"InvalidRange", "416"}:
                    raise
                yield io.BytesIO()
                return
            with body:
                yield cast("BinaryIO", body)

    def head(self, key: str) -> ObjectInfo | None:
        found = self._found(key)
        return found and ObjectInfo(key, found["ContentLength"], found["ETag"], found["LastModified"])

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Sorted here, since not every server does."""
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            found = [
                ObjectInfo(item["Key"].removeprefix(self._prefix), item["Size"], item["ETag"], item["LastModified"])
                for page in pages
                for item in page.get("Contents", [])
            ]
        yield from sorted(found, key=lambda info: info.key)

    def copy(self, source: str, target: str, *, if_absent: bool = False) -> ObjectInfo:
        """On the server. A conditional or large copy is made of parts: completing them is what can be conditional."""
        origin = self._object(source)
        with self._errors(source):
            found = self._client.head_object(**origin)
        size_bytes = found["ContentLength"]
        write = _Write(target, found.get("ContentType", ""), _condition(if_absent, None))
        if not size_bytes:
            return self.put_bytes(target, b"", media_type=write.media_type, if_absent=if_absent)
        unchanged: dict[str, Any] = {"CopySource": origin, "CopySourceIfMatch": found["ETag"]}
        if not if_absent and size_bytes <= self._copy_part_bytes:
            return self._written(
                write, lambda client: client.copy_object(**self._object(target), **unchanged), size_bytes
            )

        def send(upload: dict[str, Any]) -> Iterator[dict[str, Any]]:
            for number, start in enumerate(range(0, size_bytes, self._copy_part_bytes), 1):
                stop = min(start + self._copy_part_bytes, size_bytes)
                span = f"bytes={start}-{stop - 1}"
                part = self._client.upload_part_copy(**upload, **unchanged, PartNumber=number, CopySourceRange=span)
                yield {"PartNumber": number, "ETag": part["CopyPartResult"]["ETag"]}

        return self._multipart(write, send, size_bytes)

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter([self._object(key)["Key"] for key in keys])
        while batch := list(islice(rest, _BATCH)):
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
            place = self._object(write.key)
            started = self._client.create_multipart_upload(**place, **write.described, **checksum)
        upload: dict[str, Any] = {**place, "UploadId": started["UploadId"]}
        try:
            with self._errors(write.key):
                parts: Any = list(send(upload))

            def complete(client: S3Client) -> Any:
                return client.complete_multipart_upload(**upload, MultipartUpload={"Parts": parts}, **write.condition)

            return self._written(write, complete, size_bytes)
        except BaseException:
            self._abort(upload)
            raise

    def _abort(self, upload: dict[str, Any]) -> None:
        """The parts of an upload that failed cost space. What failed first is what counts."""
        try:
            self._client.abort_multipart_upload(**upload)
        except (ClientError, BotoCoreError) as error:
            log.warning("parts of a failed upload remain", key=upload["Key"], reason=str(error))

    def _written(self, write: _Write, send: Callable[[S3Client], Any], size_bytes: int) -> ObjectInfo:
        """What a write became. The answer to a conditional one may be lost on the way, and trying blindly again would
        then lose against ourselves: so boto3 does not retry it, and who wrote the object is asked instead."""
        if not write.condition:
            with self._errors(write.key):
                return _info(write.key, size_bytes, send(self._client))
        for pause_s in (*_PAUSES_S, None):
            try:
                with self._errors(write.key, conditional=True):
                    return _info(write.key, size_bytes, send(self._once))
            except (ConflictError, InfrastructureError) as error:
                found = self._found(write.key)
                if found is not None and found["Metadata"].get(_WRITE_ID) == write.id:
                    return ObjectInfo(write.key, size_bytes, found["ETag"], found["LastModified"])
                if pause_s is None or isinstance(error, ConflictError):
                    raise
                time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _found(self, key: str) -> Any | None:
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
            raise _explained(error, where, conditional=conditional) from error
        except (NoCredentialsError, PartialCredentialsError, NoRegionError) as error:
            raise HostError(str(error), where=where, resolution=_CREDENTIALS) from error
        except BotoCoreError as error:
            raise InfrastructureError(
                f"the object storage does not answer: {error}",
                where=where,
                resolution="check AWS_ENDPOINT_URL_S3 and the network",
            ) from error


_CREDENTIALS = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION to those of the bucket's owner"


def _explained(error: ClientError, where: str, *, conditional: bool) -> CoreimageError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    if code == "NoSuchBucket":
        return HostError("the bucket does not exist", where=where, resolution="create it, or name another store")
    # AWS answers 404 to a compare-and-swap of an object that is gone, others 412.
    if {code, status} & _LOST or (conditional and {code, status} & _ABSENT):
        return ConflictError("somebody else wrote it first", where=where)
    if {code, status} & _ABSENT:
        return NotFoundError("it is not in the store", where=where)
    if {code, status} & _REFUSED:
        return _refusal(code, where)
    if {code, status} & _PASSING:
        return InfrastructureError(f"the object storage failed ({code})", where=where, resolution="run again")
    return HostError(f"the object storage said: {error}", where=where)


def _refusal(code: str, where: str) -> HostError:
    if code in _SKEWED:
        return HostError(
            "this machine's clock is off: the object storage refuses requests signed minutes ago or ahead",
            where=where,
            resolution="set the clock, e.g. `sudo timedatectl set-ntp true`, and run again",
        )
    return HostError(f"the object storage refused us ({code})", where=where, resolution=_CREDENTIALS)


def _condition(if_absent: bool, if_match: str | None) -> dict[str, Any]:
    return {"IfNoneMatch": "*"} if if_absent else {"IfMatch": if_match} if if_match is not None else {}


def _info(key: str, size_bytes: int, answer: Any) -> ObjectInfo:
    """Of the answer to the write itself: a later look may see somebody else's object."""
    etag = answer.get("ETag") or answer["CopyObjectResult"]["ETag"]
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return ObjectInfo(key, size_bytes, etag, parsedate_to_datetime(date) if date else datetime.now(UTC))


def _client(attempts: int) -> S3Client:
    config = Config(retries={"mode": "standard", "total_max_attempts": attempts}, connect_timeout=10, read_timeout=60)
    region = os.environ.get("AWS_REGION") or None
    # A session of its own: boto3's default one keeps the first credentials it saw, and is not for threads.
    return boto3.session.Session().client("s3", config=config, region_name=region)
