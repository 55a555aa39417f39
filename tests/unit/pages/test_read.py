from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from coreimage.model import JSON
from coreimage.pages.read import Reader
from coreimage.pages.site import Delta
from coreimage.storage import open_store
from coreimage.system_image import layout

CHANNEL, DEVICE = "debian-core/13/edge", "generic_amd64"


def image(version: int, size_bytes: int, base: int | None = None) -> dict[str, Any]:
    digest = f"{version}{size_bytes}"
    file = {"path": f"/pool/ubuntu-{digest}.tar.xz", "size": size_bytes, "checksum": digest, "order": 0}
    about = {"version": version, "type": "full" if base is None else "delta", "version_detail": f"version={version}"}
    return {**about, **({} if base is None else {"base": base}), "files": [file]}


def test_of_both_forms_of_a_delta_the_one_that_devices_take_is_shown(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    documents = {
        layout.CHANNELS: {CHANNEL: {"devices": {DEVICE: {"index": "/index.json"}}}},
        "/index.json": {
            "images": [image(1, 900), image(2, 900), image(3, 900), image(3, 500, 2), image(3, 700, 1)],
            "compact": [image(3, 60, 2)],
        },
    }
    for path, document in documents.items():
        store.put_bytes(layout.key(path), json.dumps(document).encode(), media_type=JSON)

    ((device,),) = (channel.devices for channel in Reader(store, ()).channels())

    assert [version.deltas for version in device.versions] == [(Delta(2, 60), Delta(1, 700)), (), ()]
