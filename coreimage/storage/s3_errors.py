"""What an S3 server answers, as errors of ours: the codes of AWS's API reference, and those of other servers."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import ClientError

from coreimage.errors import (
    CoreimageError,
    DiskFullError,
    HostError,
    InfrastructureError,
    LostWriteError,
    NotFoundError,
)

ENDPOINT = "check AWS_ENDPOINT_URL_S3 (a URL such as http://127.0.0.1:8333) and the network"
CREDENTIALS = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION to those of the bucket's owner"

_LOST_WRITE = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT = {"NoSuchKey", "NotFound", "404"}


@dataclass(frozen=True)
class _Answer:
    """The error to raise for an answer with one of `codes`, which are S3's error codes and HTTP statuses."""

    codes: frozenset[str]
    kind: type[CoreimageError]
    problem: str
    resolution: str


_ANSWERS = tuple(
    _Answer(frozenset(codes.split()), kind, problem, resolution)
    for codes, kind, problem, resolution in (
        ("NoSuchBucket", HostError, "the bucket does not exist", "create it, or name another store"),
        (
            "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301 307",
            HostError,
            "the bucket is in another region",
            "set AWS_REGION to its own",
        ),
        (
            "NotImplemented 501",
            HostError,
            "the server cannot do this: it is no full S3",
            "use one that honours If-None-Match and If-Match, as AWS S3 and SeaweedFS do",
        ),
        (
            "RequestTimeTooSkewed RequestExpired",
            HostError,
            "this machine's clock is off: the object storage refuses requests signed minutes ago or ahead",
            "set the clock, e.g. `sudo timedatectl set-ntp true`, and run again",
        ),
        (
            "BadDigest InvalidDigest MalformedXML XAmzContentSHA256Mismatch",
            InfrastructureError,
            "the bytes arrived damaged at the object storage ({code})",
            "run again",
        ),
        (
            "InvalidAccessKeyId SignatureDoesNotMatch AccessDenied ExpiredToken InvalidToken 403",
            HostError,
            "the object storage refused us ({code})",
            CREDENTIALS,
        ),
        (
            # MinIO's and Ceph's; AWS is never full, and SeaweedFS calls it an internal error.
            "XMinioStorageFull XMinioStorageQuotaExceeded QuotaExceeded 507",
            DiskFullError,
            "the object storage is full ({code})",
            "free some space there, or raise the bucket's quota",
        ),
        (
            "SlowDown RequestTimeout InternalError ServiceUnavailable 500 502 503",
            InfrastructureError,
            "the object storage failed ({code})",
            "run again",
        ),
    )
)


def explain_answer(error: ClientError, where: str, *, conditional: bool) -> CoreimageError:
    """Return the error to raise for what the server answered.

    Args:
        where: The URL of the object or bucket.
        conditional: Whether the request had a condition that may be lost.
    """
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    # AWS answers 404 to a compare-and-swap of an object that is gone, other servers 412.
    lost = _LOST_WRITE | (_ABSENT if conditional else set())
    for answer in _ANSWERS:
        if code in answer.codes:
            return answer.kind(answer.problem.format(code=code), where=where, resolution=answer.resolution)
    if {code, status} & lost:
        return LostWriteError("another writer was faster", where=where)
    if {code, status} & _ABSENT:
        return NotFoundError("it is not in the store", where=where)
    for answer in _ANSWERS:
        if status in answer.codes:
            return answer.kind(answer.problem.format(code=code), where=where, resolution=answer.resolution)
    return HostError(f"the object storage answered: {error}", where=where)
