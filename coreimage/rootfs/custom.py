"""The custom tarball: what a product has besides packages, and may change without them."""

from __future__ import annotations

from coreimage.config import Project
from coreimage.model import TAR_GZ, Architecture, ArtifactRef, CustomBuild
from coreimage.process import Run
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.spec import project_folder
from coreimage.storage import Store, put_blob_file
from coreimage.tarball import TarWriter, gzip_writer
from coreimage.workspace import workspace

PREFIX = "system/"


def build_custom(
    project: Project, channel: str, architecture: Architecture, lock: ArtifactRef, *, store: Store, run: Run
) -> CustomBuild:
    """The same bytes for the same files and lock, which dates them, of a channel whose series has a `custom`.

    Files belong to root and have mode 0644, or 0755 when executable. Raises UsageError for a folder that is not there.
    """
    config = project.config.series[project.channel(channel).series].custom
    assert config is not None  # noqa: S101
    folder = project_folder(project, config.overlay, "overlay of the custom tarball")
    with workspace("custom", run=run) as work:
        with gzip_writer(work / "custom", run=run) as file, TarWriter(file, epoch=read_lock(store, lock).epoch) as tar:
            tar.add_tree(folder, prefix=PREFIX)
        return CustomBuild(architecture=architecture, tarball=put_blob_file(store, work / "custom", TAR_GZ))
