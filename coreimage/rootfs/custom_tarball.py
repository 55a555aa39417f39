"""The custom tarball: files of a product that are in no package, and may change without the packages."""

from __future__ import annotations

from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.model import TAR_GZ, Architecture, ArtifactRef, CustomBuild
from coreimage.project.config import Project
from coreimage.rootfs.lock import read_lock
from coreimage.rootfs.spec import project_folder
from coreimage.storage import Store, put_blob_file
from coreimage.tarball import TarWriter, gzip_writer

PREFIX = "system/"


def build_custom(
    project: Project, channel: str, architecture: Architecture, lock: ArtifactRef, *, store: Store, run: Run
) -> CustomBuild:
    """Build the custom tarball of one architecture: the same bytes for the same files and lock.

    Its files belong to root and have mode 0644, or 0755 when executable.

    Args:
        project: Has the folder of files.
        channel: A channel whose series has a `custom`.
        architecture: What the tarball is for; the files are those of all architectures.
        lock: The lock of the rootfs, of which the epoch dates the files.
        store: Where the tarball goes.
        run: Runs pigz.

    Raises:
        UsageError: The folder is not there.
    """
    config = project.config.series[project.channel(channel).series].custom
    assert config is not None  # noqa: S101
    folder = project_folder(project, config.overlay, "overlay of the custom tarball")
    with workspace("custom", run=run) as work:
        with gzip_writer(work / "custom", run=run) as file, TarWriter(file, epoch=read_lock(store, lock).epoch) as tar:
            tar.add_tree(folder, prefix=PREFIX)
        return CustomBuild(architecture=architecture, tarball=put_blob_file(store, work / "custom", TAR_GZ))
