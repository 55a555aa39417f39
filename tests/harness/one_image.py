"""Makes all that a build's bytes come from, on whatever machine runs it: rootfs, device part, payload, disk image.

A script of two arguments, `Given` as JSON and a folder to work in; it prints the SHA-256 of each thing by its name. It
needs no pytest, so that another machine can run it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from coreimage.model import ArtifactRef, DeviceBuild, RootfsBuild, ToolsTree, Value
from coreimage.operations.flash import ImageRecipe, flash_local
from coreimage.operations.local_parts import local_part
from coreimage.project.loading import load_project
from coreimage.rootfs import Offline, build_device, build_rootfs, device_spec, rootfs_spec, tools_run
from coreimage.storage import fetch_blob, open_store
from coreimage.system_image import customise_rootfs
from coreimage.tarball import compress_xz


class Given(Value):
    """`project` is the path of a project file."""

    project: str
    channel: str
    device: str
    store_url: str
    rootfs_lock: ArtifactRef
    device_lock: ArtifactRef
    tools: ToolsTree


def main(given: Given, folder: Path) -> None:
    rootfs, device = _built(given)
    made = {
        "rootfs": rootfs.rootfs.sha256,
        "list of files": rootfs.filelist.sha256,
        "device": device.tarball.sha256,
        **_packed(given, rootfs.rootfs, device.tarball, folder),
    }
    sys.stdout.write(json.dumps({"python": f"{sys.version_info.major}.{sys.version_info.minor}", **made}))


def _built(given: Given) -> tuple[RootfsBuild, DeviceBuild]:
    store, project, fetch = open_store(given.store_url), load_project(Path(given.project)), Offline()
    run = tools_run(given.tools, store=store)
    core = rootfs_spec(project, given.channel, "amd64", store=store)
    board = device_spec(project, given.channel, given.device, store=store)
    rootfs = build_rootfs(core, given.rootfs_lock, store=store, fetch=fetch, run=run)
    device = build_device(board, given.device_lock, store=store, fetch=fetch, run=run)
    return rootfs, device


def _packed(given: Given, rootfs: ArtifactRef, device: ArtifactRef, folder: Path) -> dict[str, str]:
    store, project = open_store(given.store_url), load_project(Path(given.project))
    run = tools_run(given.tools, store=store)
    parts = [fetch_blob(store, ref, folder / name) for ref, name in ((rootfs, "r.tar.gz"), (device, "d.tar.gz"))]
    payload, image = folder / "r.tar.xz", folder / "x.img"
    compress_xz(lambda file: customise_rootfs(parts[0], file), payload, run=run, code_filter="x86")
    gadget = project.path(project.config.devices[given.device].gadget)
    recipe = ImageRecipe(gadget_folder=gadget, output=image, run=run, work_folder=folder)
    local = [local_part("rootfs", parts[0], folder), local_part("device", parts[1], folder)]
    flash_local(given.channel, given.device, "amd64", 1, recipe, local=local)
    return {"payload": _sha256(payload), "image": _sha256(image)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main(Given.model_validate_json(sys.argv[1]), Path(sys.argv[2]))
