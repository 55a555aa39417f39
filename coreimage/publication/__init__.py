"""Dated builds in object storage. docs/storage-layout.md says what stands where, and how to read it."""

from coreimage.publication.build_id import BuildId, parse_build_id
from coreimage.publication.builds import complete_builds, read_build
from coreimage.publication.content import BuildContent, content_sha256
from coreimage.publication.expire import expire_builds
from coreimage.publication.good import current_build, good_architectures, mark_good
from coreimage.publication.layout import BuildTree, build_tree
from coreimage.publication.pins import pin_build, read_pin, unpin_build
from coreimage.publication.publish import publish_build

__all__ = [
    "BuildContent",
    "BuildId",
    "BuildTree",
    "build_tree",
    "complete_builds",
    "content_sha256",
    "current_build",
    "expire_builds",
    "good_architectures",
    "mark_good",
    "parse_build_id",
    "pin_build",
    "publish_build",
    "read_build",
    "read_pin",
    "unpin_build",
]
