"""Versioned, signed channels."""

from coreimage.system_image.importer import import_build
from coreimage.system_image.keyrings import publish_keyrings
from coreimage.system_image.release import release_candidate
from coreimage.system_image.tree import heal_pair
from coreimage.system_image.version_tarball import Server

__all__ = ["Server", "heal_pair", "import_build", "publish_keyrings", "release_candidate"]
