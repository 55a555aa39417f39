"""What a rootfs still needs to be an image."""

from __future__ import annotations

import tarfile

import pytest

from coreimage.system_image.payloads.customise import appended


@pytest.mark.parametrize(("kind", "modules"), [(tarfile.SYMTYPE, "usr/lib/modules"), (tarfile.DIRTYPE, "lib/modules")])
def test_modules_mount_point_follows_the_base(kind: bytes, modules: str) -> None:
    assert [member.name for member in appended({"lib": kind})] == ["writable", modules, "etc/mtab"]
    assert [
        member.name for member in appended({"lib": kind, modules: tarfile.DIRTYPE, "writable": tarfile.DIRTYPE})
    ] == ["etc/mtab"]
