"""Who signs: the `Signer` that rooms are handed, the one that signs with GnuPG, and what is signed only when needed."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from coreimage.errors import HostError, VerificationError
from coreimage.host.process import Run
from coreimage.host.process import run as run_process
from coreimage.model import OPENPGP_MESSAGE
from coreimage.signing.gnupg import exported_key, fingerprint_in_file, fingerprint_in_home, linked_home, run_gpg
from coreimage.signing.keys import KeyFolder, Role
from coreimage.signing.signatures import open_inline, verify_detached
from coreimage.storage import Store, swap


class Signer(Protocol):
    """Signs with the primary key of a role. Raises HostError when the key is not on this machine."""

    def detached(self, role: Role, content: bytes) -> bytes:
        """Return an ASCII-armoured detached signature of `content`."""
        ...

    def detached_file(self, role: Role, path: Path) -> bytes:
        """Return an ASCII-armoured detached signature of a file's content."""
        ...

    def inline(self, role: Role, content: bytes) -> bytes:
        """Return one OpenPGP message that holds the content, uncompressed, and its signature."""
        ...

    def verify(self, role: Role, content: bytes | Path, signature: bytes, *, where: str = "") -> str:
        """Return the fingerprint of the key of `role` that made a detached signature.

        Raises:
            VerificationError: None of the keys that count for the role made it. The error names `where`.
        """
        ...

    def open_inline(self, role: Role, message: bytes, *, where: str = "") -> bytes:
        """Return the content of a message that a key of `role` signed. Raises the errors of `verify`."""
        ...

    def has(self, role: Role) -> bool:
        """Return whether the private key is on this machine."""
        ...

    def fingerprint(self, role: Role) -> str:
        """Return the fingerprint of the key that signs now: 40 hexadecimal digits, upper case."""
        ...

    def public_key(self, role: Role) -> bytes:
        """Return a keyring for `verify_detached`: the binary export of the public keys that count for the role.

        The current key comes first; while a key is being replaced, the one before or after it follows.
        """
        ...


class GnupgSigner:
    """Signs with the RSA primary keys of a folder: the original client refuses subkeys (system-image §1.4)."""

    def __init__(self, keys_folder: Path, run: Run = run_process) -> None:
        self._folder, self._run = KeyFolder(keys_folder), run
        self._public_keys: dict[Role, bytes] = {}
        self._fingerprints: dict[Role, str] = {}

    def detached(self, role: Role, content: bytes) -> bytes:
        return self._sign(role, content, "--armor", "--detach-sign")

    def detached_file(self, role: Role, path: Path) -> bytes:
        return self._sign(role, path, "--armor", "--detach-sign")

    def inline(self, role: Role, content: bytes) -> bytes:
        return self._sign(role, content, "--compress-algo", "none", "--sign")

    def verify(self, role: Role, content: bytes | Path, signature: bytes, *, where: str = "") -> str:
        return verify_detached(content, signature, [self.public_key(role)], where=where, run=self._run)

    def open_inline(self, role: Role, message: bytes, *, where: str = "") -> bytes:
        return open_inline(message, [self.public_key(role)], where=where, run=self._run)[1]

    def has(self, role: Role) -> bool:
        return self._folder.has(role)

    def fingerprint(self, role: Role) -> str:
        """Return the fingerprint of the key that signs now. It is read once."""
        if role not in self._fingerprints:
            if self._is_elsewhere(role):
                self._fingerprints[role] = fingerprint_in_file(self._folder.public_file(role), self._run)
            else:
                self._fingerprints[role] = fingerprint_in_home(self._key_home(role), self._run)
        return self._fingerprints[role]

    def public_key(self, role: Role) -> bytes:
        """Return the keys that count for the role, the current one first. They are read once."""
        if role not in self._public_keys:
            if self._is_elsewhere(role):
                current = self._folder.public_file(role).read_bytes()
            else:
                current = exported_key(self._key_home(role), self._run)
            others = [key.home for key in self._folder.overlapping(role)]
            others += [self._folder.next_home(role)] if self._folder.next_home(role).is_dir() else []
            self._public_keys[role] = current + b"".join(exported_key(home, self._run) for home in others)
        return self._public_keys[role]

    def _is_elsewhere(self, role: Role) -> bool:
        """Return whether only the public key is on this machine."""
        return not self._folder.has(role) and self._folder.public_file(role).is_file()

    def _sign(self, role: Role, content: bytes | Path, *command: str) -> bytes:
        with linked_home(self._key_home(role)) as home:
            options: tuple[str | Path, ...] = (
                "--trust-model",
                "always",
                "--digest-algo",
                "SHA512",
                "--output",
                home / "out",
                *command,
            )
            if isinstance(content, Path):
                with content.open("rb") as file:
                    run_gpg(home, *options, stdin=file, run=self._run)
            else:
                run_gpg(home, *options, stdin=content, run=self._run)
            return (home / "out").read_bytes()

    def _key_home(self, role: Role) -> Path:
        home = self._folder.home(role)
        if self._is_elsewhere(role):
            raise HostError(
                f"the private {role.value} key is kept elsewhere",
                where=str(home),
                resolution="write what it must sign to a medium with `coreimage keys export FOLDER`",
            )
        if not home.is_dir():
            raise HostError(
                f"the {role.value} key is not on this machine",
                where=str(home),
                resolution="make keys with `coreimage keys init`, or bring the folder from where they are kept",
            )
        return home


def signs(signature: bytes | None, content: bytes, role: Role, signer: Signer) -> bool:
    """Return whether the key that signs now for `role` made `signature`; `None` (no signature) is never a match.

    A signature by a former key of the role is no match either: such content is signed again.
    """
    try:
        return signer.verify(role, content, signature or b"") == signer.fingerprint(role)
    except VerificationError:
        return False


def says(message: bytes, document: bytes, signer: Signer) -> bool:
    """Return whether an OpenPGP message by image-signing holds exactly `document`."""
    try:
        return signer.open_inline(Role.IMAGE_SIGNING, message) == document
    except VerificationError:
        return False


def name_object(key: str, document: bytes, *, store: Store, signer: Signer) -> bool:
    """Make the object at `key` an OpenPGP message by image-signing that holds `document`.

    A message that holds it already stays as it is. Of several writers at the same time, the last one is right.

    Returns:
        Whether the object had to be written.

    Raises:
        ConflictError: Other writers were faster in every attempt.
    """

    def sign_unless_present(present: bytes | None) -> bytes:
        if present is not None and says(present, document, signer):
            return present
        return signer.inline(Role.IMAGE_SIGNING, document)

    return swap(store, key, sign_unless_present, media_type=OPENPGP_MESSAGE)
