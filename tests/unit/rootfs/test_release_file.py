from __future__ import annotations

import hashlib
from datetime import UTC, datetime

import pytest

from coreimage.errors import BuildError, VerificationError
from coreimage.model import ArtifactRef
from coreimage.rootfs.release_file import archive_release, index_files, signed_text

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


def test_the_smallest_index_of_each_architecture_is_wanted() -> None:
    assert [file.name for file in index_files(RELEASE, ["main"], "amd64")] == [
        "main/binary-amd64/Packages.xz",
        "main/binary-all/Packages.xz",
    ]


def test_binary_all_is_left_alone_where_it_is_not_served() -> None:
    folded = RELEASE.replace(b"SHA256:", b"No-Support-for-Architecture-all: Packages\nSHA256:")
    assert len(index_files(folded, ["main"], "amd64")) == 1


def test_a_missing_component_is_named() -> None:
    with pytest.raises(BuildError, match="'contrib' for amd64"):
        index_files(RELEASE, ["main", "contrib"], "amd64")


def test_a_release_is_described_and_refused_once_it_is_too_old() -> None:
    release = archive_release("u", "trixie", RELEASE, REF, NOW)
    assert (release.origin, release.date) == ("Debian", "2015-11-21T09:15:44Z")
    assert release.release_sha256 == hashlib.sha256(RELEASE).hexdigest()
    with pytest.raises(VerificationError, match="valid until"):
        archive_release("u", "trixie", b"Valid-Until: Sat, 28 Nov 2015 09:15:44 UTC\n" + RELEASE, REF, NOW)


def test_only_what_was_signed_is_read() -> None:
    message = (
        b"Origin: Evil\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nOrigin: Good\n- -dash\n"
        b"-----BEGIN PGP SIGNATURE-----\n\nxx\n-----END PGP SIGNATURE-----\nOrigin: Evil\n"
    )
    assert signed_text(message) == b"Origin: Good\n-dash\n"


def test_an_archive_serves_its_indexes_by_hash_only_where_it_says_so() -> None:
    (xz, _) = index_files(RELEASE, ["main"], "amd64")
    assert (xz.path, xz.sha256, xz.size_bytes) == ("main/binary-amd64/Packages.xz", "b" * 64, 2)
    (xz, _) = index_files(b"Acquire-By-Hash: yes\n" + RELEASE, ["main"], "amd64")
    assert xz.path == f"main/binary-amd64/by-hash/SHA256/{'b' * 64}"


def test_a_release_without_a_date_is_refused() -> None:
    with pytest.raises(VerificationError, match="no usable Date: 'soon'"):
        archive_release("u", "trixie", b"Origin: Debian\nDate: soon\n", REF, NOW)
