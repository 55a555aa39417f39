from __future__ import annotations

import errno
import os

import pytest

from coreimage.errors import CoreimageError, DiskFullError, HostError, ProcessError
from coreimage.host.disk_space import disk_full, explain_full_disk, write_error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_write_that_meets_a_full_disk_or_a_limit_is_told_with_what_to_do(number: int) -> None:
    full = pytest.raises(DiskFullError, match=r"while packing: the disk is full.*\n.*TMPDIR")
    with full, explain_full_disk("while packing"):
        raise OSError(number, os.strerror(number))
    # Programs print the same words.
    assert disk_full(f"tar: a: {os.strerror(number)}", "x")


def test_other_errors_pass() -> None:
    for error in (OSError(errno.EACCES, "Permission denied"), ProcessError(["tar"], 2, ["broken"])):
        with pytest.raises(type(error)) as raised, explain_full_disk("while packing"):
            raise error
        assert raised.value is error
    assert disk_full("everything is fine", "x") is None


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [(errno.ENOSPC, DiskFullError, "the disk is full"), (errno.EACCES, HostError, "cannot write: Permission denied")],
)
def test_a_failed_write_names_the_place_and_its_own_remedy(number: int, kind: type[CoreimageError], words: str) -> None:
    error = write_error(OSError(number, os.strerror(number)), "/store", resolution="name another store")
    assert type(error) is kind
    assert f"/store: {words}" in str(error)
    assert "→ name another store" in str(error)
