"""Versioned, signed channels."""

from coreimage.system_image.channels import (
    Change,
    alias_channel,
    create_channel,
    create_device,
    hide_channel,
    redirect_channel,
    remove_channel,
    remove_device,
    rename_channel,
    renew_channels,
    set_device_keyring,
    show_channel,
)
from coreimage.system_image.cleanup import Orphan, collect_orphans, expire_versions, orphans
from coreimage.system_image.expiry import ending_keyrings
from coreimage.system_image.findings import Finding, Findings, WaitingCandidate
from coreimage.system_image.importer import import_build
from coreimage.system_image.keyrings import heal_keyrings, publish_keyrings
from coreimage.system_image.promotion import promote, roll_back, set_phase, tag_image
from coreimage.system_image.release import release_candidate
from coreimage.system_image.tree import heal_pair
from coreimage.system_image.verify import repair_tree, verify_store, verify_tree, verify_web
from coreimage.system_image.version_tarball import Server

__all__ = [
    "Change",
    "Finding",
    "Findings",
    "Orphan",
    "Server",
    "WaitingCandidate",
    "alias_channel",
    "collect_orphans",
    "create_channel",
    "create_device",
    "ending_keyrings",
    "expire_versions",
    "heal_keyrings",
    "heal_pair",
    "hide_channel",
    "import_build",
    "orphans",
    "promote",
    "publish_keyrings",
    "redirect_channel",
    "release_candidate",
    "remove_channel",
    "remove_device",
    "rename_channel",
    "renew_channels",
    "repair_tree",
    "roll_back",
    "set_device_keyring",
    "set_phase",
    "show_channel",
    "tag_image",
    "verify_store",
    "verify_tree",
    "verify_web",
]
