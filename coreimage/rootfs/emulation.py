"""Chroots of another architecture than this machine's: QEMU's user-mode emulation runs their programs.

The interpreter is registered with the kernel's binfmt_misc inside the sandbox's own user namespace, so that no host
set-up is needed and nothing of it stays (Linux 6.7; Documentation/admin-guide/binfmt-misc.rst). Older kernels have one
registration for the whole machine, which Debian's qemu-user-static makes.
"""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

from coreimage.architecture.facts import FACTS
from coreimage.errors import HostError
from coreimage.model import Architecture

_IDENT, _IDENT_MASK = b"\x7fELF\x02\x01\x01".ljust(16, b"\0"), b"\xff" * 7 + b"\0" + b"\xff" * 8
"""`e_ident` of 64-bit little-endian files, of whatever ABI."""
_EXECUTABLE, _EXECUTABLE_MASK = b"\x02\x00", b"\xfe\xff"
"""`e_type` is 2, or 3 for position-independent executables."""
_MACHINE_WIDE = Path("/proc/sys/fs/binfmt_misc")

REFUSED = "coreimage-no-binfmt-misc"
"""What the sandbox prints when the kernel has no binfmt_misc for a user namespace."""

_REGISTER = """
mkdir .binfmt
if mount -t binfmt_misc binfmt .binfmt 2>/dev/null; then
    printf '%s' {registration} > .binfmt/register
elif ! {machine_wide}; then
    echo {refused} >&2
    exit 1
fi
"""


@dataclass(frozen=True)
class Emulator:
    """The interpreter of one architecture's programs, and how the kernel knows those."""

    architecture: Architecture
    interpreter: Path
    magic: bytes
    mask: bytes

    def placed(self, folder: Path) -> Emulator:
        """Copy the interpreter to `folder`, which the sandbox sees, and return the emulator that uses the copy."""
        copy = folder / self.interpreter.name
        shutil.copyfile(self.interpreter, copy)
        copy.chmod(0o755)
        return Emulator(self.architecture, copy, self.magic, self.mask)

    def registration(self) -> str:
        """Return the line that binfmt_misc's `register` takes.

        F opens the interpreter at once, since the chroot has none; P leaves argv[0] as it is; C keeps the rights of
        setuid programs.
        """
        magic, mask = ("".join(f"\\x{byte:02x}" for byte in pattern) for pattern in (self.magic, self.mask))
        return f":coreimage-{self.architecture}:M::{magic}:{mask}:{self.interpreter}:PFC"

    def register(self) -> str:
        """Return the shell commands that register the interpreter.

        They run as root of a mount and user namespace, in a folder that nothing else uses.
        """
        return _REGISTER.format(
            registration=shlex.quote(self.registration()),
            machine_wide="true" if self.is_machine_wide() else "false",
            refused=REFUSED,
        )

    def is_machine_wide(self, folder: Path = _MACHINE_WIDE) -> bool:
        """Return whether the machine's own binfmt_misc runs such programs in a chroot: it is enabled, and with F."""
        for entry in folder.glob("*"):
            if entry.name in {"register", "status"}:
                continue
            try:
                lines = entry.read_text().splitlines()
            except OSError:
                continue
            flags = next((line.partition(":")[2] for line in lines if line.startswith("flags:")), "")
            if "enabled" in lines and "F" in flags and f"magic {self.magic.hex()}" in lines:
                return True
        return False


def emulator(architecture: Architecture) -> Emulator | None:
    """Return what this machine needs to run programs of an architecture; None if they are its own.

    Raises:
        HostError: QEMU is missing; the error names the package.
    """
    facts = FACTS[architecture]
    if facts.machine == os.uname().machine:
        return None
    interpreter = shutil.which(facts.qemu.user_program, path="/usr/local/bin:/usr/bin:/bin")
    if interpreter is None:
        raise HostError(
            f"this machine has nothing to run programs of {architecture} with",
            where=facts.qemu.user_program,
            resolution="sudo apt-get install qemu-user-static",
        )
    magic = _IDENT + _EXECUTABLE + facts.elf_machine.to_bytes(2, "little")
    return Emulator(architecture, Path(interpreter).resolve(), magic, mask=_IDENT_MASK + _EXECUTABLE_MASK + b"\xff\xff")


def refused() -> HostError:
    """Return the error that says that no emulator can be registered."""
    return HostError(
        "programs of another architecture do not run here: this kernel lets no sandbox register an emulator for itself "
        "(Linux 6.7 and newer do), and none is registered for the whole machine",
        where=str(_MACHINE_WIDE),
        resolution="sudo apt-get install --reinstall binfmt-support qemu-user-static",
    )
