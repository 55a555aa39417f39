"""Each stage broken in turn: once the cause is mended, a retry does that stage and what follows, and nothing twice."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.api import LAST, LIVE
from tests.harness.installed import Installed
from tests.harness.product import KERNEL
from tests.harness.workshop import running_as_root, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not running_as_root(), reason="small disks are root's to make"),
]
CHANNEL = "tiny/1/gated"
GATED = "build-channel/tiny:1:gated"
_DISK_MIB, _LARGER_THAN_DISK_BYTES = 24, 30_000_000
Environment = dict[str, str]
Breaks = Callable[[Installed], AbstractContextManager[Environment]]


@contextmanager
def mirror_away(installed: Installed) -> Iterator[Environment]:
    suites = installed.product.archive.folder / "dists"
    suites.rename(suites.with_name("away"))
    try:
        yield {}
    finally:
        suites.with_name("away").rename(suites)


@contextmanager
def index_wrong(installed: Installed) -> Iterator[Environment]:
    installed.product.move_on()
    for path in installed.product.archive.folder.glob("dists/*/main/*/Packages*"):
        path.write_bytes(b"#" + path.read_bytes()[1:])
    try:
        yield {}
    finally:
        installed.product.archive.publish()


@contextmanager
def _package_wrong(installed: Installed, package: str) -> Iterator[Environment]:
    deb = installed.product.move_on(package)
    content = deb.read_bytes()
    deb.write_bytes(content[:-1] + bytes([content[-1] ^ 0xFF]))
    try:
        yield {}
    finally:
        deb.write_bytes(content)


def package_wrong(installed: Installed) -> AbstractContextManager[Environment]:
    return _package_wrong(installed, "editor")


def kernel_wrong(installed: Installed) -> AbstractContextManager[Environment]:
    return _package_wrong(installed, KERNEL)


@contextmanager
def disk_full_for_the_plan(installed: Installed) -> Iterator[Environment]:
    installed.product.move_on()
    with small_disk(installed.folder / "small") as environment:
        yield environment


@contextmanager
def disk_full_for_the_rootfs(installed: Installed) -> Iterator[Environment]:
    """There is room for the archive's indexes, and none for what the new version brings."""
    large = installed.folder / "large"
    large.write_bytes(os.urandom(_LARGER_THAN_DISK_BYTES))
    installed.product.move_on(files={"usr/share/large": large})
    with small_disk(installed.folder / "small", _DISK_MIB) as environment:
        yield environment


@contextmanager
def disk_full_for_the_image(installed: Installed) -> Iterator[Environment]:
    """Another gadget: all that comes before the image is remembered."""
    with (installed.product.folder / "gadget/grub.cfg").open("a") as file:
        file.write("# another\n")
    installed.deploy()
    with small_disk(installed.folder / "small") as environment:
        yield environment


@contextmanager
def small_disk(folder: Path, size_mib: int = 2) -> Iterator[Environment]:
    """Somebody makes room for it when the block is left; what is below it may go on using it until the end."""
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder], check=True)
    try:
        yield {"TMPDIR": str(folder)}
    finally:
        subprocess.run(["mount", "-o", "remount,size=4g", folder], check=True)


@contextmanager
def _key_away(installed: Installed, role: str) -> Iterator[Environment]:
    installed.product.move_on()
    key = installed.folder / "var/keys" / role
    key.rename(key.with_name("away"))
    try:
        yield {}
    finally:
        key.with_name("away").rename(key)


def publishing_key_away(installed: Installed) -> AbstractContextManager[Environment]:
    return _key_away(installed, "cdimage")


def image_key_away(installed: Installed) -> AbstractContextManager[Environment]:
    return _key_away(installed, "image-signing")


@contextmanager
def boots_not(installed: Installed) -> Iterator[Environment]:
    """The gadget names a kernel that is not there."""
    path = installed.product.folder / "gadget/grub.cfg"
    text = path.read_text()
    path.write_text(text.replace("/vmlinuz ", "/no-kernel "))
    assert path.read_text() != text
    installed.deploy()
    try:
        yield {}
    finally:
        path.write_text(f"{text}# mended\n")
        installed.deploy()


@dataclass(frozen=True)
class Trouble:
    """`again` is the first task of the retry that is not remembered; default: the one that failed."""

    breaks: Breaks
    failing: str
    message: str
    again: str = ""


TROUBLES = {
    "no mirror": Trouble(mirror_away, "probe-archives", "InRelease"),
    "a mirror with a wrong index": Trouble(index_wrong, "plan-packages", "Packages"),
    "a mirror with a wrong package": Trouble(package_wrong, "build-rootfs", "editor.*sha256|sha256.*editor"),
    "a mirror with a wrong kernel": Trouble(kernel_wrong, "build-device", "tiny-kernel.*sha256|sha256.*tiny-kernel"),
    "a full disk for the plan": Trouble(disk_full_for_the_plan, "plan-packages", "disk is full"),
    "a full disk for the rootfs": Trouble(disk_full_for_the_rootfs, "build-rootfs", "No space left on device"),
    "no key to publish with": Trouble(publishing_key_away, "publish-build", "cdimage key is not on this machine"),
    "no key to release with": Trouble(image_key_away, "publish-keyrings", "image-signing key is not on this machine"),
    "a full disk for the image": Trouble(disk_full_for_the_image, "assemble-image", "disk is full"),
    "an image that does not boot": Trouble(boots_not, "boot-test", "could not start the kernel", "assemble-image"),
}


@pytest.fixture(scope="module")
def released(installed: Installed) -> Iterator[Installed]:
    """The channel has a version, and all tasks are remembered."""
    installed.completed(installed.start(GATED))
    yield installed
    while os.path.ismount(installed.folder / "small"):
        subprocess.run(["umount", "--lazy", installed.folder / "small"], check=True)


@pytest.mark.parametrize("trouble", TROUBLES.values(), ids=TROUBLES.keys())
def test_a_retry_does_what_failed_and_what_follows(trouble: Trouble, released: Installed) -> None:
    installed, builds, versions = released, released.build_ids(), released.versions(CHANNEL)
    with trouble.breaks(installed) as environment:
        run = installed.start(GATED, environment=environment)
        failed = installed.finished(run)["state"]
        assert failed["type"] == "FAILED", failed
        assert re.search(trouble.message, failed["message"], re.DOTALL), failed["message"]
        assert "→" in failed["message"], "what to do next is said"
        first = installed.tasks_to(run, trouble.failing)
        assert first[-1] == (trouble.failing, "Failed")
    published = installed.build_ids() - builds

    installed.retry(run)
    done = installed.completed(run)

    assert done["run_count"] == 2
    again = installed.tasks_to(run, LAST, after=len(first))
    anew = [name for name, state in again if state != "Cached" and name not in LIVE]
    assert trouble.failing in LIVE or anew[0] == (trouble.again or trouble.failing)
    finished = {name for name, state in first if state == "Completed"} - LIVE
    assert not finished & set(anew) - {trouble.again, "plan-packages"}, "nothing is done twice"
    made = installed.build_ids() - builds
    assert made in (published, {done["name"].split()[-1]}), "the build id stays"
    assert len(made) <= 1
    assert len(installed.versions(CHANNEL) - versions) <= 1


def test_a_release_that_lost_a_file_goes_on_once_it_is_back(released: Installed) -> None:
    """The candidate's payload is gone when it was tested; neither is built, tested or imported again."""
    installed = released
    with boots_not(installed):
        installed.product.move_on()
        before = set(installed.objects("system-image/pool/"))
        run = installed.start(GATED)
        assert installed.finished(run)["state"]["type"] == "FAILED"
    lost = next(key for key in installed.objects("system-image/pool/") if key not in before and key.endswith("xz.asc"))
    with installed.as_client():
        store = installed.store()
        with store.open(lost) as file:
            content = file.read()
        store.delete([lost])
    installed.retry(run)
    state = installed.finished(run)["state"]
    assert state["type"] == "FAILED"
    assert "no longer there" in state["message"]
    first = installed.tasks_to(run, "release-candidate")
    assert first[-1] == ("release-candidate", "Failed")

    with installed.as_client():
        store.put_bytes(lost, content, media_type="application/pgp-signature")
    installed.retry(run)
    installed.completed(run)

    again = installed.tasks_to(run, LAST, after=len(first))
    anew = [name for name, state in again if state != "Cached" and name not in LIVE]
    assert anew == ["release-candidate", "mark-good", "write-pages"]


def test_what_a_lost_machine_had_done_is_not_done_again(released: Installed) -> None:
    """It dies while it builds; that is noticed, and another takes over what was not done."""
    installed, builds = released, released.build_ids()
    with installed.waiting_hook() as go_on:
        run = installed.start(GATED)
        wait_until(lambda: bool(installed.hooks()), 600, "the hook")
        first = installed.tasks(run)
        installed.lose_worker()
        wait_until(lambda: not installed.hooks(), 60, "the end of all that ran there")
        state = installed.finished(run)["state"]
        assert state["type"] == "CRASHED", state
        installed.retry(run)
        go_on()
        done = installed.completed(run)
    again = installed.tasks_to(run, LAST, after=len(first))
    assert ("plan-packages", "Cached") in again
    assert ("plan-packages", "Completed") not in again
    assert ("build-rootfs", "Completed") in again
    assert len(installed.build_ids() - builds) <= 1
    assert done["name"].split()[-1] in installed.build_ids()
