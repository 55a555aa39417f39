"""The pages for people as a task."""

from __future__ import annotations

from coreimage import pages
from coreimage.model import PublishedBuild, Release
from coreimage.publication import BuildTree
from tasks.caching import artifact_task
from tasks.site import Site


@artifact_task()
def write_pages(published: PublishedBuild, releases: tuple[Release, ...], *, site: Site) -> int:
    """Those of what a build has changed: its own, those of its tree, and those of the channels it was released to."""
    tree = BuildTree(project=published.project, series=published.series, image_type=published.image_type)
    channels = {release.channel for release in releases}
    return pages.write_pages(store=site.store(), channels=channels, trees=[tree])
