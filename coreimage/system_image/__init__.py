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
from coreimage.system_image.cleanup import Expired, Orphan, collect_orphans, expire_versions, named_versions, orphans
from coreimage.system_image.components import Component, Gathering, gather
from coreimage.system_image.customise import customise_rootfs
from coreimage.system_image.deltas import with_deltas
from coreimage.system_image.expiry import endings
from coreimage.system_image.findings import Finding, Findings, WaitingCandidate
from coreimage.system_image.importer import import_build
from coreimage.system_image.keyrings import heal_keyrings, publish_keyrings
from coreimage.system_image.masters import Medium, export_keyrings, import_keyrings, move_masters, sign_keyrings
from coreimage.system_image.promotion import (
    pin_version,
    promote,
    roll_back,
    set_phase,
    tag_image,
    unpin_version,
)
from coreimage.system_image.release import release_candidate
from coreimage.system_image.rotation import OVERLAP, Rotation, end_overlaps, revoke_key, rotate_key, sign_anew
from coreimage.system_image.tree import heal_pair
from coreimage.system_image.verify import repair_tree, verify_store, verify_tree, verify_web
from coreimage.system_image.version_tarball import version_tarball

__all__ = [
    "OVERLAP",
    "Change",
    "Component",
    "Expired",
    "Finding",
    "Findings",
    "Gathering",
    "Medium",
    "Orphan",
    "Rotation",
    "WaitingCandidate",
    "alias_channel",
    "collect_orphans",
    "create_channel",
    "create_device",
    "customise_rootfs",
    "end_overlaps",
    "endings",
    "expire_versions",
    "export_keyrings",
    "gather",
    "heal_keyrings",
    "heal_pair",
    "hide_channel",
    "import_build",
    "import_keyrings",
    "move_masters",
    "named_versions",
    "orphans",
    "pin_version",
    "promote",
    "publish_keyrings",
    "redirect_channel",
    "release_candidate",
    "remove_channel",
    "remove_device",
    "rename_channel",
    "renew_channels",
    "repair_tree",
    "revoke_key",
    "roll_back",
    "rotate_key",
    "set_device_keyring",
    "set_phase",
    "show_channel",
    "sign_anew",
    "sign_keyrings",
    "tag_image",
    "unpin_version",
    "verify_store",
    "verify_tree",
    "verify_web",
    "version_tarball",
    "with_deltas",
]
