from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from coreimage.boot_test import probe_accelerator
from coreimage.disk_image import Login, assemble, generated_password, personalise
from coreimage.disk_image.images import decompress
from coreimage.process import run
from coreimage.storage import open_store
from tests.boot.synthetic import GADGET, IDENTITY, device_tarball, initrd, kernel_and_busybox, tarball

ROOT_DIR = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def tiny_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    kernel, busybox = kernel_and_busybox(folder)
    rootfs = tarball(folder / "rootfs.tar.gz", [("system", None, {}), ("system/etc/hostname", b"tiny\n", {})])
    device = device_tarball(folder / "device.tar.gz", kernel, initrd(busybox))
    assemble([rootfs, device], GADGET, IDENTITY, folder / "tiny.img", run=run, work_folder=folder)
    return folder / "tiny.img"


@pytest.fixture(scope="session")
def accelerator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return probe_accelerator(run=run, work_folder=tmp_path_factory.mktemp("probe"))


@dataclass(frozen=True)
class RealImage:
    """A personalised raw image, not to be written to, and the password of its user `admin`."""

    path: Path
    password: str


@pytest.fixture(scope="session")
def real_image(tmp_path_factory: pytest.TempPathFactory) -> RealImage:
    folder = tmp_path_factory.mktemp("real")
    password = generated_password()
    image = image_under_test(folder / "disk.img")
    personalise(image, Login(password=password), int(time.time()), run=run, work_folder=folder)
    return RealImage(image, password)


def image_under_test(target: Path) -> Path:
    """The newest image that the store holds (COREIMAGE_STORE, else this checkout's), unpacked to `target`.

    Made by the build, so that what boots here is what a user gets: `coreimage build debian-core/13/edge`.
    """
    store = open_store(os.environ.get("COREIMAGE_STORE") or (ROOT_DIR / "var/store").as_uri())
    pattern = re.compile(r"^images/.*/(\d+)/[^/]*\.img\.xz$")
    found = [(int(match[1]), info.key) for info in store.list("images/") if (match := pattern.match(info.key))]
    assert found, f"{store.url} holds no image: run `coreimage build debian-core/13/edge` first"
    with store.open(max(found)[1]) as source, target.open("wb") as file:
        decompress(source, file)
    return target
