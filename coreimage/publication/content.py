"""The content of a build, and its identity, which is the same for the same content. Pure."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field

from coreimage.model import Architecture, ArtifactRef, CustomBuild, DeviceBuild, RootfsBuild, Value, canonical_sha256
from coreimage.project.config import Word

Part = TypeVar("Part", RootfsBuild, CustomBuild)


def _by_architecture(builds: tuple[Part, ...]) -> tuple[Part, ...]:
    return tuple(sorted(builds, key=lambda build: build.architecture))


def _by_device(builds: tuple[DeviceBuild, ...]) -> tuple[DeviceBuild, ...]:
    return tuple(sorted(builds, key=lambda build: (build.architecture, build.device)))


class BuildContent(Value):
    """Everything that one dated build publishes. The order of the given builds does not matter."""

    project: Word
    series: Word
    codename: Word
    product: Word
    image_type: Word
    rootfs: Annotated[tuple[RootfsBuild, ...], Field(min_length=1), AfterValidator(_by_architecture)]
    devices: Annotated[tuple[DeviceBuild, ...], AfterValidator(_by_device)]
    custom: Annotated[tuple[CustomBuild, ...], AfterValidator(_by_architecture)] = ()

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """The architectures that something was built for, sorted."""
        built = {build.architecture for build in self.rootfs} | {build.architecture for build in self.devices}
        return tuple(sorted(built))

    @property
    def locks(self) -> tuple[ArtifactRef, ...]:
        """The package lock of each part, in the order of the parts."""
        return (*(build.lock for build in self.rootfs), *(build.lock for build in self.devices))


def content_sha256(content: BuildContent) -> str:
    """Return the identity of a build: equal for equal bytes, wherever they are stored and however they were made."""
    parts = {name: getattr(content, name) for name in BuildContent.model_fields}
    if not content.custom:
        del parts["custom"]  # stores know builds by the identity that they had before there were custom tarballs
    return canonical_sha256(parts)
