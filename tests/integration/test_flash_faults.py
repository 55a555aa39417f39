"""The known faults of `ubuntu-device-flash`, ordered by the damage they did: ours has none of them.

A row names its fault and the test that shows it absent: one below, or one elsewhere. The second table is of what any
such tool must show.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from coreimage.cli.app import run as coreimage
from coreimage.disk_image import ImageIdentity, assemble, image_size_bytes
from coreimage.disk_image.table import read_partitions
from coreimage.errors import BuildError
from coreimage.host.process import run
from tests.boot.synthetic import EPOCH, GADGET, IDENTITY, Member, device_tarball, tarball
from tests.harness.ordinary_user import as_ordinary_user
from tests.harness.proxy import faulty, slow, status
from tests.harness.server import serve
from tests.harness.trees import DEVICE
from tests.integration.test_flash import FLASH, REPOSITORY, _left, _record, _served, _system, here, parts, tree

__all__ = ["here", "parts", "tree"]

UBOOT = GADGET.parent / "uboot_arm64"


class Row:
    """What is claimed, and the tests that show it: `file::test`; without a file, one of this file."""

    def __init__(self, said: str, *tests: str) -> None:
        self.said, self.tests = said, tests


FAULTS = {
    1: Row(
        "nothing downloaded is authenticated",
        "test_1_a_foreign_signature_is_refused",
        "test_flash::test_a_wrong_byte_is_never_used",
    ),
    2: Row(
        "a default password",
        "test_2_no_two_images_have_the_same_password",
    ),
    3: Row(
        "kpartx fails: device or resource busy",
        "test_3_4_the_host_is_left_alone",
    ),
    4: Row(
        "udevadm on the build host",
        "test_3_4_the_host_is_left_alone",
    ),
    5: Row(
        "a failed download leaves mounts and folders",
        "test_5_6_15_a_failed_run_leaves_nothing_and_the_next_succeeds",
    ),
    6: Row(
        "a failed run leaves its output",
        "test_5_6_15_a_failed_run_leaves_nothing_and_the_next_succeeds",
    ),
    7: Row(
        "tarballs applied in completion order",
        "test_7_the_order_is_the_indexs",
        "test_7_later_tarballs_win",
    ),
    8: Row(
        "device parts told by `device` in the path",
        "test_8_the_role_decides_not_the_path",
    ),
    9: Row(
        "signals swallowed",
        "test_flash_interrupted::test_ended_while",
    ),
    10: Row(
        "no boot assets: a crash",
        "test_10_a_gadget_without_content",
    ),
    11: Row(
        "errors that crash instead of being told",
        "test_11_a_program_that_fails_is_told",
    ),
    12: Row(
        "the BIOS boot partition is formatted",
        "test_12_the_bios_boot_partition_has_no_filesystem",
    ),
    13: Row(
        "fixed sleeps",
        "test_13_nobody_sleeps",
    ),
    14: Row(
        "flags silently ignored",
        "test_14_no_flag_is_ignored",
        "test_flash::test_what_is_refused_says_what_to_do",
        "test_flash::test_a_tree_of_the_original_server",
    ),
    15: Row(
        "temporary folders left",
        "test_5_6_15_a_failed_run_leaves_nothing_and_the_next_succeeds",
    ),
    16: Row(
        "user ids switched to and fro",
        "test_3_4_the_host_is_left_alone",
    ),
    17: Row(
        "revision numbers decide the layout",
        "test_17_the_version_decides_nothing",
    ),
    18: Row(
        "panics for user errors",
        "../unit/disk_image/gadget/test_loading::test_problems_name_the_structure_and_the_rule",
        "../unit/disk_image/test_layout::test_overlap_and_overflow_are_refused_by_name",
    ),
    19: Row(
        "two processes own one lock",
        "../unit/http/test_cache::test_many_at_once_ask_once",
    ),
    20: Row(
        "HTTP status unchecked, no timeouts",
        "test_20_a_missing_channels_file_is_an_http_error",
        "../contract/test_http::test_a_silent_server_is_given_up",
    ),
    21: Row(
        "SSH keys break the YAML",
        "test_21_a_key_is_one_line_whatever_its_comment",
    ),
    22: Row(
        "sizes ignored for U-Boot",
        "test_22_size_counts_for_u_boot_too",
    ),
    23: Row(
        "never reproducible",
        "test_flash::test_two_runs_in_other_environments_are_equal",
    ),
    24: Row(
        "A/B ping-pong",
        "../boot/test_boot::test_slot_walk",
    ),
    25: Row(
        "no GRUB for arm64",
        "test_25_grub_for_arm64",
    ),
    26: Row(
        "raw partitions only before the first one",
        "test_26_partitions_anywhere",
    ),
    27: Row(
        "bars interleave, errors on stdout, no JSON",
        "test_27_json_and_errors_have_their_own_streams",
        "../contract/test_http::test_bars_for_terminals",
    ),
}
ACCEPTANCE = {
    1: Row(
        "revisions: newest, relative, absolute, absent; deltas only",
        "test_flash::test_revisions_count_back_or_are_versions",
        "../unit/client/test_documents::test_revision_is_relative_or_absolute",
        "../unit/client/test_documents::test_a_delta_alone_cannot_be_installed",
    ),
    2: Row(
        "channel and device missing are distinct; 404",
        "test_acceptance_2_what_is_missing_is_named",
        "test_20_a_missing_channels_file_is_an_http_error",
    ),
    3: Row(
        "a corrupt byte: retry, then fail; a bad signature",
        "../contract/test_http::test_wrong_bytes_twice_are_refused",
        "test_flash::test_a_wrong_byte_is_never_used",
        "test_1_a_foreign_signature_is_refused",
    ),
    4: Row(
        "extraction order",
        "test_7_the_order_is_the_indexs",
        "test_7_later_tarballs_win",
    ),
    5: Row(
        "sizes",
        "../unit/disk_image/test_layout::test_sizes_of_2015",
    ),
    6: Row(
        "the tables, their types and labels",
        "../unit/disk_image/test_layout::test_sectors_of_the_default_disk",
        "../unit/disk_image/test_table::test_the_table_is_that_of_2015",
        "test_acceptance_6_types_and_labels",
    ),
    7: Row(
        "boot assets and raw files",
        "../unit/disk_image/test_table::test_raw_images_are_at_their_offsets_between_zeros",
        "test_10_a_gadget_without_content",
        "test_gadget::test_two_files_in_one_place_are_refused",
        "../unit/disk_image/gadget/test_loading::test_problems_name_the_structure_and_the_rule",
    ),
    8: Row(
        "`device` in the cache's path, none in the part's name",
        "test_8_the_role_decides_not_the_path",
    ),
    9: Row(
        "SIGINT at each step",
        "test_flash_interrupted::test_ended_while",
    ),
    10: Row(
        "two builds are equal",
        "test_flash::test_two_runs_in_other_environments_are_equal",
    ),
    11: Row(
        "slots under BIOS and UEFI",
        "../boot/test_boot::test_boots_to_the_login_prompt",
        "../boot/test_boot::test_slot_walk",
    ),
    12: Row(
        "without root, without loop devices",
        "test_3_4_the_host_is_left_alone",
    ),
    13: Row(
        "file capabilities",
        "test_disk_image::test_owners_modes_and_capabilities_survive",
    ),
    14: Row(
        "a boot partition too small: an early error",
        "test_acceptance_14_no_room_for_two_kernels",
    ),
}


@pytest.mark.parametrize(
    ("number", "row"), [*FAULTS.items(), *ACCEPTANCE.items()], ids=lambda value: getattr(value, "said", value)
)
def test_each_row_has_its_test(number: int, row: Row) -> None:
    for name in row.tests:
        file, _, test = name.rpartition("::")
        source = Path(__file__).parent / f"{file or Path(__file__).stem}.py"
        functions = [node.name for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.FunctionDef)]
        assert test in functions, f"row {number}: {row.said}"
    assert sorted(FAULTS) == list(range(1, 28))
    assert sorted(ACCEPTANCE) == list(range(1, 15))


def _flash(tree: Path, *words: str) -> int:
    return coreimage(["--store", str(tree), *FLASH, *words])


def test_1_a_foreign_signature_is_refused(
    tree: Path, here: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The file is the one that the index names, but nobody who may has signed it."""
    web = tmp_path / "web"
    run(["cp", "-a", tree / "system-image", web])
    signatures = sorted(web.glob("pool/*.xz.asc"))
    for number, path in enumerate(signatures):
        other = signatures[number - 1].read_bytes()
        path.unlink()
        path.write_bytes(other)
    with serve(web) as server:
        words = [*FLASH, *_served(tree), "--server", server.url, "--device", DEVICE, "--output", "x.img"]
        assert coreimage(words) == 3
    assert "signature" in capfd.readouterr().err
    assert _left(here) == []


def test_2_no_two_images_have_the_same_password(
    tree: Path, here: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(here))
    words = [word for word in FLASH if word not in {"--login-key", "key.pub"}]
    passwords = []
    for name in ("a.img", "b.img"):
        assert coreimage(["--json", "--store", str(tree), *words, "--output", name]) == 0
        passwords.append(json.loads(capfd.readouterr().out)["login"]["password"])
    assert len(set(passwords)) == 2
    assert min(map(len, passwords)) >= 12
    assert coreimage(["--json", "--store", str(tree), *words, "--output", "c.img", "--cloud"]) == 0
    assert json.loads(capfd.readouterr().out)["login"] is None
    assert "File not found" in _writable(Path("c.img"), "cat /system-data/var/lib/extrausers/shadow")


_FORBIDDEN = ("kpartx", "dmsetup", "losetup", "udevadm", "parted", "partprobe", "sudo", "pkexec")
_NO_LOOP = 'for each in /dev/loop*; do [ ! -e "$each" ] || mount --bind /dev/null "$each"; done; exec "$@"'


def test_3_4_the_host_is_left_alone(tree: Path, tmp_path: Path) -> None:
    """An ordinary user makes an image where no loop device is, and starts nothing that would touch the host."""
    home = tmp_path / "home"
    bin_ = home / "bin"
    bin_.mkdir(parents=True)
    for name in _FORBIDDEN:
        (bin_ / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {home}/started\nexit 1\n')
        (bin_ / name).chmod(0o755)
    run(["cp", "-a", tree, home / "store"])
    run(["chown", "-R", "42420:42420", home], accept=(0, 1))
    words = [
        "--store",
        str(home / "store"),
        "flash",
        "core",
        "13",
        "--channel",
        "edge",
        "--output",
        str(home / "x.img"),
    ]
    command = ["env", f"PATH={bin_}:{os.environ['PATH']}", sys.executable, "-m", "coreimage.cli", *words]
    argv = as_ordinary_user(command, home)
    hide = ["unshare", "--mount", "sh", "-c", _NO_LOOP, "sh"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*hide, *argv],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not (home / "started").exists()
    assert (home / "x.img").stat().st_size == image_size_bytes(4)


def test_5_6_15_a_failed_run_leaves_nothing_and_the_next_succeeds(
    tree: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file of the image is gone from the server: the others are under way."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    web = tmp_path / "web"
    run(["cp", "-a", tree / "system-image", web])
    gone = sorted(web.glob("pool/device-*.xz"))
    for path in gone:
        path.rename(f"{path}.away")
    words = [*FLASH, *_served(tree), "--device", DEVICE, "--oem", str(GADGET), "--output", "x.img"]
    with serve(web) as server:
        assert coreimage([*words, "--server", server.url]) == 1
        assert _left(here) == []
        for path in gone:
            Path(f"{path}.away").rename(path)
        assert coreimage([*words, "--server", server.url]) == 0
    assert _left(here) == ["x.img"]
    assert list((tmp_path / "tmp").iterdir()) == []


def test_7_the_order_is_the_indexs(tree: Path, here: Path) -> None:
    """The first file of the image is the last to arrive."""
    with serve(tree / "system-image") as plain:
        words = [*FLASH, *_served(tree), "--device", DEVICE, "--oem", str(GADGET), "--output", "x.img"]
        assert coreimage([*words, "--server", plain.url]) == 0
        asked = [request.path for request in plain.requests]
    first = next(n for n, path in enumerate(asked) if path.startswith("/pool/ubuntu-") and path.endswith(".xz"))
    with faulty(tree / "system-image", *[None] * first, slow(0.2, 64)) as server:
        assert coreimage([*words, "--force", "--clean-cache", "--server", server.url]) == 0
        assert len(server.requests) > first
    names = [str(name).partition("-")[0] for name in _parts_of(here / "x.img")]
    assert names == ["ubuntu", "device", "version"]


def _parts_of(image: Path) -> list[str]:
    return list(_record(image)["parts"])


def test_7_later_tarballs_win(tmp_path: Path) -> None:
    first: list[Member] = [("system", None, {}), ("system/etc/issue", b"first\n", {}), ("system/etc/only", b"1\n", {})]
    second: list[Member] = [("system/etc/issue", b"second\n", {})]
    files = [
        tarball(tmp_path / "1.tar.gz", first),
        device_tarball(tmp_path / "2.tar.gz", b"k", b"i"),
        tarball(tmp_path / "3.tar.gz", second),
    ]
    made = assemble(files, GADGET, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path)
    assert _system(made.path, "/etc/issue").endswith("second\n")
    assert _system(made.path, "/etc/only").endswith("1\n")


def test_8_the_role_decides_not_the_path(
    tree: Path, parts: list[str], here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COREIMAGE_CACHE", str(tmp_path / "device-lab"))
    (here / "device-rootfs.tar.gz").write_bytes((here / parts[1]).read_bytes())
    assert "device" not in parts[3]
    with serve(tree / "system-image") as server:
        words = [*FLASH, *_served(tree), "--server", server.url, "--device", DEVICE, "--oem", str(GADGET)]
        assert coreimage([*words, *parts[2:], "--output", "a.img"]) == 0
        assert coreimage([*words, "--rootfs-part", "device-rootfs.tar.gz", *parts[2:], "--output", "b.img"]) == 0
    assert "two" in _system(here / "a.img", "/etc/issue")
    assert "mine" in _system(here / "b.img", "/etc/issue")


def _gadget(folder: Path, text: str) -> Path:
    (folder / "meta").mkdir(parents=True)
    (folder / "meta/gadget.yaml").write_text(text)
    return folder


def _board(folder: Path, gadget: Path, name: str = "board.img", size_bytes: int | None = None) -> Path:
    identity = ImageIdentity(channel="c/1/edge", device="board_arm64", version=1, architecture="arm64", epoch=EPOCH)
    files = [
        tarball(folder / "rootfs.tar.gz", [("system", None, {})]),
        device_tarball(folder / "device.tar.gz", b"k", b"i"),
    ]
    made = assemble(files, gadget, identity, folder / name, run=run, work_folder=folder, size_bytes=size_bytes)
    return made.path


def test_10_a_gadget_without_content(tmp_path: Path) -> None:
    text = re.sub(r"        content:\n(?: {10}.*\n)+", "", (UBOOT / "meta/gadget.yaml").read_text())
    assert "content:" not in text
    made = _board(tmp_path, _gadget(tmp_path / "gadget", text))
    assert "boot.scr" not in _boot_listing(made)


def test_11_a_program_that_fails_is_told(
    tree: Path, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "grub-mkimage").write_text("#!/bin/sh\necho 'error: cannot open moddep.lst' >&2\nexit 1\n")
    (tmp_path / "grub-mkimage").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert _flash(tree, "--output", "x.img") == 1
    said = capfd.readouterr().err
    assert "grub-mkimage" in said
    assert "cannot open moddep.lst" in said
    assert "Traceback" not in said
    assert _left(here) == []


def test_12_the_bios_boot_partition_has_no_filesystem(tree: Path, here: Path) -> None:
    assert _flash(tree, "--output", "x.img") == 0
    entry = read_partitions(here / "x.img")[0]
    with (here / "x.img").open("rb") as file:
        file.seek(entry.offset_bytes)
        content = file.read(4096)
    assert entry.name == "grub"
    assert content[0x438:0x43A] != b"\x53\xef", "the magic of ext4"
    assert int.from_bytes(content[500:508], "little") == entry.first + 1, "core.img knows where its rest is"


def test_13_nobody_sleeps() -> None:
    sources = [*(REPOSITORY / "coreimage/disk_image").rglob("*.py")]
    for room in ("operations", "cli"):
        sources += [path for path in (REPOSITORY / "coreimage" / room).rglob("*.py") if "flash" in str(path)]
    assert {"flash.py", "flash_sources.py", "core.py"} <= {path.name for path in sources}
    assert not [path.name for path in sources if re.search(r"\bsleep\b", path.read_text())]


def test_14_no_flag_is_ignored(tree: Path, here: Path, tmp_path: Path) -> None:
    """`--clean-cache`, which the original took and forgot; its others are refused or obeyed."""
    words = [*FLASH[1:], *_served(tree), "--device", DEVICE, "--oem", str(GADGET), "--force", "--output", "x.img"]
    with serve(tree / "system-image") as server:
        for before in ([], [], ["--clean-cache"]):
            assert coreimage(["flash", *before, *words, "--server", server.url]) == 0
        payload = [r.path for r in server.requests if r.path.startswith("/pool/ubuntu-") and r.path.endswith(".xz")]
    assert len(payload) == 2, "fetched, kept, and fetched again when the cache was emptied"


def test_17_the_version_decides_nothing(tmp_path: Path) -> None:
    """The original's limits were 4, 9 and 149."""
    files = [
        tarball(tmp_path / "rootfs.tar.gz", [("system", None, {})]),
        device_tarball(tmp_path / "d.tar.gz", b"k", b"i"),
    ]
    seen = set()
    for version in (1, 57, 150):
        identity = IDENTITY.model_copy(update={"version": version})
        made = assemble(files, GADGET, identity, tmp_path / f"{version}.img", run=run, work_folder=tmp_path)
        layout = tuple((entry.name, entry.type_guid, entry.first, entry.last) for entry in read_partitions(made.path))
        seen.add((layout, frozenset(_boot_listing(made.path))))
    assert len(seen) == 1


def test_20_a_missing_channels_file_is_an_http_error(tree: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*FLASH, *_served(tree), "--device", DEVICE, "--output", "x.img"]
    (here / "empty").mkdir()
    with serve(here / "empty") as server:
        assert coreimage([*words, "--server", server.url]) == 1
    said = capfd.readouterr().err
    assert server.url in said
    assert "parse" not in said
    with faulty(tree / "system-image", *[status(403)] * 20) as server:
        assert coreimage([*words, "--server", server.url]) != 0
    assert "403" in capfd.readouterr().err


def test_21_a_key_is_one_line_whatever_its_comment(tree: Path, here: Path) -> None:
    """Of several files the user names one: no newest file is guessed."""
    key = f'ssh-ed25519 {"A" * 68} it\'s: "me" - {{x}}'
    (here / "key.pub").write_text(f"\n{key}\n\n")
    assert _flash(tree, "--output", "x.img") == 0
    written = _writable(here / "x.img", "cat /user-data/admin/.ssh/authorized_keys")
    assert written.partition("\n")[2] == f"{key}\n"


def test_22_size_counts_for_u_boot_too(tmp_path: Path) -> None:
    sizes = {}
    for gigabytes in (4, 6):
        made = _board(tmp_path, UBOOT, f"{gigabytes}.img", image_size_bytes(gigabytes))
        sizes[gigabytes] = {entry.name: entry.size_bytes for entry in read_partitions(made)}
    assert sizes[6]["writable"] - sizes[4]["writable"] == pytest.approx(2 * 975_000_000, abs=2 << 20)
    larger = (UBOOT / "meta/gadget.yaml").read_text().replace("size: 1G", "size: 1280M", 1)
    gadget = _gadget(tmp_path / "gadget", larger)
    (gadget / "boot.cmd").write_text("reset\n")
    made = _board(tmp_path, gadget, "larger.img")
    assert next(entry.size_bytes for entry in read_partitions(made) if entry.name == "system-a") == 1280 << 20


def test_25_grub_for_arm64(tmp_path: Path) -> None:
    """The device part brings it, as a build for arm64 does."""
    device: list[Member] = [
        ("hardware.yaml", b"kernel: assets/vmlinuz\ninitrd: assets/initrd.img\n", {}),
        ("assets/vmlinuz", b"kernel", {}),
        ("assets/initrd.img", b"initrd", {}),
        ("boot/EFI/BOOT/BOOTAA64.EFI", b"MZ grub", {}),
    ]
    files = [tarball(tmp_path / "rootfs.tar.gz", [("system", None, {})]), tarball(tmp_path / "d.tar.gz", device)]
    identity = ImageIdentity(channel="c/1/edge", device="generic_arm64", version=1, architecture="arm64", epoch=EPOCH)
    gadget = GADGET.parent / "generic_arm64"
    made = assemble(files, gadget, identity, tmp_path / "x.img", run=run, work_folder=tmp_path)
    assert "BOOTAA64.EFI" in _boot_listing(made.path)


def test_26_partitions_anywhere(tmp_path: Path) -> None:
    text = (UBOOT / "meta/gadget.yaml").read_text()
    more = '      - name: calibration\n        type: "DA"\n        size: 64M\n'
    text = text.replace("      - name: system-b\n", f"{more}      - name: system-b\n")
    text = text.replace("    schema: mbr\n", "    schema: gpt\n").replace(
        "type: 0C", "type: C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
    )
    text = re.sub(r'type: "(83|DA)"', "type: 0FC63DAF-8483-4772-8E79-3D69D8477DE4", text)
    gadget = _gadget(tmp_path / "gadget", text)
    (gadget / "boot.cmd").write_text("reset\n")
    entries = read_partitions(_board(tmp_path, gadget))
    assert [entry.name for entry in entries] == ["system-boot", "system-a", "calibration", "system-b", "writable"]
    assert entries[2].first * 512 > 1 << 30


def test_27_json_and_errors_have_their_own_streams(tree: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert coreimage(["--json", "--store", str(tree), *FLASH, "--output", "x.img"]) == 0
    said = capfd.readouterr()
    assert json.loads(said.out)["version"] == 2
    assert "\r" not in said.err
    assert coreimage(["--store", str(tree), *FLASH, "--output", "x.img"]) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert "--force" in said.err


def test_acceptance_2_what_is_missing_is_named(tree: Path, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = ["flash", "core", "13", "--login-key", "key.pub", "--output", "x.img", "--oem", str(GADGET)]
    assert coreimage(["--store", str(tree), *whole, "--channel", "a/b/c"]) == 1
    assert "there is no channel 'a/b/c'" in capfd.readouterr().err
    assert coreimage(["--store", str(tree), *whole, "--channel", "edge", "--device", "other_amd64"]) == 1
    assert "has no device 'other_amd64'" in capfd.readouterr().err


def test_acceptance_6_types_and_labels(tree: Path, here: Path) -> None:
    assert _flash(tree, "--output", "x.img") == 0
    listed = run(["sgdisk", "--print", here / "x.img"]).output
    found = re.findall(r"^ +(\d+) +\d+ +\d+ +[\d.]+ \w+ +(\w{4}) +(\S+)$", listed, re.MULTILINE)
    assert found == [
        ("1", "EF02", "grub"),
        ("2", "EF00", "system-boot"),
        ("3", "8300", "system-a"),
        ("4", "8300", "system-b"),
        ("5", "8300", "writable"),
    ]
    for entry in read_partitions(here / "x.img")[1:]:
        label = run(["blkid", "-p", "-O", str(entry.offset_bytes), "-s", "LABEL", "-o", "value", here / "x.img"]).output
        assert label.strip() == entry.name


def test_acceptance_14_no_room_for_two_kernels(tmp_path: Path) -> None:
    kernel = bytes(260 << 20)
    files = [
        tarball(tmp_path / "rootfs.tar.gz", [("system", None, {})]),
        device_tarball(tmp_path / "d.tar.gz", kernel, b"i"),
    ]
    with pytest.raises(BuildError, match="structure system-boot"):
        assemble(files, GADGET, IDENTITY, tmp_path / "x.img", run=run, work_folder=tmp_path)


def _boot_listing(image: Path) -> str:
    boot = next(entry for entry in read_partitions(image) if entry.name == "system-boot")
    return run(["mdir", "-/", "-b", "-i", f"{image}@@{boot.offset_bytes}", "::"]).output


def _writable(image: Path, command: str) -> str:
    entry = next(entry for entry in read_partitions(image) if entry.name == "writable")
    return run(["debugfs", "-R", command, f"{image}?offset={entry.offset_bytes}"]).output
