from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from coreimage.errors import HostError, NotFoundError, UsageError, VerificationError
from coreimage.model import JSON, LOG, TEXT, ArtifactRef, PublishedBuild
from coreimage.publication import (
    BuildContent,
    BuildTree,
    complete_builds,
    content_sha256,
    mark_good,
    parse_build_id,
    publish_build,
    read_build,
)
from coreimage.signing import Role
from coreimage.storage import Store, read_bytes
from coreimage.storage.checksums import parse_checksums
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore
from tests.unit.publication.builds import NOON, KeylessSigner, content
from tests.unit.publication.stores import Killed, WatchedStore, killing_store

TREE = BuildTree(project="debian-core", series="13", image_type="daily-preinstalled")
BASE = "cdimage/debian-core/13/daily-preinstalled"


@pytest.fixture
def store() -> Store:
    return MemoryStore()


def publish(content: BuildContent, store: Store, *, days_later: int = 0) -> PublishedBuild:
    return publish_build(content, store=store, signer=MemorySigner(), now=NOON + timedelta(days=days_later))


def everything(store: Store) -> dict[str, str]:
    """Etag by key: an object that is written again, even with the same bytes, is another."""
    return {info.key: info.etag for info in store.list()}


def read(store: Store, key: str) -> bytes:
    found = read_bytes(store, key)
    assert found is not None, key
    return found


def test_a_build_has_the_names_of_2015(store: Store) -> None:
    published = publish(content(store, devices=("generic_amd64", "azure_amd64", "plano")), store)
    assert published.prefix == f"{BASE}/20261123"
    assert [file.name for file in published.files] == [
        "trixie-preinstalled-core-amd64.azure.device.lock.json",
        "trixie-preinstalled-core-amd64.azure.device.log",
        "trixie-preinstalled-core-amd64.azure.device.manifest",
        "trixie-preinstalled-core-amd64.azure.device.tar.gz",
        "trixie-preinstalled-core-amd64.device.lock.json",
        "trixie-preinstalled-core-amd64.device.log",
        "trixie-preinstalled-core-amd64.device.manifest",
        "trixie-preinstalled-core-amd64.device.tar.gz",
        "trixie-preinstalled-core-amd64.filelist",
        "trixie-preinstalled-core-amd64.lock.json",
        "trixie-preinstalled-core-amd64.log",
        "trixie-preinstalled-core-amd64.manifest",
        "trixie-preinstalled-core-amd64.plano.device.lock.json",
        "trixie-preinstalled-core-amd64.plano.device.log",
        "trixie-preinstalled-core-amd64.plano.device.manifest",
        "trixie-preinstalled-core-amd64.plano.device.tar.gz",
        "trixie-preinstalled-core-amd64.tar.gz",
    ]


def test_checksums_are_signed_and_cover_every_file(store: Store) -> None:
    published = publish(content(store), store)
    checksums = read(store, f"{published.prefix}/SHA256SUMS")
    assert read(store, f"{published.prefix}/SHA256SUMS.gpg") == MemorySigner().detached(Role.CDIMAGE, checksums)
    lines = checksums.decode().splitlines()
    assert lines == sorted(lines, key=lambda line: line.split(" *")[1])
    info = f"{published.info.sha256} *build.json"
    assert lines == [info, *(f"{file.artifact.sha256} *{file.name}" for file in published.files)]
    assert published.info.uri == f"{published.prefix}/build.json"
    for file in published.files:
        assert hashlib.sha256(read(store, file.artifact.uri)).hexdigest() == file.artifact.sha256
        assert file.artifact.uri == f"{published.prefix}/{file.name}"
    in_folder = {info.key.rpartition("/")[2] for info in store.list(f"{published.prefix}/")}
    assert in_folder == {file.name for file in published.files} | {"build.json", "SHA256SUMS", "SHA256SUMS.gpg"}


def test_build_info_says_where_the_build_came_from(store: Store) -> None:
    built = content(store, architectures=("arm64", "amd64"))
    info = json.loads(read(store, f"{publish(built, store).prefix}/build.json"))
    assert info["build_id"] == "20261123"
    assert info["architectures"] == ["amd64", "arm64"]
    assert info["epoch"] == 1_700_000_007
    assert info["content_sha256"] == content_sha256(built)
    assert [source["suite"] for source in info["sources"]] == ["trixie"]
    assert info["rootfs"][0]["lock_sha256"] == built.rootfs[0].lock.sha256
    assert info["devices"][0]["tarball"] == "trixie-preinstalled-core-amd64.device.tar.gz"


def test_publishing_twice_changes_nothing(store: Store) -> None:
    first = publish(content(store), store)
    before = everything(store)
    assert publish(content(store), store, days_later=3) == first
    assert everything(store) == before


def test_other_logs_are_the_same_build(store: Store) -> None:
    first = publish(content(store, logs="first run"), store)
    assert publish(content(store, logs="second run"), store) == first


def test_other_content_of_the_day_gets_the_next_id(store: Store) -> None:
    ids = [publish(content(store, f"content {number}"), store).build_id for number in range(12)]
    assert ids == ["20261123", *(f"20261123.{number}" for number in range(1, 12))]
    assert [str(build_id) for build_id in complete_builds(TREE, store=store)] == ids
    assert json.loads(read(store, TREE.pending_key))["build_id"] == "20261123.11"


def test_pending_never_moves_backwards(store: Store) -> None:
    old = content(store, "old")
    publish(old, store)
    publish(content(store, "new"), store, days_later=1)
    publish(old, store, days_later=2)
    assert json.loads(read(store, TREE.pending_key))["build_id"] == "20261124"


def test_order_of_parts_and_place_of_blobs_are_no_part_of_the_identity(store: Store) -> None:
    built = content(store, architectures=("amd64", "arm64"), devices=("generic_amd64", "generic_arm64"))
    turned = BuildContent.model_validate(
        {**built.model_dump(), "rootfs": built.rootfs[::-1], "devices": built.devices[::-1]}
    )
    moved = built.rootfs[0].model_copy(update={"rootfs": built.rootfs[0].rootfs.model_copy(update={"uri": "other"})})
    elsewhere = built.model_copy(update={"rootfs": (moved, *built.rootfs[1:])})
    assert content_sha256(turned) == content_sha256(built) == content_sha256(elsewhere)
    assert content_sha256(built) != content_sha256(built.model_copy(update={"codename": "sid"}))
    assert content_sha256(built) != content_sha256(content(store, "b"))


def test_without_a_key_nothing_is_written(store: Store) -> None:
    built = content(store)
    before = everything(store)
    with pytest.raises(HostError):
        publish_build(built, store=store, signer=KeylessSigner(), now=NOON)
    assert everything(store) == before


def test_a_missing_artifact_is_named_and_nothing_is_written(store: Store) -> None:
    built = content(store)
    store.delete([built.devices[0].tarball.uri])
    before = everything(store)
    with pytest.raises(NotFoundError, match=r"trixie-preinstalled-core-amd64\.device\.tar\.gz"):
        publish(built, store)
    assert everything(store) == before


@pytest.mark.parametrize("damaged", [b"rootfs amd64 b", b"short"])
def test_a_damaged_artifact_is_never_published(store: Store, damaged: bytes) -> None:
    built = content(store)
    store.put_bytes(built.rootfs[0].rootfs.uri, damaged, media_type="")
    with pytest.raises(VerificationError, match="delete this object"):
        publish(built, store)
    assert complete_builds(TREE, store=store) == ()
    assert store.head(TREE.pending_key) is None


def test_a_lock_that_is_none_is_refused(store: Store) -> None:
    built = content(store)
    odd = built.rootfs[0].model_copy(update={"lock": built.rootfs[0].manifest})
    with pytest.raises(VerificationError, match="not a package lock"):
        publish(built.model_copy(update={"rootfs": (odd,)}), store)


def test_an_object_that_does_not_belong_there_stops_the_commit(store: Store) -> None:
    store.put_bytes(f"{BASE}/20261123/notes.txt", b"mine", media_type="")
    assert publish(content(store, "a"), store).build_id == "20261123.1"
    killed = WatchedStore(store, lambda operation, key: kill_if(key.endswith(".2/build.json")))
    with pytest.raises(Killed):
        publish(content(store, "b"), killed)
    store.put_bytes(f"{BASE}/20261123.2/notes.txt", b"mine", media_type="")
    with pytest.raises(VerificationError, match="does not belong"):
        publish(content(store, "b"), store)


def kill_if(condition: bool) -> None:
    if condition:
        raise Killed


@pytest.mark.parametrize("devices", [("plano", "plano_amd64"), ("a/b_amd64",)])
def test_device_names_that_give_no_file_name_of_their_own_are_refused(store: Store, devices: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="rename"):
        publish(content(store, devices=devices), store)


def test_a_torn_build_is_not_read(store: Store) -> None:
    published = publish(content(store), store)
    store.delete([published.files[3].artifact.uri])
    with pytest.raises(NotFoundError, match="same id is continued"):
        read_build(TREE, complete_builds(TREE, store=store)[0], store=store)
    with pytest.raises(VerificationError, match="line 2"):
        parse_checksums(b"0" * 64 + b" *a\n" + b"0" * 64 + b" *../b\n", "SHA256SUMS")


def check_as_a_poller(store: Store) -> None:
    """What any reader may rely on at any moment."""
    builds = complete_builds(TREE, store=store)
    for build_id in builds:
        published = read_build(TREE, build_id, store=store)
        checksums = read(store, published.checksums.uri)
        assert read(store, published.signature.uri) == MemorySigner().detached(Role.CDIMAGE, checksums)
        for file in published.files:
            assert hashlib.sha256(read(store, file.artifact.uri)).hexdigest() == file.artifact.sha256
    pending = read_bytes(store, TREE.pending_key)
    assert pending is None or json.loads(pending)["build_id"] in [str(build_id) for build_id in builds]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_killed_at_every_call_a_rerun_completes_the_same_build(before: bool) -> None:
    whole = {}
    for call in range(1_000):
        store = MemoryStore()
        publish(content(store, "yesterday's"), store, days_later=-1)
        dying = killing_store(store, call, before=before, seen=lambda store=store: check_as_a_poller(store))  # type: ignore[misc]
        try:
            publish(content(store), dying)
        except Killed:
            check_as_a_poller(store)
            reserved = store.head(TREE.reservation_key(parse_build_id("20261123"))) is not None
            again = publish(content(store, logs="of the rerun"), store, days_later=1 if reserved else 0)
            assert again.build_id == "20261123"
            check_as_a_poller(store)
            whole[call] = {file.name for file in again.files}
        else:
            break
    assert len(whole) > 10
    assert len(set(map(frozenset, whole.values()))) == 1


def test_a_publisher_that_comes_in_between_gets_another_id(store: Store) -> None:
    """The rival reserves at the last moment, when this publisher has decided on the very same id."""
    rival = once(lambda: publish(content(store, "rival"), store))
    racing = WatchedStore(store, lambda operation, key: rival() if operation == "put_bytes" else None)
    assert publish(content(store, "ours"), racing).build_id == "20261123.1"
    assert [str(build_id) for build_id in complete_builds(TREE, store=store)] == ["20261123", "20261123.1"]


@pytest.mark.parametrize(
    "moment", ["reservations/20261123.json", "20261123/build.json", "SHA256SUMS.gpg", "pending.json"]
)
def test_a_publisher_of_the_same_content_in_between_shares_the_build(store: Store, moment: str) -> None:
    rival = once(lambda: publish(content(store, logs="rival's"), store))
    racing = WatchedStore(
        store, lambda operation, key: rival() if operation in {"put_bytes", "copy"} and key.endswith(moment) else None
    )
    assert publish(content(store, logs="ours"), racing).build_id == "20261123"
    check_as_a_poller(store)
    assert len(complete_builds(TREE, store=store)) == 1


def once(action: Callable[[], object]) -> Callable[[], None]:
    left = [action]

    def run() -> None:
        if left:
            left.pop()()

    return run


def test_eight_at_once_get_eight_ids(store: Store) -> None:
    contents = [content(store, f"racer {number}") for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        ids = {published.build_id for published in pool.map(lambda one: publish(one, store), contents * 2)}
    assert ids == {"20261123", *(f"20261123.{number}" for number in range(1, 8))}
    assert json.loads(read(store, TREE.pending_key))["build_id"] == "20261123.7"
    check_as_a_poller(store)


def test_logs_are_published_as_logs(store: Store) -> None:
    published = publish(content(store), store)
    assert {file.name for file in published.files if file.artifact.media_type == LOG} == {
        "trixie-preinstalled-core-amd64.device.log",
        "trixie-preinstalled-core-amd64.log",
    }


def test_files_keep_what_they_are_whatever_the_devices_and_the_product_are_called(store: Store) -> None:
    built = content(store, architectures=("arm64",), devices=("board", "pi_amd64"), product="core-2.0")
    artifacts: dict[tuple[str, str, str | None], ArtifactRef] = {
        ("rootfs", "arm64", None): built.rootfs[0].rootfs,
        ("manifest", "arm64", None): built.rootfs[0].manifest,
        ("filelist", "arm64", None): built.rootfs[0].filelist,
        ("lock", "arm64", None): built.rootfs[0].lock,
        ("log", "arm64", None): built.rootfs[0].log,
    }
    for device in built.devices:
        artifacts |= {
            ("device", "arm64", device.device): device.tarball,
            ("manifest", "arm64", device.device): device.manifest,
            ("lock", "arm64", device.device): device.lock,
            ("log", "arm64", device.device): device.log,
        }
    published = publish(built, store)
    files = {(file.role, file.architecture, file.device): file.artifact for file in published.files}
    assert {key: (file.sha256, file.media_type) for key, file in files.items()} == {
        key: (artifact.sha256, artifact.media_type) for key, artifact in artifacts.items()
    }
    assert read_build(TREE, parse_build_id(published.build_id), store=store) == published


def as_format_1(store: Store, published: PublishedBuild) -> None:
    """Make a build what it was when build.json did not list the files."""
    info = json.loads(read(store, published.info.uri)) | {"format": 1}
    del info["files"]
    store.put_bytes(published.info.uri, json.dumps(info).encode(), media_type=JSON)
    digest = hashlib.sha256(json.dumps(info).encode()).hexdigest().encode()
    checksums = read(store, published.checksums.uri).replace(published.info.sha256.encode(), digest)
    store.put_bytes(published.checksums.uri, checksums, media_type=TEXT)


def test_builds_of_earlier_code_are_read_with_the_same_facts(store: Store) -> None:
    devices = ("generic_amd64", "azure_amd64", "plano", "generic_arm64", "pi_arm64")
    built = content(store, architectures=("amd64", "arm64"), devices=devices, product="core-2.0")
    first = publish(built, store)
    carried = publish_build(
        content(store, "b", product="core-2.0"), carry=["arm64"], store=store, signer=MemorySigner(), now=NOON
    )
    assert {file.device for file in carried.files} == {None, "generic_amd64", "generic_arm64", "pi_arm64"}
    for build in (first, carried):
        as_format_1(store, build)
        assert read_build(TREE, parse_build_id(build.build_id), store=store).files == build.files


def test_a_build_info_that_does_not_fit_the_checksums_is_refused(store: Store) -> None:
    published = publish(content(store), store)
    build_id, info = parse_build_id(published.build_id), read(store, published.info.uri)
    store.put_bytes(published.info.uri, info.replace(b"generic_amd64", b"generic_arm64"), media_type=JSON)
    with pytest.raises(VerificationError, match="digest that SHA256SUMS lists"):
        read_build(TREE, build_id, store=store)
    store.put_bytes(published.info.uri, info, media_type=JSON)
    more = read(store, published.checksums.uri) + b"0" * 64 + b" *z\n"
    store.put_bytes(published.checksums.uri, more, media_type=TEXT)
    store.put_bytes(f"{published.prefix}/z", b"", media_type=TEXT)
    with pytest.raises(VerificationError, match=r"only one of build\.json and SHA256SUMS lists z"):
        read_build(TREE, build_id, store=store)


def carrying(store: Store, tag: str = "b") -> PublishedBuild:
    """A build that was made for amd64 only; arm64 failed."""
    return publish_build(content(store, tag), carry=["arm64"], store=store, signer=MemorySigner(), now=NOON)


def both(store: Store, tag: str = "a") -> BuildContent:
    return content(store, tag, architectures=("amd64", "arm64"), devices=("generic_amd64", "generic_arm64"))


def test_what_an_architecture_that_failed_had_is_carried_over_and_marked(store: Store) -> None:
    first, second = publish(both(store), store), carrying(store)
    third = carrying(store, "c")
    arm64 = {file.name: file.artifact.sha256 for file in first.files if "-arm64." in file.name}
    assert len(arm64) == 9
    for build in (second, third):
        assert arm64.items() <= {file.name: file.artifact.sha256 for file in build.files}.items()
        info = json.loads(read(store, f"{build.prefix}/build.json"))
        assert info["architectures"] == ["amd64"]
        assert info["carried"] == [{"architecture": "arm64", "build_id": first.build_id, "files": sorted(arm64)}]
    pending = json.loads(read(store, TREE.pending_key))
    assert pending["build_id"] == third.build_id
    assert pending["architectures"] == {"amd64": third.build_id, "arm64": first.build_id}
    with pytest.raises(VerificationError, match=f"those of build {first.build_id}"):
        mark_good(second, "arm64", [], store=store, now=NOON)


def test_an_architecture_that_no_build_was_made_for_is_not_carried_over(store: Store) -> None:
    publish(content(store), store)
    built = carrying(store)
    assert not [file for file in built.files if "arm64" in file.name]
    assert json.loads(read(store, f"{built.prefix}/build.json"))["carried"] == []


@pytest.mark.parametrize("before", [True, False])
def test_a_killed_build_carries_the_same_files_over_when_it_is_run_again(before: bool) -> None:
    for call in range(1_000):
        store = MemoryStore()
        first = publish(both(store), store)
        try:
            publish_build(
                content(store, "b"),
                carry=["arm64"],
                store=killing_store(store, call, before=before),
                signer=MemorySigner(),
                now=NOON,
            )
        except Killed:
            pass
        else:
            break
        reserved = store.head(TREE.reservation_key(parse_build_id("20261123.1"))) is not None
        publish(both(store, "newer"), store)
        info = json.loads(read(store, f"{carrying(store).prefix}/build.json"))
        assert (info["build_id"], info["carried"][0]["build_id"]) == (
            ("20261123.1", first.build_id) if reserved else ("20261123.2", "20261123.1")
        )
    assert call > 10
