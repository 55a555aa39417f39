from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

from coreimage.errors import (
    CoreimageError,
    DiskFullError,
    HostError,
    InfrastructureError,
    LostWriteError,
    NotFoundError,
)
from coreimage.storage.s3_errors import explain_answer


@pytest.mark.parametrize(
    ("code", "status", "kind", "words"),
    [
        ("PreconditionFailed", 412, LostWriteError, "another writer was faster"),
        ("ConditionalRequestConflict", 409, LostWriteError, "another writer was faster"),
        ("NoSuchKey", 404, NotFoundError, "not in the store"),
        ("404", 404, NotFoundError, "not in the store"),
        ("NoSuchBucket", 404, HostError, "bucket does not exist"),
        ("301", 301, HostError, "another region"),
        ("RequestTimeTooSkewed", 403, HostError, "clock is off"),
        ("AccessDenied", 403, HostError, r"refused us \(AccessDenied\)"),
        ("BadDigest", 400, InfrastructureError, "damaged"),
        ("SlowDown", 503, InfrastructureError, "failed"),
        ("Unheard", 502, InfrastructureError, "failed"),
        ("XMinioStorageFull", 507, DiskFullError, "storage is full"),
        ("InsufficientStorage", 507, DiskFullError, "storage is full"),
        ("Unheard", 418, HostError, "answered"),
    ],
)
def test_an_answer_becomes_one_error(code: str, status: int, kind: type[CoreimageError], words: str) -> None:
    answer = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[typeddict-item]
    error = explain_answer(answer, "s3://b/k", conditional=False)
    assert type(error) is kind
    assert error.where == "s3://b/k"
    with pytest.raises(kind, match=words):
        raise error


def test_a_conditional_write_to_an_object_that_is_gone_is_a_lost_write() -> None:
    answer = ClientError({"Error": {"Code": "NoSuchKey"}}, "PutObject")
    assert type(explain_answer(answer, "", conditional=True)) is LostWriteError
