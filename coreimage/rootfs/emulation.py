"""Chroots of another architecture than this machine's: QEMU's user-mode emulation runs their programs.

The interpreter is registered with the kernel's binfmt_misc inside the sandbox's own user namespace, so that no host
set-up is needed and nothing of it stays (Linux 6.7; Documentation/admin-guide/binfmt-misc.rst). Older kernels have one
registration for the whole machine, which Debian's qemu-user-static makes.
"""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coreimage.errors import HostError
from coreimage.model import Architecture

MACHINES: Mapping[str, Architecture] = {"x86_64": "amd64", "aarch64": "arm64"}
"""Of uname(2)."""
_QEMU: Mapping[Architecture, tuple[str, int]] = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}
"""QEMU's name, and `e_machine` of its ELF files (elf(5))."""
_IDENT, _IDENT_MASK = b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), b"\xff" * 7 + b"\0" + b"\xff" * 8
"""`e_ident` of 64-bit little-endian files, of whatever ABI."""
_EXECUTABLE, _EXECUTABLE_MASK = b"\x02\x00", b"\xfe\xff"
"""`e_type` is 2, or 3 for position-independent executables."""
_MACHINE_WIDE = Path("/proc/sys/fs/binfmt_misc")

REFUSED = "coreimage-no-binfmt-misc"
"""What the sandbox says when the kernel has no binfmt_misc for a user namespace."""

_REGISTER = """
mkdir .binfmt
if mount -t binfmt_misc binfmt .binfmt 2>/dev/null; then
    printf '%s' {registration} > .binfmt/register
elif ! {machine_wide}; then
    echo {refused} >&2
    exit 1
fi
"""

# A user namespace must not be mapped by newuidmap alone: that wants /etc/subuid to grant root its own ids.
_OWN_USERS = """
set -eu
cd "$1"; shift
mount -t proc proc /proc
mkfifo made mapped
unshare --user --mount --net --pid --fork --kill-child=KILL -- \\
    sh -c 'echo > made; read -r _ < mapped; exec "$@"' sh "$@" &
read -r _ < made
for kind in uid gid; do echo '0 0 65536' > "/proc/$!/${kind}_map"; done
echo > mapped
wait "$!"
"""


@dataclass(frozen=True)
class Emulator:
    """The interpreter of one architecture's programs, and how the kernel knows those."""

    architecture: Architecture
    interpreter: Path
    magic: bytes
    mask: bytes

    def placed(self, folder: Path) -> Emulator:
        """The same with a copy of the interpreter in `folder`, which every sandbox sees at its place."""
        copy = folder / self.interpreter.name
        shutil.copyfile(self.interpreter, copy)
        copy.chmod(0o755)
        return Emulator(self.architecture, copy, self.magic, self.mask)

    def registration(self) -> str:
        """One line for binfmt_misc's `register`.

        F opens the interpreter at once, since the chroot has none; P leaves argv[0] as it is; C keeps the rights of
        setuid programs.
        """
        magic, mask = ("".join(f"\\x{byte:02x}" for byte in pattern) for pattern in (self.magic, self.mask))
        return f":coreimage-{self.architecture}:M::{magic}:{mask}:{self.interpreter}:PFC"

    def register(self) -> str:
        """Shell, run as root of a mount and user namespace in a folder that is its alone."""
        return _REGISTER.format(
            registration=shlex.quote(self.registration()),
            machine_wide="true" if self.is_machine_wide() else "false",
            refused=REFUSED,
        )

    def is_machine_wide(self, folder: Path = _MACHINE_WIDE) -> bool:
        """Whether the machine's own binfmt_misc runs such programs in a chroot: enabled, and with F."""
        entries = [path for path in folder.glob("*") if path.name not in {"register", "status"}]
        return any(_would_run(_read(entry), self.magic) for entry in entries)


def emulator(architecture: Architecture) -> Emulator | None:
    """What this machine needs to run programs of `architecture`; None for its own.

    Raises HostError, naming the package, when QEMU is missing.
    """
    if MACHINES.get(os.uname().machine) == architecture:
        return None
    name, machine = _QEMU[architecture]
    interpreter = shutil.which(f"qemu-{name}-static", path="/usr/local/bin:/usr/bin:/bin")
    if interpreter is None:
        raise HostError(
            f"this machine has nothing to run programs of {architecture} with",
            where=f"qemu-{name}-static",
            resolution="sudo apt-get install qemu-user-static",
        )
    magic = _IDENT + _EXECUTABLE + machine.to_bytes(2, "little")
    return Emulator(architecture, Path(interpreter).resolve(), magic, mask=_IDENT_MASK + _EXECUTABLE_MASK + b"\xff\xff")


def own_users(folder: Path) -> list[str]:
    """What root's command line begins with: a user namespace is where a binfmt_misc of one's own can be had."""
    return ["sh", "-c", _OWN_USERS, "sh", str(folder)] if os.geteuid() == 0 else []


def refused() -> HostError:
    return HostError(
        "programs of another architecture do not run here: this kernel lets no sandbox register an emulator for itself "
        "(Linux 6.7 and newer do), and none is registered for the whole machine",
        where=str(_MACHINE_WIDE),
        resolution="sudo apt-get install --reinstall binfmt-support qemu-user-static",
    )


def _would_run(entry: str, magic: bytes) -> bool:
    """Pure: of an entry as binfmt_misc shows it."""
    lines = entry.splitlines()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags:")), "")
    return "enabled" in lines and "F" in flags and f"magic {magic.hex()}" in lines


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
