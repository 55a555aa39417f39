from __future__ import annotations

import pytest

from coreimage.errors import BuildError
from coreimage.model import ArchiveRelease, ArtifactRef, LockedPackage
from coreimage.rootfs import ArchiveSpec
from coreimage.rootfs.plan import check_replacements, offering_mirrors, planned_packages, preferences

REF = ArtifactRef(uri="blobs/x", sha256="0" * 64, size_bytes=0, media_type="x")


def release(uri: str) -> ArchiveRelease:
    return ArchiveRelease(uri=uri, suite="s", date="2026-01-01T00:00:00Z", release_sha256="0" * 64, release=REF)


def package(name: str, archive: str) -> LockedPackage:
    return LockedPackage(
        name=name, version="2", architecture="all", sha256="1" * 64, size_bytes=1, filename="f", archive=archive
    )


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


@pytest.mark.parametrize(
    ("may_replace", "packages", "refused"),
    [
        ((), ["tar"], "tar"),
        ((), ["own"], None),
        (("tar",), ["own", "tar"], None),
        (("tar",), ["tar", "bash"], "bash"),
        (("*",), ["tar", "bash"], None),
    ],
)
def test_an_extra_archive_replaces_only_what_it_may(
    may_replace: tuple[str, ...], packages: list[str], refused: str | None
) -> None:
    own = ArchiveSpec(uri="own", suites=("s",), components=("main",), key=REF)
    extra = own.model_copy(update={"uri": "extra", "may_replace": may_replace})
    mirrors = offering_mirrors(
        "       tar |  1 | copy:/x/mirror/0 s/main amd64 Packages\n"
        "       tar |  2 | copy:/x/mirror/1 s/main amd64 Packages\n"
        "      bash |  1 | copy:/x/mirror/0 s/main amd64 Packages\n"
        "       own |  2 | copy:/x/mirror/1 s/main amd64 Packages\n"
    )
    assert mirrors == {"tar": {0, 1}, "bash": {0}, "own": {1}}
    locked, releases = [package(name, "extra s") for name in packages], [release("own"), release("extra")]
    if refused is None:
        check_replacements(locked, [own, extra], releases, mirrors)
    else:
        with pytest.raises(BuildError, match=f"extra s: it would replace the distribution's {refused} with its 2"):
            check_replacements(locked, [own, extra], releases, mirrors)
    check_replacements([package("tar", "own s")], [own, extra], releases, mirrors)
