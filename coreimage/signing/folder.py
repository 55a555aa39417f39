"""Where the keys of a machine are, and which of a role's keys count: the current one, the next, and those that retire.

<role>/                          the GnuPG home of the current key
public/<role>.gpg                the public key of a role whose private key is kept elsewhere
next/<role>/                     a new key that clients are being told of, and that signs nothing yet
retired/<role>-<fingerprint>/    a former key; its file `until` (UNIX seconds) says how long it counts beside the
                                 current one, and is gone once the key counts no more
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from coreimage.errors import VerificationError
from coreimage.signing.roles import Role

PUBLIC = "public.gpg"
KEY_FILES = ("pubring.kbx", "private-keys-v1.d")


@dataclass(frozen=True)
class Retired:
    """`until` is UNIX seconds; None once the key counts no more, because its time is over or because it was revoked."""

    role: Role
    fingerprint: str
    home: Path
    until: int | None


@dataclass(frozen=True)
class KeyFolder:
    path: Path

    def home(self, role: Role) -> Path:
        return self.path / role.value

    def next_home(self, role: Role) -> Path:
        return self.path / "next" / role.value

    def public_file(self, role: Role) -> Path:
        return self.path / "public" / f"{role.value}.gpg"

    def retired_home(self, role: Role, fingerprint: str) -> Path:
        return self.path / "retired" / f"{role.value}-{fingerprint}"

    def has(self, role: Role) -> bool:
        """Whether this machine can sign as `role`."""
        return self.home(role).is_dir()

    def knows(self, role: Role) -> bool:
        return self.has(role) or self.public_file(role).is_file()

    def retired(self, role: Role) -> tuple[Retired, ...]:
        """Sorted by fingerprint."""
        found = sorted((self.path / "retired").glob(f"{role.value}-*"))
        names = [(home, home.name.removeprefix(f"{role.value}-")) for home in found]
        return tuple(Retired(role, name, home, _until(home / "until")) for home, name in names if len(name) == 40)  # noqa: PLR2004

    def overlapping(self, role: Role) -> tuple[Retired, ...]:
        """Those that still count."""
        return tuple(key for key in self.retired(role) if key.until is not None)


def _until(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        raise VerificationError(
            "says no time", where=str(path), resolution="write UNIX seconds there, or remove it to end the overlap"
        ) from None
