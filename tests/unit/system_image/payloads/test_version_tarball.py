"""What an image is told of itself (system-image §2.6)."""

from __future__ import annotations

import io

import pytest

from coreimage.errors import UsageError, VerificationError
from coreimage.model import Server
from coreimage.system_image.payloads.version_tarball import channel_ini, read_identity, version_tarball
from coreimage.tarball import TarWriter, regular, stored_xz


def test_channel_ini_has_the_keys_in_order() -> None:
    server = Server(base="updates.example", http_port=None, https_port=8443)
    assert channel_ini("edge", "generic_amd64", 7, "ubuntu=1,version=7", server=server) == (
        "[service]\nbase: updates.example\nhttp_port: disabled\nhttps_port: 8443\nchannel: edge\n"
        "device: generic_amd64\nbuild_number: 7\nversion_detail: ubuntu=1,version=7\n"
    )


def test_percent_is_refused() -> None:
    with pytest.raises(UsageError, match="%"):
        channel_ini("edge", "d", 7, "100%", server=Server())


def test_version_tarball_is_the_same_each_time() -> None:
    first, second = (version_tarball("edge", "d", 7, "version=7", server=Server(), mtime=9) for _ in range(2))
    assert first == second


def test_what_a_version_says_is_read_back() -> None:
    content = version_tarball("latest", "d", 7, "version=7", server=Server(), mtime=9, target="edge")
    values, mtime = read_identity(io.BytesIO(content), "")
    assert (values["channel"], values["channel_target"], values["build_number"], mtime) == ("latest", "edge", "7", 9)


def packed(**members: str) -> bytes:
    plain = io.BytesIO()
    names = {"build": "system/etc/ubuntu-build", "ini": "system/etc/system-image/channel.ini"}
    with TarWriter(plain, epoch=9) as tar:
        for name, text in members.items():
            tar.add(regular(names[name], len(text)), text.encode())
    return stored_xz(plain.getvalue())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no tarball", "not a version tarball"),
        (packed(build="7\n"), "lacks system/etc/system-image/channel.ini"),
        (packed(ini="build_number: 7\n"), "lacks system/etc/ubuntu-build"),
        (packed(build="7\n", ini="build_number: 8\n"), "two numbers"),
        (packed(build="7\n", ini="nothing\n"), "two numbers"),
    ],
)
def test_what_says_no_version_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(VerificationError, match=problem):
        read_identity(io.BytesIO(content), "where")
