"""A run that shows a boot's verdict, as the end of a build does: `python -m tests.operate.shown`.

The console's picture is drawn here; all else is what a gate leaves.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

from prefect import flow

from coreimage.model import ArtifactRef, BootReport, Candidate, DiskImage, PublishedBuild, Release
from coreimage.storage import Store, put_blob_bytes
from flows.report import show_result
from flows.result import BuildResult, DeviceResult
from tasks.site import Site

_CHANNEL, _DEVICE = "shown/1/edge", "board_amd64"
LAST_LINE = "board login: "
WIDTH = 320


@flow(name="show-a-verdict")
def show() -> None:
    store = Site.here().store()
    show_result(_result(store), {}, web="", store=store)


def _result(store: Store) -> BuildResult:
    text = put_blob_bytes(store, b"[  OK  ] Reached target multi-user\n" + LAST_LINE.encode(), "text/plain")
    boot = BootReport(
        image_sha256=text.sha256,
        firmware="uefi",
        accelerator="tcg",
        passed=True,
        reason="login prompt",
        duration_s=35.2,
        serial_log=text,
        last_lines=("[  OK  ] Reached target multi-user", LAST_LINE),
        screenshot=put_blob_bytes(store, _picture(), "image/png"),
    )
    return BuildResult(channel=_CHANNEL, published=_build(text), devices=(_device(text, boot),), steps=())


def _build(file: ArtifactRef) -> PublishedBuild:
    return PublishedBuild(
        project="shown",
        series="1",
        image_type="daily",
        build_id="20261124",
        prefix="cdimage/shown/1/daily/20261124",
        files=(),
        checksums=file,
        signature=file,
    )


def _device(file: ArtifactRef, boot: BootReport) -> DeviceResult:
    common: dict[str, Any] = {"channel": _CHANNEL, "device": _DEVICE, "version": 7}
    return DeviceResult(
        device=_DEVICE,
        candidate=Candidate(**common, version_detail="", build_id="20261124", files=(), channels=file, index=file),
        image=DiskImage(
            **common, architecture="amd64", image=file, raw_sha256=file.sha256, raw_size_bytes=file.size_bytes
        ),
        boots=(boot,),
        release=Release(**common, index=file),
    )


def _picture() -> bytes:
    """A PNG (RFC 2083) of grey bars, WIDTH x 100 pixels."""
    row = b"\0" + bytes(x // 32 * 25 for x in range(WIDTH))
    head = struct.pack(">IIBBBBB", WIDTH, 100, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", head), (b"IDAT", zlib.compress(row * 100)), (b"IEND", b""))
    )


if __name__ == "__main__":
    show()
