"""What of a build goes into a version, and which builds are not believed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coreimage.errors import NotFoundError, UsageError, VerificationError
from coreimage.model import TAR_GZ, TEXT, Architecture, ArtifactRef, FileRole, PublishedBuild, PublishedFile
from coreimage.signing import Role
from coreimage.storage import put_blob_bytes
from coreimage.system_image.channels.changes import alias_channel
from coreimage.system_image.importer import epoch, import_build, select_files
from coreimage.system_image.payloads.components import Component
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.unit.system_image.published import EDGE, keys, release

REF = ArtifactRef(uri="x", sha256="0" * 64, size_bytes=1, media_type="x")


def file(role: FileRole, architecture: Architecture, device: str | None = None) -> PublishedFile:
    """Its name says nothing."""
    return PublishedFile(
        name=f"{role}.{architecture}.{device}", role=role, architecture=architecture, device=device, artifact=REF
    )


def build(*files: PublishedFile) -> PublishedBuild:
    return PublishedBuild(
        project="p",
        series="13",
        image_type="t",
        build_id="20261123",
        prefix="x",
        files=files,
        info=REF,
        checksums=REF,
        signature=REF,
    )


ROOTFS = (file("rootfs", "amd64"), file("rootfs", "arm64"), file("custom", "arm64"), file("log", "amd64"))
DEVICES = (file("device", "amd64", "pc"), file("device", "arm64", "board"), file("device", "arm64", "pi_amd64"))


@pytest.mark.parametrize(
    ("device", "architecture", "custom"),
    [("pc", "amd64", False), ("board", "arm64", True), ("pi_amd64", "arm64", True)],
)
def test_a_device_has_its_own_architecture_whatever_it_is_called(
    device: str, architecture: Architecture, custom: bool
) -> None:
    rootfs, raw_device, of_product = select_files(build(*ROOTFS, *DEVICES, file("log", "arm64", "board")), device)
    assert (raw_device.role, raw_device.device, raw_device.architecture) == ("device", device, architecture)
    assert (rootfs.role, rootfs.architecture) == ("rootfs", architecture)
    assert of_product == (file("custom", architecture) if custom else None)


def test_a_build_without_the_device_or_its_rootfs_is_refused() -> None:
    with pytest.raises(NotFoundError, match="0 device tarballs for mako"):
        select_files(build(*ROOTFS, *DEVICES), "mako")
    with pytest.raises(NotFoundError, match="0 rootfs tarballs for pc"):
        select_files(build(ROOTFS[1], *DEVICES), "pc")


def published(tree: ChannelTree, *, left_out: str = "", role: Role = Role.CDIMAGE) -> PublishedBuild:
    """A build of three tarballs for `pc`, whose SHA256SUMS lists all but `left_out`."""
    files = [
        each.model_copy(update={"artifact": put_blob_bytes(tree.store, each.name.encode(), TAR_GZ)})
        for each in (file("rootfs", "amd64"), file("device", "amd64", "pc"), file("custom", "amd64"))
    ]
    listed = [each for each in files if each.role != left_out]
    sums = "".join(f"{each.artifact.sha256} *{each.name}\n" for each in listed).encode()
    return build(*files).model_copy(
        update={
            "checksums": put_blob_bytes(tree.store, sums, TEXT),
            "signature": put_blob_bytes(tree.store, tree.signer.detached(role, sums), TEXT),
        }
    )


def test_a_build_that_cdimage_did_not_sign_is_refused(tree: ChannelTree) -> None:
    with pytest.raises(VerificationError, match="not right"):
        import_build(tree, published(tree, role=Role.IMAGE_SIGNING), EDGE, "pc")
    with pytest.raises(VerificationError, match="not right"):
        import_build(replace(tree, signer=MemorySigner(generation="second")), published(tree), EDGE, "pc")
    assert keys(tree.store) == set(), "nothing was claimed"


@pytest.mark.parametrize("role", ["rootfs", "device", "custom"])
def test_a_build_that_holds_what_its_checksums_do_not_list_is_refused(tree: ChannelTree, role: FileRole) -> None:
    with pytest.raises(VerificationError, match=f"{role}.*not listed"):
        import_build(tree, published(tree, left_out=role), EDGE, "pc")
    assert keys(tree.store) == set()


def test_one_name_is_not_given_to_two_parts(tree: ChannelTree) -> None:
    component = Component(name="custom", file=REF, detail="custom=1")
    with pytest.raises(UsageError, match="another name"):
        import_build(tree, published(tree), EDGE, "pc", components=[component])


def test_nothing_is_imported_to_what_has_other_content(tree: ChannelTree) -> None:
    release(tree, b"one")
    alias_channel(tree, "latest", EDGE)
    with pytest.raises(UsageError, match=f"use {EDGE}"):
        import_build(tree, published(tree), "latest", "pc")


@pytest.mark.parametrize(
    ("build_id", "seconds"), [("20261123", 1_795_392_000), ("20261123.2", 1_795_392_000), ("20261399", 1), ("x", 1)]
)
def test_a_build_has_one_time(build_id: str, seconds: int) -> None:
    assert epoch(build_id) == seconds
