"""Probe and plan with the real apt and gpgv, over archives made here."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coreimage.errors import BuildError, InfrastructureError, UsageError, VerificationError
from coreimage.host.process import run
from coreimage.model import ArtifactRef, PackageLock
from coreimage.rootfs import ArchiveSpec, RootfsSpec, plan_packages, probe_archives, read_lock
from coreimage.rootfs.spec import binary_keyring
from coreimage.storage import Store, put_blob_bytes
from tests.harness.archive import LocalArchive, TestKey, fetch


@pytest.fixture(scope="module")
def keys() -> Iterator[tuple[TestKey, TestKey]]:
    # gpg-agent's socket path must be short.
    folder = Path(tempfile.mkdtemp(prefix="keys-"))
    made = TestKey.make(folder / "a", "archive"), TestKey.make(folder / "b", "other")
    yield made
    for key in made:
        key.close()
    shutil.rmtree(folder)


@pytest.fixture
def main(tmp_path: Path, keys: tuple[TestKey, TestKey]) -> LocalArchive:
    archive = LocalArchive(tmp_path / "main", keys[0])
    archive.add("trixie", "base", fields="Essential: yes\n")
    archive.add("trixie", "editor", fields="Depends: editor-common\nRecommends: manual\n")
    archive.add("trixie", "editor-common")
    archive.add("trixie", "manual")
    archive.add("trixie", "broken", fields="Depends: absent\n")
    archive.add("trixie-updates", "editor-common", "1.1")
    return archive.publish()


def spec_of(
    archive: LocalArchive, store: Store, *suites: str, key: TestKey | None = None, pin: int | None = None
) -> ArchiveSpec:
    public = put_blob_bytes(store, binary_keyring((key or archive.key).public.read_bytes()), "application/pgp-keys")
    return ArchiveSpec(uri=archive.uri, suites=suites, components=("main",), key=public, pin_priority=pin)


def plan(
    store: Store, archives: tuple[ArchiveSpec, ...], *packages: str, previous: PackageLock | None = None
) -> ArtifactRef:
    releases = probe_archives(archives, store=store, fetch=fetch, run=run)
    spec = RootfsSpec(
        architecture="amd64",
        hostname="test",
        archives=archives,
        packages=packages,
        system_files=put_blob_bytes(store, b"", "application/x-tar"),
    )
    return plan_packages(spec, releases, previous, tools={"tar": "1"}, store=store, fetch=fetch, run=run)


def versions(store: Store, ref: ArtifactRef) -> dict[str, str]:
    return {package.name: package.version for package in read_lock(store, ref).packages}


def test_essential_and_requested_packages_with_dependencies_and_no_recommends(main: LocalArchive, store: Store) -> None:
    ref = plan(store, (spec_of(main, store, "trixie", "trixie-updates"),), "editor")
    assert versions(store, ref) == {"base": "1", "editor": "1", "editor-common": "1.1"}
    lock = read_lock(store, ref)
    assert lock.epoch == int(datetime(2015, 5, 26, 10, tzinfo=UTC).timestamp())
    found = {package.name: package for package in lock.packages}["editor-common"]
    assert found.archive == f"{main.uri} trixie-updates"
    assert found.filename == "pool/trixie-updates/main/editor-common_1.1_all.deb"


def test_an_extra_archive_wins_or_loses_by_its_pin(
    main: LocalArchive, store: Store, tmp_path: Path, keys: tuple[TestKey, TestKey]
) -> None:
    extra = LocalArchive(tmp_path / "extra", keys[1], origin="Extra", label="Extra")
    extra.add("trixie", "editor", "0.5")
    extra.add("trixie", "editor-common", "2")
    extra.publish()

    def planned(pin: int | None) -> dict[str, str]:
        return versions(
            store, plan(store, (spec_of(main, store, "trixie"), spec_of(extra, store, "trixie", pin=pin)), "editor")
        )

    assert planned(None) == {"base": "1", "editor": "1", "editor-common": "2"}
    assert planned(1001)["editor"] == "0.5"
    assert planned(100)["editor-common"] == "1"


def test_the_wrong_key_is_refused_with_both_key_ids(
    main: LocalArchive, store: Store, keys: tuple[TestKey, TestKey]
) -> None:
    with pytest.raises(VerificationError, match=r"signed by [0-9A-F]{16}; trusted are [0-9A-F]{16}") as caught:
        plan(store, (spec_of(main, store, "trixie", key=keys[1]),), "editor")
    assert main.uri in str(caught.value)


def test_a_changed_release_is_refused(main: LocalArchive, store: Store) -> None:
    release = main.folder / "dists/trixie/InRelease"
    release.write_text(release.read_text().replace("Origin: Test", "Origin: Evil"))
    with pytest.raises(VerificationError):
        plan(store, (spec_of(main, store, "trixie"),), "editor")


def test_an_expired_release_is_refused(main: LocalArchive, store: Store) -> None:
    main.valid_until = "Tue, 02 Jun 2015 10:00:00 UTC"
    main.publish()
    with pytest.raises(VerificationError, match="valid until"):
        plan(store, (spec_of(main, store, "trixie"),), "editor")


def test_an_unreachable_archive_is_the_network_s_fault(main: LocalArchive, store: Store) -> None:
    gone = spec_of(main, store, "trixie").model_copy(update={"uri": "http://127.0.0.1:9"})
    with pytest.raises(InfrastructureError):
        plan(store, (gone,), "editor")


def test_a_missing_package_names_the_near_miss(main: LocalArchive, store: Store) -> None:
    with pytest.raises(BuildError, match="'editr'; did you mean 'editor'"):
        plan(store, (spec_of(main, store, "trixie"),), "editr")


def test_what_cannot_be_installed_is_told_in_apt_s_words(main: LocalArchive, store: Store) -> None:
    with pytest.raises(BuildError, match="Depends: absent"):
        plan(store, (spec_of(main, store, "trixie"),), "broken")


def test_options_do_not_pass_for_packages(main: LocalArchive, store: Store) -> None:
    with pytest.raises(UsageError, match="not the name"):
        plan(store, (spec_of(main, store, "trixie"),), "--allow-unauthenticated")


def test_a_moved_archive_keeps_the_lock_unless_our_packages_change(main: LocalArchive, store: Store) -> None:
    archives = (spec_of(main, store, "trixie"),)
    first = plan(store, archives, "editor")
    main.add("trixie", "unrelated")
    main.date = "Wed, 27 May 2015 10:00:00 UTC"
    main.publish()
    assert plan(store, archives, "editor", previous=read_lock(store, first)) == first
    main.add("trixie", "editor", "2", fields="Depends: editor-common\n")
    main.publish()
    second = plan(store, archives, "editor", previous=read_lock(store, first))
    assert versions(store, second)["editor"] == "2"
    assert read_lock(store, second).epoch > read_lock(store, first).epoch


def test_an_unchanged_index_is_not_fetched_again(main: LocalArchive, store: Store) -> None:
    archives = (spec_of(main, store, "trixie"),)
    first = plan(store, archives, "editor")
    (main.folder / "dists/trixie/main/binary-amd64/Packages.gz").unlink()
    assert plan(store, archives, "editor") == first
