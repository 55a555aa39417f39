"""Versioned, signed channels."""

from coreimage.system_image.expiry import ending_keyrings
from coreimage.system_image.findings import Finding, Findings, WaitingCandidate
from coreimage.system_image.importer import import_build
from coreimage.system_image.keyrings import heal_keyrings, publish_keyrings
from coreimage.system_image.release import release_candidate
from coreimage.system_image.tree import heal_pair
from coreimage.system_image.verify import repair_tree, verify_store, verify_tree, verify_web
from coreimage.system_image.version_tarball import Server

__all__ = [
    "Finding",
    "Findings",
    "Server",
    "WaitingCandidate",
    "ending_keyrings",
    "heal_keyrings",
    "heal_pair",
    "import_build",
    "publish_keyrings",
    "release_candidate",
    "repair_tree",
    "verify_store",
    "verify_tree",
    "verify_web",
]
