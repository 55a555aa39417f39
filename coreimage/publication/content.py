"""What a build consists of, and the identity by which the same content is known again. Pure."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from coreimage.config import Word
from coreimage.model import LOG, Architecture, ArtifactRef, CustomBuild, DeviceBuild, RootfsBuild, Value


def _by_architecture(builds: tuple[RootfsBuild, ...]) -> tuple[RootfsBuild, ...]:
    return tuple(sorted(builds, key=lambda build: build.architecture))


def _by_device(builds: tuple[DeviceBuild, ...]) -> tuple[DeviceBuild, ...]:
    return tuple(sorted(builds, key=lambda build: (build.architecture, build.device)))


def _customs_by_architecture(builds: tuple[CustomBuild, ...]) -> tuple[CustomBuild, ...]:
    return tuple(sorted(builds, key=lambda build: build.architecture))


class BuildContent(Value):
    """Everything that one dated build publishes. The order in which builds are handed in does not matter."""

    project: Word
    series: Word
    codename: Word
    product: Word
    image_type: Word
    rootfs: Annotated[tuple[RootfsBuild, ...], Field(min_length=1), AfterValidator(_by_architecture)]
    devices: Annotated[tuple[DeviceBuild, ...], AfterValidator(_by_device)]
    custom: Annotated[tuple[CustomBuild, ...], AfterValidator(_customs_by_architecture)] = ()

    @property
    def architectures(self) -> tuple[Architecture, ...]:
        """Sorted."""
        found = {build.architecture for build in self.rootfs} | {build.architecture for build in self.devices}
        return tuple(sorted(found))

    @property
    def locks(self) -> tuple[ArtifactRef, ...]:
        """The package locks of all its parts; one that is used twice is there twice."""
        return (*(build.lock for build in self.rootfs), *(build.lock for build in self.devices))


def content_sha256(content: BuildContent) -> str:
    """The identity of a build: equal for equal bytes, wherever they are stored and however they were made.

    References count by digest and media type; logs do not count.
    """
    said = content.model_dump(mode="json", exclude=None if content.custom else {"custom"})
    essence = json.dumps(_essence(said), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(essence.encode()).hexdigest()


def _essence(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == ArtifactRef.model_fields.keys():
            return {"sha256": value["sha256"], "media_type": value["media_type"]}
        return {key: _essence(item) for key, item in value.items() if not _is_log(item)}
    if isinstance(value, list):
        return [_essence(item) for item in value if not _is_log(item)]
    return value


def _is_log(value: Any) -> bool:
    return isinstance(value, dict) and value.get("media_type") == LOG
