"""From packages to rootfs and device tarballs.

The stages: specs from a project, probe (what the archives hold), plan (exactly which packages), build.
"""

from coreimage.rootfs.build import build_rootfs
from coreimage.rootfs.device import build_device
from coreimage.rootfs.lock import (
    Offline,
    configuration,
    keep_previous,
    lock_pointer,
    move_lock_pointer,
    named_lock,
    offline_lock,
    read_lock,
    store_lock,
)
from coreimage.rootfs.plan import plan_packages
from coreimage.rootfs.probe import probe_archives
from coreimage.rootfs.spec import ArchiveSpec, DeviceSpec, HookSpec, RootfsSpec, device_spec, rootfs_spec
from coreimage.rootfs.tools import tool_versions

__all__ = [
    "ArchiveSpec",
    "DeviceSpec",
    "HookSpec",
    "Offline",
    "RootfsSpec",
    "build_device",
    "build_rootfs",
    "configuration",
    "device_spec",
    "keep_previous",
    "lock_pointer",
    "move_lock_pointer",
    "named_lock",
    "offline_lock",
    "plan_packages",
    "probe_archives",
    "read_lock",
    "rootfs_spec",
    "store_lock",
    "tool_versions",
]
