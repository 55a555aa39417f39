from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.disk_image.assembly import check_sizes
from coreimage.disk_image.gadget.loading import load_gadget
from coreimage.disk_image.layout import image_size_bytes, plan_layout
from coreimage.errors import BuildError
from coreimage.tarball import Contents

GADGET = load_gadget(Path(__file__).parents[3] / "deployments" / "gadgets" / "generic_amd64")


@pytest.mark.parametrize(
    ("name", "size_bytes", "structure"),
    [
        ("system/big", 1000 << 20, "system-a"),
        ("writable/big", 1200 << 20, "writable"),
        ("assets/vmlinuz", 253 << 20, "system-boot"),
    ],
)
def test_what_cannot_fit_is_refused_with_both_sizes(name: str, size_bytes: int, structure: str) -> None:
    layout = plan_layout(GADGET, image_size_bytes(4))
    check_sizes(Contents(files={name: size_bytes // 2}), layout)
    with pytest.raises(BuildError, match=rf"needs \d+ bytes and {structure} has room for \d+"):
        check_sizes(Contents(files={name: size_bytes}), layout)
