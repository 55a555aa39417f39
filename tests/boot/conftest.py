from __future__ import annotations

from pathlib import Path

import pytest

from coreimage.disk_image import assemble
from coreimage.host.process import run
from tests.boot.synthetic import GADGET, IDENTITY, device_tarball, initrd, kernel_and_busybox, tarball


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    kernel, busybox = kernel_and_busybox(folder)
    rootfs = tarball(folder / "rootfs.tar.gz", [("system", None, {}), ("system/etc/hostname", b"tiny\n", {})])
    device = device_tarball(folder / "device.tar.gz", kernel, initrd(busybox))
    assemble([rootfs, device], GADGET, IDENTITY, folder / "tiny.img", run=run, work_folder=folder)
    return folder / "tiny.img"
