"""From packages to rootfs, device and custom tarballs, in four stages.

A spec says what is wanted (of a project), a probe how the archives stand, a plan exactly which packages (the lock), and
a build makes the tarballs. The tools that all is made with come the same way: their lock becomes a tools tree.
"""

from coreimage.rootfs.custom_tarball import build_custom
from coreimage.rootfs.device_tarball import build_device
from coreimage.rootfs.lock import (
    Offline,
    configuration,
    keep_previous,
    lock_pointer,
    move_lock_pointer,
    named_lock,
    note_released,
    offline_lock,
    read_lock,
    released_lock,
    store_lock,
    tools_lock_pointer,
)
from coreimage.rootfs.offered_tools import OfferedTools, offer_tools, offered_tools, offered_tree
from coreimage.rootfs.plan import plan_packages
from coreimage.rootfs.probe import probe_archives
from coreimage.rootfs.rootfs_tarball import build_rootfs
from coreimage.rootfs.spec import (
    ArchiveSpec,
    DeviceSpec,
    HookSpec,
    RootfsSpec,
    Spec,
    ToolsSpec,
    device_spec,
    rootfs_spec,
    tools_spec,
)
from coreimage.rootfs.tools_tree import build_tools, machine_architecture, tool_versions
from coreimage.rootfs.unpacked_tools import tidy_trees, tools_run, trees_budget_bytes, trees_folder

__all__ = [
    "ArchiveSpec",
    "DeviceSpec",
    "HookSpec",
    "OfferedTools",
    "Offline",
    "RootfsSpec",
    "Spec",
    "ToolsSpec",
    "build_custom",
    "build_device",
    "build_rootfs",
    "build_tools",
    "configuration",
    "device_spec",
    "keep_previous",
    "lock_pointer",
    "machine_architecture",
    "move_lock_pointer",
    "named_lock",
    "note_released",
    "offer_tools",
    "offered_tools",
    "offered_tree",
    "offline_lock",
    "plan_packages",
    "probe_archives",
    "read_lock",
    "released_lock",
    "rootfs_spec",
    "store_lock",
    "tidy_trees",
    "tool_versions",
    "tools_lock_pointer",
    "tools_run",
    "tools_spec",
    "trees_budget_bytes",
    "trees_folder",
]
