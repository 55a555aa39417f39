from __future__ import annotations

import io
import json
import tarfile

from coreimage.signing import make_keyring


def test_a_keyring_is_what_recovery_images_of_2015_read_line_by_line() -> None:
    content = make_keyring("device-signing", b"keys", expiry=1_800_000_000, model="generic_amd64")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as tar:
        members = {member.name: (tar.extractfile(member) or io.BytesIO()).read() for member in tar}
    assert members["keyring.gpg"] == b"keys"
    assert members["keyring.json"].decode().splitlines() == [
        "{",
        '    "expiry": 1800000000,',
        '    "model": "generic_amd64",',
        '    "type": "device-signing"',
        "}",
    ]


def test_what_is_not_given_is_not_in_it_and_the_bytes_are_the_same_each_time() -> None:
    content = make_keyring("archive-master", b"keys")
    assert content == make_keyring("archive-master", b"keys")
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:xz") as tar:
        file = tar.extractfile("keyring.json")
        assert file
        assert json.load(file) == {"type": "archive-master"}
