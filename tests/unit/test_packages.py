from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.errors import VerificationError
from coreimage.packages import PackageChange, dpkg_manifest, package_changes, parse_manifest

MANIFESTS = st.dictionaries(st.sampled_from(["bash", "libc6", "udev", "zstd"]), st.sampled_from(["1", "2", "1:1~rc"]))


def test_added_removed_and_changed_packages_are_told_apart() -> None:
    old = parse_manifest("bash\t5.2-1\nlibc6:amd64 2.41-12\nudev 257\n", "old")
    new = parse_manifest("libc6:amd64 2.41-13\nudev 257\n\nzstd 1.5\n", "new")
    changes = package_changes(old, new)
    assert [(change.name, change.kind) for change in changes] == [
        ("bash", "removed"),
        ("libc6:amd64", "upgraded"),
        ("zstd", "added"),
    ]
    assert [str(change) for change in changes][1] == "libc6:amd64 upgraded: 2.41-12 → 2.41-13"


@pytest.mark.parametrize(("old", "new"), [("1.9", "1.10"), ("2.0~rc1", "2.0"), ("9", "1:1"), ("1-1", "1-1+b1")])
def test_versions_are_compared_as_debian_does(old: str, new: str) -> None:
    assert PackageChange(name="bash", old=old, new=new).kind == "upgraded"
    assert PackageChange(name="bash", old=new, new=old).kind == "downgraded"


@given(MANIFESTS, MANIFESTS)
def test_changes_lead_from_the_old_manifest_to_the_new(old: dict[str, str], new: dict[str, str]) -> None:
    reached = dict(old)
    for change in package_changes(old, new):
        assert reached.pop(change.name, None) == change.old
        if change.new is not None:
            reached[change.name] = change.new
    assert reached == new


@given(MANIFESTS)
def test_nothing_changed_is_no_change(manifest: dict[str, str]) -> None:
    assert package_changes(manifest, manifest) == ()


@pytest.mark.parametrize("line", ["bash", "bash 5 amd64", "bash 5_1", "udev 258"])
def test_a_line_of_another_form_is_named(line: str) -> None:
    with pytest.raises(VerificationError, match="line 2"):
        parse_manifest(f"udev 257\n{line}\n", "trixie.manifest")


def test_the_manifest_holds_installed_packages_sorted() -> None:
    status = (
        "Package: b\nStatus: install ok installed\nVersion: 2\n\n"
        "Package: a\nStatus: install ok installed\nVersion: 1\n\n"
        "Package: c\nStatus: deinstall ok config-files\nVersion: 3\n"
    )
    assert dpkg_manifest(status) == "a\t1\nb\t2\n"
