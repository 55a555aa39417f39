"""What S3 servers answer, as errors of ours. The codes are those of AWS's API reference, and those that others give."""

from __future__ import annotations

from botocore.exceptions import ClientError

from coreimage.errors import ConflictError, CoreimageError, HostError, InfrastructureError, NotFoundError

ENDPOINT = "check AWS_ENDPOINT_URL_S3 (a URL such as http://127.0.0.1:8333) and the network"
CREDENTIALS = "set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION to those of the bucket's owner"

_LOST = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
_ABSENT = {"NoSuchKey", "NotFound", "404"}
_PASSING = {"SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "500", "502", "503"}
_DAMAGED = {"BadDigest", "InvalidDigest", "MalformedXML", "XAmzContentSHA256Mismatch"}
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "403", "ExpiredToken", "InvalidToken"}

_HOST: tuple[tuple[set[str], str, str], ...] = (
    ({"NoSuchBucket"}, "the bucket does not exist", "create it, or name another store"),
    (
        {"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301", "307"},
        "the bucket is in another region",
        "set AWS_REGION to its own",
    ),
    (
        {"NotImplemented", "501"},
        "the server cannot do this: it is no full S3",
        "use one that honours If-None-Match and If-Match, as AWS S3 and SeaweedFS do",
    ),
    (
        {"RequestTimeTooSkewed", "RequestExpired"},
        "this machine's clock is off: the object storage refuses requests signed minutes ago or ahead",
        "set the clock, e.g. `sudo timedatectl set-ntp true`, and run again",
    ),
)
"""What somebody has to mend: what is wrong, and how."""


def explained(error: ClientError, where: str, *, conditional: bool) -> CoreimageError:
    """The error to raise; `conditional` is whether the request had a condition that may be lost."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = str(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    for codes, problem, resolution in _HOST:
        if code in codes or (status in codes and code == status):
            return HostError(problem, where=where, resolution=resolution)
    return _of_object({code, status}, code, where, conditional=conditional) or HostError(
        f"the object storage said: {error}", where=where
    )


def _of_object(said: set[str], code: str, where: str, *, conditional: bool) -> CoreimageError | None:
    # AWS answers 404 to a compare-and-swap of an object that is gone, others 412.
    if said & _LOST or (conditional and said & _ABSENT):
        return ConflictError("somebody else wrote it first", where=where)
    if said & _ABSENT:
        return NotFoundError("it is not in the store", where=where)
    if said & _DAMAGED:
        return InfrastructureError(f"the bytes arrived there damaged ({code})", where=where, resolution="run again")
    if said & _REFUSED:
        return HostError(f"the object storage refused us ({code})", where=where, resolution=CREDENTIALS)
    if said & _PASSING:
        return InfrastructureError(f"the object storage failed ({code})", where=where, resolution="run again")
    return None
