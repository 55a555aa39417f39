"""HTML pages for people, kept beside what they describe: made of what the store holds and of nothing else."""

from coreimage.pages.builds import list_builds
from coreimage.pages.write import write_pages

__all__ = ["list_builds", "write_pages"]
