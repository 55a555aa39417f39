from __future__ import annotations

import pytest

from coreimage.disk_image.formats import fixed_descriptor


@pytest.mark.parametrize("random", [b"deadbeef", b"1f", b"0"])
def test_the_content_id_of_a_vmdk_hides_how_long_the_random_one_was(random: bytes) -> None:
    text = b"# Disk DescriptorFile\nversion=1\nCID=" + random + b"\nparentCID=ffffffff\n"
    assert fixed_descriptor(text, 0xABC) == b"# Disk DescriptorFile\nversion=1\nCID=00000abc\nparentCID=ffffffff\n"
