from __future__ import annotations

import errno
import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from coreimage.errors import BuildError, HostError, NotFoundError, ProcessError, VerificationError
from coreimage.full_disk import telling_full_disk
from coreimage.model import ArchiveRelease, ArtifactRef, LockedPackage, PackageLock
from coreimage.process import run
from coreimage.rootfs import ArchiveSpec, HookSpec, RootfsSpec
from coreimage.rootfs.build import customize, manifest_of
from coreimage.rootfs.chroot import explain
from coreimage.rootfs.plan import indexes, planned_packages, preferences
from coreimage.rootfs.probe import describe, probe_archives, signed_text
from coreimage.storage.directory import DirectoryStore
from tests.harness.archive import fetch

REF = ArtifactRef(uri="blobs/x", sha256="0" * 64, size_bytes=0, media_type="x")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
RELEASE = b"""Origin: Debian
Suite: stable
Codename: trixie
Date: Sat, 21 Nov 2015 09:15:44 UTC
Architectures: all amd64
SHA256:
 %s 3 main/binary-amd64/Packages
 %s 2 main/binary-amd64/Packages.xz
 %s 2 main/binary-all/Packages.xz
""" % (b"a" * 64, b"b" * 64, b"c" * 64)


def package(version: str = "1") -> LockedPackage:
    return LockedPackage(
        name="a", version=version, architecture="all", sha256="1" * 64, size_bytes=1, filename="f", archive="u s"
    )


def lock(epoch: int, version: str = "1") -> PackageLock:
    return PackageLock(architecture="amd64", epoch=epoch, packages=(package(version),), releases=())


def test_the_smallest_index_of_each_architecture_is_wanted() -> None:
    assert [name for name, _, _ in indexes(RELEASE, ["main"], "amd64")] == [
        "main/binary-amd64/Packages.xz",
        "main/binary-all/Packages.xz",
    ]


def test_binary_all_is_left_alone_where_it_is_not_served() -> None:
    folded = RELEASE.replace(b"SHA256:", b"No-Support-for-Architecture-all: Packages\nSHA256:")
    assert len(indexes(folded, ["main"], "amd64")) == 1


def test_a_missing_component_is_named() -> None:
    with pytest.raises(BuildError, match="'contrib' for amd64"):
        indexes(RELEASE, ["main", "contrib"], "amd64")


def test_a_release_is_described_and_refused_once_it_is_too_old() -> None:
    release = describe("u", "trixie", RELEASE, REF, NOW)
    assert (release.origin, release.date) == ("Debian", "2015-11-21T09:15:44Z")
    assert release.release_sha256 == hashlib.sha256(RELEASE).hexdigest()
    with pytest.raises(VerificationError, match="valid until"):
        describe("u", "trixie", b"Valid-Until: Sat, 28 Nov 2015 09:15:44 UTC\n" + RELEASE, REF, NOW)


def test_only_what_was_signed_is_read() -> None:
    message = (
        b"Origin: Evil\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Good\n- -dash\n"
        b"-----BEGIN PGP SIGNATURE-----\n\nxx\n-----END PGP SIGNATURE-----\nOrigin: Evil\n"
    )
    assert signed_text(message) == b"Origin: Good\n-dash\n"


def test_pins_name_the_release_s_own_fields() -> None:
    release = ArchiveRelease(
        uri="u", suite="s", origin="Extra", codename="s", date="d", release_sha256="0" * 64, release=REF
    )
    archive = ArchiveSpec(uri="u", suites=("s",), components=("main",), key=REF, pin_priority=990)
    assert preferences([archive], [release]) == "Package: *\nPin: release o=Extra,n=s\nPin-Priority: 990\n"
    with pytest.raises(BuildError, match="Origin or a Label"):
        preferences([archive], [release.model_copy(update={"origin": ""})])


def test_print_uris_becomes_locked_packages() -> None:
    output = f"Reading...\n'copy:/tmp/x/mirror/1/pool/a%2bb_1%3a2_all.deb' a+b_1%3a2_all.deb 7 SHA256:{'d' * 64}\n"
    (found,) = planned_packages(output, ["u0 s0", "u1 s1"])
    assert (found.name, found.version, found.filename, found.archive) == ("a+b", "1:2", "pool/a+b_1:2_all.deb", "u1 s1")


def test_a_failed_hook_is_named_with_its_status_and_last_lines() -> None:
    error = ProcessError(["mmdebstrap"], 25, [])
    told = explain(error, ["I: running", "no such user", "coreimage-hook-failed hooks/users.sh 3", "E: setup failed"])
    assert isinstance(told, BuildError)
    assert "hooks/users.sh: ended with status 3" in str(told)
    assert "no such user" in str(told)
    assert isinstance(explain(error, ["dpkg: No space left on device"]), HostError)
    assert isinstance(explain(error, ["E: You don't have enough free space in /tmp/x/."]), HostError)
    assert "something else" in str(explain(error, ["something else"]))


@pytest.mark.parametrize(
    "line", ["E: IO Error saving source cache", "E: Write error - write (28: No space left on device)"]
)
def test_a_disk_that_fills_up_while_apt_plans_is_called_that(line: str) -> None:
    with pytest.raises(HostError, match=r"the disk is full.*\n.*TMPDIR"), telling_full_disk("planning"):
        raise ProcessError(["apt-get"], 100, [line])
    with pytest.raises(HostError, match="the disk is full"), telling_full_disk("planning"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ProcessError, match="broken"), telling_full_disk("planning"):
        raise ProcessError(["apt-get"], 100, ["broken"])


def test_a_mirror_without_the_suite_is_told_with_what_to_do(tmp_path: Path) -> None:
    archive = ArchiveSpec(uri=f"file://{tmp_path}", suites=("stable",), components=("main",), key=REF)
    with pytest.raises(NotFoundError, match=r"stable/InRelease: the archive has no signed Release.*\n.*`suites`"):
        probe_archives((archive,), store=DirectoryStore(tmp_path / "store"), fetch=fetch, run=run)


def test_hooks_run_in_order_after_the_overlay_with_quoted_names() -> None:
    hooks = (HookSpec(name="a; rm -rf /", script=REF), HookSpec(name="b", script=REF))
    spec = RootfsSpec(
        architecture="amd64", hostname="h", archives=(), packages=("a",), system_files=REF, overlay=REF, hooks=hooks
    )
    script = customize(spec)
    places = [script.index(text) for text in ("system.tar", "overlay.tar", "'a; rm -rf /'", "coreimage-hook-failed b")]
    assert places == sorted(places)


def test_the_manifest_holds_installed_packages_sorted() -> None:
    status = (
        "Package: b\nStatus: install ok installed\nVersion: 2\n\n"
        "Package: a\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: c\nStatus: deinstall ok config-files\nVersion: 3\n"
    )
    assert manifest_of(status) == "a\t1\nb\t2\n"
