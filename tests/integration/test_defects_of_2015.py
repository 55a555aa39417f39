"""What was wrong with the original, and what shows ours right: a table to read, and the tests that nothing else has.

D, P: the numbered defects (system-image §8). F: what its diff misses (§6.3). SA, CA: what the tests of its server and
of its client promise (§7). Each row names the tests; that they exist and run in `make test` is tested here.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from coreimage.errors import CoreimageError, ProcessError
from coreimage.host.process import run
from coreimage.signing import GnupgSigner
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import (
    ChannelTree,
    create_channel,
    import_build,
    promote,
    publish_keyrings,
    release_candidate,
    set_phase,
    tag_image,
)
from tests.harness.random_trees import Member, tarball
from tests.harness.strict_client import check_tree
from tests.harness.trees import CHANNEL, DEVICE, now, published, released
from tests.unit.deltas.test_legacy import FILE, FOLDER, HARD, SOFT, files, same, tree

TESTS = Path(__file__).parents[1]
HERE = "integration/test_defects_of_2015.py"
CHANNELS = "integration/test_channels.py"
COMPONENTS = "integration/test_components.py"
DELTA = "unit/deltas/test_legacy.py"
DOCUMENTS = "unit/client/test_documents.py"
HOSTILE = "integration/test_hostile.py"
HTTP = "contract/test_http.py"
IMPORT = "integration/test_import.py"
KEYS = "integration/test_keys.py"
KILLED = "integration/test_operations_killed.py"
ORIGINAL = "integration/test_original_server.py"
SIGNING = "integration/test_signing.py"
TREE = "integration/test_system_image.py"
TRUST = "integration/test_trust.py"
UPGRADE = "unit/client/test_upgrade.py"
VERIFY = "integration/test_system_image_verify.py"
VERSION = "unit/system_image/payloads/test_version_tarball.py"

TABLE: dict[str, tuple[str, ...]] = {
    # The numbered defects
    "D1 diff misses content of equal size and time": (
        f"{DELTA}::test_same_size_and_time_but_other_content",
        f"{TREE}::test_a_version_comes_with_a_delta_from_the_one_before",
    ),
    "D2 freeze and rollback go unnoticed": (
        f"{TRUST}::test_an_older_document_is_a_rollback",
        f"{TRUST}::test_channels_past_their_end_are_frozen",
    ),
    "D3 an index is bound to no channel and device": (
        f"{TRUST}::test_the_index_of_another_channel_or_device",
        f"{TRUST}::test_a_swapped_delta",
    ),
    "D4 an alias keeps its old target's images where numbers are equal": (
        f"{CHANNELS}::test_an_alias_that_gets_another_target_has_its_versions_whatever_their_numbers",
    ),
    "D5 a tag publishes deltas from versions of other content": (
        f"{CHANNELS}::test_a_tag_is_one_small_step_from_the_same_content_only",
    ),
    "D6 expired and revoked keys, stale device keys, blacklists that are missing": (
        f"{SIGNING}::test_revoked_key_is_refused",
        f"{SIGNING}::test_expired_key_is_refused",
        f"{TREE}::test_attacks_are_refused",
        f"{CHANNELS}::test_a_device_keyring_must_be_signed",
        f"{KEYS}::test_a_revoked_key_signs_nothing_any_more",
    ),
    "D7 another server's data is signed unverified; paths lead out; builds are not verified": (
        f"{COMPONENTS}::test_another_server_is_verified_before_anything_is_signed_again",
        f"{TREE}::test_unsigned_or_unlisted_build_is_not_imported",
        f"{DOCUMENTS}::test_hostile_index_is_refused",
    ),
    "D8 publishing is not atomic; what a crash leaves stops or poisons later runs": (
        f"{TREE}::test_killed_at_every_store_call",
        f"{KILLED}::test_killed_at_every_store_call",
        f"{HERE}::test_what_a_crash_left_is_no_obstacle_and_not_believed",
    ),
    "D9 a full image followed by deltas, whose removals are skipped": (
        f"{ORIGINAL}::test_the_original_offers_a_full_image_and_then_a_delta",
    ),
    "D10 a path that moves between tarballs is deleted; dropped components stay": (
        f"{DELTA}::test_path_moves_between_the_tarballs",
        f"{DELTA}::test_component_that_disappears",
    ),
    "D11 deltas from equal numbers of other channels (LP #1516602)": (
        f"{HERE}::test_equal_numbers_of_two_channels_are_two_versions",
    ),
    "D12 no fallback outside of a phase; a seed of None; a dry run that says another number": (
        f"{UPGRADE}::test_a_device_outside_the_phase_gets_the_newest_before",
        f"{UPGRADE}::test_phases_are_those_of_the_original",
    ),
    "D13 exponential search": (f"{UPGRADE}::test_the_search_looks_at_each_image_once",),
    "D14 an alias that misses a full image and a delta of one version": (
        f"{CHANNELS}::test_an_alias_has_what_its_target_has",
    ),
    "D15 names of root with the server's own numbers": (f"{COMPONENTS}::test_a_keyring_for_images_of_others",),
    "D16 tools without a lock; a held lock is success": (
        f"{HERE}::test_operations_at_once_are_all_there",
        f"{TREE}::test_eight_importers_and_releases_of_one_device_at_once",
    ),
    "D17 tools that break with Python 3": (
        f"{COMPONENTS}::test_a_web_server_with_a_number_to_watch",
        f"{CHANNELS}::test_only_the_newest_version_is_phased",
        f"{SIGNING}::test_keys_are_made_once_whole_and_private",
    ),
    "D18 clearing tags leaves some": (f"{CHANNELS}::test_a_tag_is_one_small_step_from_the_same_content_only",),
    "D19 cleaning up deletes foreign files, and cuts downloads": (
        f"{CHANNELS}::test_retention_keeps_the_newest_and_orphans_go_after_a_while",
    ),
    "D20 a gpg-agent is left behind": (f"{SIGNING}::test_signers_do_not_leave_agents",),
    "D21 build .10 comes before .9": (f"{IMPORT}::test_builds_are_compared_numerically",),
    "D22 a version file of an aborted run is taken for the same number": (
        f"{TREE}::test_number_of_a_failed_candidate_is_not_used_again",
        f"{HERE}::test_what_a_crash_left_is_no_obstacle_and_not_believed",
    ),
    "D23 a channel inside another goes with it": (f"{CHANNELS}::test_names_that_cannot_be",),
    "P1 a compressor's status is ignored; its output depends on the machine": (
        f"{HERE}::test_a_compressor_that_fails_publishes_nothing",
        "integration/test_rootfs_tarball.py::test_xz_has_the_same_bytes_for_any_number_of_threads",
    ),
    "P3 downloads start over; all HEAD before any GET": (f"{HTTP}::test_a_cut_download_goes_on_where_it_stopped",),
    "P4 a pool file is named by its input": (f"{HERE}::test_pool_files_are_named_by_their_own_bytes",),
    # What its diff misses
    "F1 content of equal size and time": (f"{DELTA}::test_same_size_and_time_but_other_content",),
    "F2 a retargeted symbolic link": (f"{DELTA}::test_retargeted_symbolic_link",),
    "F3 a folder's mode and owner": (f"{HERE}::test_what_the_diff_misses",),
    "F4 attributes, capabilities and lists of access": (f"{HERE}::test_what_the_diff_misses",),
    "F6 links and nodes whose time alone differs": (f"{HERE}::test_what_the_diff_misses",),
    "F7 files that become one, or two": (f"{DELTA}::test_links_become_files_and_files_links",),
    "F8 the mode of a file of several names": (f"{DELTA}::test_links_become_files_and_files_links",),
    "F9 a file of several names whose content changes": (f"{HERE}::test_what_the_diff_misses",),
    "F10 a hard link outside of system/": (f"{DELTA}::test_link_outside_of_system",),
    "F11 a line end in a name": (f"{DELTA}::test_name_with_a_line_end_is_not_expressible",),
    "F12 a name that is not UTF-8": (f"{HERE}::test_what_the_diff_misses",),
    "F13 a removed folder, and every child of it": (f"{DELTA}::test_folder_becomes_file_and_back",),
    "F14 a name that is there twice": ("unit/tarball/test_reading.py::test_hostile_members_are_refused",),
    "F15 no change, and a delta all the same": (f"{DELTA}::test_no_change_makes_no_tarball",),
    "F16 sparse files": (f"{DELTA}::test_sparse_members_keep_their_content",),
    "F17 folder, link and file take each other's place": (f"{DELTA}::test_folder_becomes_file_and_back",),
    "F18 numbers of a device node": (f"{HERE}::test_what_the_diff_misses",),
    # What the tests of its server promise
    "SA1 version tarballs": (
        f"{VERSION}::test_channel_ini_has_the_keys_in_order",
        f"{VERSION}::test_percent_is_refused",
    ),
    "SA2 signing": (
        f"{SIGNING}::test_detached_signature_verifies_over_bytes_and_file",
        f"{SIGNING}::test_inline_message_gives_its_content",
        f"{SIGNING}::test_missing_key_says_what_to_do",
    ),
    "SA3 keyrings": (f"{DOCUMENTS}::test_keyring_says_what_was_put_in", f"{DOCUMENTS}::test_unfit_keyring_is_refused"),
    "SA4 documents that are none": (f"{DOCUMENTS}::test_hostile_channels_are_refused",),
    "SA5 channels and devices": (
        f"{CHANNELS}::test_channels_are_made_hidden_shown_and_removed",
        f"{CHANNELS}::test_devices_come_and_go_and_their_numbers_never_return",
        f"{CHANNELS}::test_a_renamed_channel_is_another_channel_whose_devices_find_it",
        f"{CHANNELS}::test_a_device_keyring_must_be_signed",
    ),
    "SA6 aliases": (
        f"{CHANNELS}::test_an_alias_has_what_its_target_has",
        f"{CHANNELS}::test_what_others_follow_is_not_removed_nor_written_to",
    ),
    "SA7 redirects": (
        f"{CHANNELS}::test_a_redirect_is_a_copy_that_follows_and_goes_with_its_target",
        f"{CHANNELS}::test_one_device_is_redirected",
    ),
    "SA8 rules of the index": (
        f"{VERIFY}::test_each_spoilt_object_is_named",
        f"{DOCUMENTS}::test_hostile_index_is_refused",
    ),
    "SA9 expiry": (f"{CHANNELS}::test_retention_keeps_the_newest_and_orphans_go_after_a_while",),
    "SA10 phasing": (f"{CHANNELS}::test_only_the_newest_version_is_phased",),
    "SA11 orphans": (
        f"{CHANNELS}::test_retention_keeps_the_newest_and_orphans_go_after_a_while",
        f"{VERIFY}::test_what_failed_candidates_left_is_an_orphan",
    ),
    "SA12 configuration": ("unit/project/test_config.py::test_all_problems_at_once_with_their_lines",),
    "SA13 generators": (
        f"{COMPONENTS}::test_a_tarball_of_this_machine",
        f"{COMPONENTS}::test_a_web_server_with_a_number_to_watch",
        f"{COMPONENTS}::test_a_part_of_another_channel_is_shared",
        f"{IMPORT}::test_policies_gates_and_channels_filled_by_hand",
        f"{TREE}::test_rootfs_is_customised",
    ),
    "SA14 deltas are made once": (f"{TREE}::test_same_inputs_give_the_same_candidate_and_release_is_idempotent",),
    "SA15 the diff": (f"{DELTA}::test_applied_to_the_base_it_makes_the_target",),
    "SA16 tags": (f"{CHANNELS}::test_a_tag_is_one_small_step_from_the_same_content_only",),
    "SA17 compression": ("integration/test_rootfs_tarball.py::test_a_failed_gzip_leaves_nothing",),
    # What the tests of its client promise
    "CA1 keyrings": (f"{DOCUMENTS}::test_unfit_keyring_is_refused", f"{TREE}::test_attacks_are_refused"),
    "CA2 signatures": (
        f"{SIGNING}::test_several_keyrings_one_of_them_empty",
        f"{SIGNING}::test_tampered_foreign_blacklisted_and_missing_signatures_are_refused",
    ),
    "CA3 the chain": (
        f"{KEYS}::test_rotation_leaves_nothing_signed_by_the_former_key_alone",
        f"{ORIGINAL}::test_our_client_reads_it",
    ),
    "CA5 a channel or device that is not there": (f"{TREE}::test_candidate_is_read_before_the_channel_knows_it",),
    "CA6 candidates and scores": (
        f"{UPGRADE}::test_the_fewest_bytes_win",
        f"{UPGRADE}::test_a_full_image_for_those_who_have_a_version",
        f"{ORIGINAL}::test_our_client_goes_where_the_original_goes",
    ),
    "CA7 phasing": (f"{UPGRADE}::test_phases_are_those_of_the_original",),
    "CA8 an alias with another target": (
        f"{UPGRADE}::test_another_target_starts_from_nothing",
        f"{ORIGINAL}::test_an_alias_that_was_moved_starts_from_nothing",
    ),
    "CA9 downloads": (
        f"{HTTP}::test_wrong_bytes_twice_are_refused",
        "integration/test_flash_faults.py::test_5_6_15_a_failed_run_leaves_nothing_and_the_next_succeeds",
    ),
    "CA10 files that are there already": (
        "integration/test_flash.py::test_a_cut_download_goes_on_and_a_warm_cache_needs_no_payload",
    ),
    "CA14 numbers of 16 bits": (f"{DOCUMENTS}::test_hostile_index_is_refused",),
}


@pytest.mark.parametrize("row", TABLE)
def test_the_row_names_tests_that_run(row: str) -> None:
    for named in TABLE[row]:
        file, _, name = named.partition("::")
        found = _functions(file, name)
        assert len(found) == 1, named
        marks = [ast.unparse(mark) for mark in found[0].decorator_list]
        assert not any(mark.startswith(("pytest.mark.slow", "pytest.mark.skip")) for mark in marks), named


def _functions(file: str, name: str) -> list[ast.FunctionDef]:
    nodes = ast.walk(ast.parse((TESTS / file).read_text()))
    return [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == name]


def test_every_number_has_its_row() -> None:
    """CA4, CA11 to CA13 are of TLS, recovery's commands and D-Bus: the business of each device. P2 is a figure."""
    numbers = {row.partition(" ")[0] for row in TABLE}
    wanted = {f"D{number}" for number in range(1, 24)} | {"P1", "P3", "P4"}
    wanted |= {f"F{number}" for number in range(1, 19) if number != 5}
    wanted |= {f"SA{number}" for number in range(1, 18)}
    wanted |= {f"CA{number}" for number in (1, 2, 3, 5, 6, 7, 8, 9, 10, 14)}
    assert numbers == wanted


# What the diff misses, proven by GNU tar


def with_member(change: Callable[[tarfile.TarInfo], object], kind: bytes = FILE, name: str = "system/a") -> bytes:
    """A tarball of one member of its own, changed."""
    member = tarfile.TarInfo(name)
    member.type, member.mtime, member.mode = kind, 1000, 0o755 if kind == FOLDER else 0o644
    change(member)
    top = tarfile.TarInfo("system")
    top.type, top.mtime, top.mode = FOLDER, 1000, 0o755
    made: list[Member] = [(top, b""), (member, b"")]
    return tarball(made)


def setting(**values: Any) -> Callable[[tarfile.TarInfo], object]:
    def change(member: tarfile.TarInfo) -> None:
        for name, value in values.items():
            setattr(member, name, value)

    return change


LINKED = ("system/a", FILE, b"one"), ("system/b", HARD, "system/a")
MISSED: dict[str, tuple[Sequence[bytes], Sequence[bytes], int]] = {
    "F3 mode of a folder": ([with_member(setting(), FOLDER)], [with_member(setting(mode=0o700), FOLDER)], 0),
    "F4 an attribute": (
        [with_member(setting())],
        [with_member(setting(pax_headers={"SCHILY.xattr.user.a": "b"}))],
        1,
    ),
    "F6 time of a link": (
        [with_member(setting(linkname="x"), SOFT)],
        [with_member(setting(linkname="x", mtime=9), SOFT)],
        1,
    ),
    "F9 content of a file of two names": (
        [tree(*LINKED)],
        [tree(("system/a", FILE, b"two"), ("system/b", HARD, "system/a"))],
        2,
    ),
    "F12 a name that is not UTF-8": (
        [with_member(setting(), name="system/\udcff")],
        [with_member(setting(mtime=2000), name="system/\udcff")],
        1,
    ),
}
if os.geteuid() == 0:
    MISSED["F18 numbers of a device node"] = (
        [with_member(setting(devmajor=1, devminor=3), tarfile.CHRTYPE)],
        [with_member(setting(devmajor=1, devminor=5), tarfile.CHRTYPE)],
        1,
    )


@pytest.mark.parametrize("what", MISSED)
def test_what_the_diff_misses(what: str) -> None:
    base, target, changed = MISSED[what]
    assert sum(len(files(tar)) for tar in same(base, target)) == changed


# What no other test shows


def channels(store: DirectoryStore, signer: GnupgSigner) -> ChannelTree:
    return ChannelTree(store, signer, now)


def index(www: Path, channel: str = CHANNEL) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((www / channel / DEVICE / "index.json").read_bytes())["images"]
    return found


def test_what_a_crash_left_is_no_obstacle_and_not_believed(
    store: DirectoryStore, signer: GnupgSigner, tree: Path
) -> None:
    """Temporary signatures, cut and unsigned pool files, and a version file of an import that came to nothing."""
    publish_keyrings(channels(store, signer))
    build = published(store, signer)
    candidate = import_build(channels(store, signer), build, CHANNEL, DEVICE, run=run)
    rootfs, device, version = (tree.parent / file.uri for file in candidate.files)
    (tree / "channels.json.new.asc").write_bytes(b"left")
    rootfs.write_bytes(rootfs.read_bytes()[:-7])
    Path(f"{device}.asc").unlink()
    version.write_bytes(b"left")
    again = import_build(channels(store, signer), build, CHANNEL, DEVICE, run=run)
    release_candidate(channels(store, signer), again)
    archive_master = (tree / "gpg/archive-master.tar.xz").read_bytes()
    assert check_tree(tree, archive_master) == {(CHANNEL, DEVICE): [again.version]}


def test_equal_numbers_of_two_channels_are_two_versions(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    """Both channels have a version 1; what is promoted over it is never offered as a step from the other's."""
    publish_keyrings(channels(store, signer))
    released(store, signer, "20261123", b"one")
    released(store, signer, "20261124", b"two")
    create_channel(channels(store, signer), "debian-core/13/stable")
    promote(channels(store, signer), CHANNEL, "debian-core/13/stable", DEVICE, version=2)
    promote(channels(store, signer), CHANNEL, "debian-core/13/stable", DEVICE, version=1)
    theirs = {image["version"]: image for image in index(tree) if image["type"] == "full"}
    ours = {image["version"]: image for image in index(tree, "debian-core/13/stable") if image["type"] == "full"}
    assert ours[1]["files"][0]["checksum"] == theirs[2]["files"][0]["checksum"] != theirs[1]["files"][0]["checksum"]
    stolen = next(image for image in index(tree) if image["type"] == "delta")["files"][0]["path"]
    assert all(stolen not in json.dumps(image) for image in index(tree, "debian-core/13/stable"))


def test_operations_at_once_are_all_there(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    """Four channels are made and filled while a version is tagged and phased: nobody waits, nothing is lost."""
    publish_keyrings(channels(store, signer))
    released(store, signer)
    names = [f"debian-core/13/{number}" for number in range(4)]

    def fill(name: str) -> object:
        create_channel(channels(store, signer), name)
        return promote(channels(store, signer), CHANNEL, name, DEVICE)

    tasks: list[Callable[[], object]] = [
        lambda: tag_image(channels(store, signer), CHANNEL, DEVICE, "x"),
        lambda: set_phase(channels(store, signer), CHANNEL, DEVICE, 40),
    ]
    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(fill, name) for name in names] + [pool.submit(task) for task in tasks]
        for each in done:
            each.result()
    assert set(json.loads((tree / "channels.json").read_bytes())) == {CHANNEL, *names}
    newest = index(tree)[-1]
    assert "tag=x" in newest["version_detail"]
    assert newest["phased-percentage"] == 40


def test_a_compressor_that_fails_publishes_nothing(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    def broken(argv: Sequence[Any], **options: Any) -> Any:
        if argv[0] == "xz":
            options["stdout"].write(b"\xfd7zXZ\0 half a file")
            raise ProcessError([str(word) for word in argv], 1, ["no space"])
        return run(argv, **options)

    publish_keyrings(channels(store, signer))
    with pytest.raises(CoreimageError):
        import_build(channels(store, signer), published(store, signer), CHANNEL, DEVICE, run=broken)
    assert not list(tree.glob("pool/*"))


def test_pool_files_are_named_by_their_own_bytes(store: DirectoryStore, signer: GnupgSigner, tree: Path) -> None:
    publish_keyrings(channels(store, signer))
    released(store, signer, "20261123", b"one")
    released(store, signer, "20261124", b"two")
    tarballs = list(tree.glob("pool/*.tar.xz"))
    assert len(tarballs) == 4
    for path in tarballs:
        assert hashlib.sha256(path.read_bytes()).hexdigest() in path.name
