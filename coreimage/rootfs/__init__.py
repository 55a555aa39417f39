"""From packages to rootfs and device tarballs.

The stages: specs from a project, probe (what the archives hold), plan (exactly which packages), build.
"""

from coreimage.rootfs.build import build_rootfs
from coreimage.rootfs.device import build_device
from coreimage.rootfs.plan import keep_previous, plan_packages, read_lock
from coreimage.rootfs.probe import probe_archives
from coreimage.rootfs.spec import ArchiveSpec, DeviceSpec, HookSpec, RootfsSpec, device_spec, rootfs_spec

__all__ = [
    "ArchiveSpec",
    "DeviceSpec",
    "HookSpec",
    "RootfsSpec",
    "build_device",
    "build_rootfs",
    "device_spec",
    "keep_previous",
    "plan_packages",
    "probe_archives",
    "read_lock",
    "rootfs_spec",
]
