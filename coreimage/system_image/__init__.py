"""Versioned, signed channels: the operations of the room, under one name.

Each is loaded when it is first asked for: a command that only reads channels loads neither the importer nor what makes
deltas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from coreimage.system_image.channels.annotations import pin_version, set_phase, unpin_version
    from coreimage.system_image.channels.automatic import Takeover, take_over
    from coreimage.system_image.channels.changes import (
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
    from coreimage.system_image.channels.cleanup import (
        Expired,
        Orphan,
        collect_orphans,
        expire_versions,
        named_versions,
        orphans,
    )
    from coreimage.system_image.channels.document import heal_pair
    from coreimage.system_image.channels.promotion import promote, roll_back, tag_image
    from coreimage.system_image.channels.release import release_candidate
    from coreimage.system_image.importer import import_build
    from coreimage.system_image.keys.expiry import endings
    from coreimage.system_image.keys.keyrings import heal_keyrings, publish_keyrings
    from coreimage.system_image.keys.masters import (
        Medium,
        export_keyrings,
        import_keyrings,
        move_masters,
        sign_keyrings,
    )
    from coreimage.system_image.keys.owner import archive_masters_of, foreign_store, require_own_store
    from coreimage.system_image.keys.rotation import OVERLAP, Rotation, end_overlaps, revoke_key, rotate_key, sign_anew
    from coreimage.system_image.payloads.components import Component, gather_components
    from coreimage.system_image.payloads.customise import customise_rootfs
    from coreimage.system_image.payloads.deltas import with_deltas
    from coreimage.system_image.payloads.version_tarball import version_tarball
    from coreimage.system_image.server import ChannelTree
    from coreimage.system_image.verify.findings import Finding, Findings, WaitingCandidate
    from coreimage.system_image.verify.tree import repair_tree, verify_store, verify_tree, verify_web

__all__ = [
    "OVERLAP",
    "Change",
    "ChannelTree",
    "Component",
    "Expired",
    "Finding",
    "Findings",
    "Medium",
    "Orphan",
    "Rotation",
    "Takeover",
    "WaitingCandidate",
    "alias_channel",
    "archive_masters_of",
    "collect_orphans",
    "create_channel",
    "create_device",
    "customise_rootfs",
    "end_overlaps",
    "endings",
    "expire_versions",
    "export_keyrings",
    "foreign_store",
    "gather_components",
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
    "require_own_store",
    "revoke_key",
    "roll_back",
    "rotate_key",
    "set_device_keyring",
    "set_phase",
    "show_channel",
    "sign_anew",
    "sign_keyrings",
    "tag_image",
    "take_over",
    "unpin_version",
    "verify_store",
    "verify_tree",
    "verify_web",
    "version_tarball",
    "with_deltas",
]

_HOMES: dict[str, tuple[str, ...]] = {
    "channels.annotations": ("pin_version", "set_phase", "unpin_version"),
    "channels.automatic": ("Takeover", "take_over"),
    "channels.changes": (
        "Change",
        "alias_channel",
        "create_channel",
        "create_device",
        "hide_channel",
        "redirect_channel",
        "remove_channel",
        "remove_device",
        "rename_channel",
        "renew_channels",
        "set_device_keyring",
        "show_channel",
    ),
    "channels.cleanup": ("Expired", "Orphan", "collect_orphans", "expire_versions", "named_versions", "orphans"),
    "channels.document": ("heal_pair",),
    "channels.promotion": ("promote", "roll_back", "tag_image"),
    "channels.release": ("release_candidate",),
    "importer": ("import_build",),
    "keys.expiry": ("endings",),
    "keys.keyrings": ("heal_keyrings", "publish_keyrings"),
    "keys.masters": ("Medium", "export_keyrings", "import_keyrings", "move_masters", "sign_keyrings"),
    "keys.owner": ("archive_masters_of", "foreign_store", "require_own_store"),
    "keys.rotation": ("OVERLAP", "Rotation", "end_overlaps", "revoke_key", "rotate_key", "sign_anew"),
    "payloads.components": ("Component", "gather_components"),
    "payloads.customise": ("customise_rootfs",),
    "payloads.deltas": ("with_deltas",),
    "payloads.version_tarball": ("version_tarball",),
    "server": ("ChannelTree",),
    "verify.findings": ("Finding", "Findings", "WaitingCandidate"),
    "verify.tree": ("repair_tree", "verify_store", "verify_tree", "verify_web"),
}
"""Where each name is defined: the imports above, for when the program runs."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load what `name` stands for."""
        for module, names in _HOMES.items():
            if name in names:
                return getattr(import_module(f"{__name__}.{module}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
