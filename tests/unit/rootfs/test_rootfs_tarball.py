from __future__ import annotations

from coreimage.model import ArtifactRef
from coreimage.rootfs import HookSpec, RootfsSpec
from coreimage.rootfs.rootfs_tarball import customize

REF = ArtifactRef(uri="blobs/x", sha256="0" * 64, size_bytes=0, media_type="x")


def test_hooks_run_in_order_after_the_overlay_with_quoted_names() -> None:
    hooks = (HookSpec(name="a; rm -rf /", script=REF), HookSpec(name="b", script=REF))
    spec = RootfsSpec(
        architecture="amd64", hostname="h", archives=(), packages=("a",), system_files=REF, overlay=REF, hooks=hooks
    )
    script = customize(spec)
    places = [script.index(text) for text in ("system.tar", "overlay.tar", "'a; rm -rf /'", "coreimage-hook-failed b")]
    assert places == sorted(places)
