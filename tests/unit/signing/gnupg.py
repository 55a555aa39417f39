"""GnuPG without processes: a `Run` that knows the commands that we give it, and refuses all others as gpg would.

A key is a name. Its home has it in `pubring.kbx`, its export is the name, and a signature names key, form and content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from coreimage.errors import ProcessError
from coreimage.host.process import Completed

GPG = ("gpg", "--homedir", "", "--no-autostart", "--batch", "--no-tty", "--quiet", "--pinentry-mode", "loopback")
AGENT = ("gpg-agent", "--homedir", "", "--disable-scdaemon", "--quiet", "--daemon", "--", "sh", "-c", "")
SIGN = ("--trust-model", "always", "--digest-algo", "SHA512", "--output", "out")
VALID = "VALIDSIG {} 2026-11-23 1795472469 0 4 0 1 10 00 {}"


def fingerprint(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:40].upper()


def signature(name: str, content: bytes, form: str = "--armor --detach-sign") -> bytes:
    return f"{name}|{form}|{hashlib.sha256(content).hexdigest()}|".encode()


def inline(name: str, content: bytes) -> bytes:
    said = signature(name, content, "--compress-algo none --sign") + content
    return b"\xcb\xff" + len(said).to_bytes(4, "big") + said


class Gnupg:
    """Plays gpg and gpgv.

    `calls` are the gpg commands; `fails` makes all of them fail, `stderr` is what gpgv prints.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.fails = False
        self.stderr = ""
        self.plaintexts = 1

    def __call__(
        self,
        argv: Sequence[str | Path],
        *,
        env: Any = None,
        stdin: bytes | IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        accept: Sequence[int] = (0,),
        **_: Any,
    ) -> Completed:
        words = tuple(map(str, argv))
        if words[0] == "gpgv":
            assert stdout is not None
            status = self._gpgv(words)
            stdout.write("".join(f"[GNUPG:] {line}\n" for line in status).encode() + b"gpgv: noise\n")
            assert 2 in accept, "gpgv ends with 2 for what is not signed"
            return Completed(words, 0, self.stderr)
        if words[0] == "gpgconf":
            assert words[3:] == ("--remove-socketdir",)
            return Completed(words, 0, "")
        home = Path(words[2])
        assert (words[: len(AGENT) - 1], env) == ((*AGENT[:2], words[2], *AGENT[3:-1]), {"GNUPGHOME": words[2]})
        script, name, *gpg = words[len(AGENT) - 1 :]
        assert "gpgconf --kill gpg-agent" in script
        assert (name, tuple(gpg[: len(GPG)])) == ("gpg", (*GPG[:2], words[2], *GPG[3:]))
        command = tuple(word.removeprefix(f"{home}/") for word in gpg[len(GPG) :])
        self.calls.append(command)
        if self.fails:
            raise ProcessError(words, 2, ["gpg: no room"])
        return Completed(words, 0, self._gpg(home, command, stdin))

    def _gpg(self, home: Path, command: tuple[str, ...], stdin: bytes | IO[bytes] | None) -> str:
        if command[:3] == ("--passphrase", "", "--quick-generate-key"):
            user_id, *kind = command[3:]
            assert kind[1:] == ["sign", "never"]
            (home / "pubring.kbx").write_text(f"{user_id} {kind[0]}")
            (home / "private-keys-v1.d").mkdir()
            (home / "openpgp-revocs.d").mkdir()
            (home / "trustdb.gpg").write_text("")
            return ""
        if command[:2] == ("--with-colons", "--show-keys"):
            return _listing(Path(command[2]).read_text())
        name = (home / "pubring.kbx").read_text()
        if command == ("--with-colons", "--list-keys"):
            return _listing(name)
        if command == ("--output", "out", "--export"):
            (home / "out").write_text(name)
            return ""
        assert command[: len(SIGN)] == SIGN
        assert (home / "private-keys-v1.d").exists()
        assert stdin is not None
        content = stdin if isinstance(stdin, bytes) else stdin.read()
        form = command[len(SIGN) :]
        signed = {
            ("--armor", "--detach-sign"): signature(name, content),
            ("--compress-algo", "none", "--sign"): inline(name, content),
        }
        (home / "out").write_bytes(signed[form])
        return ""

    def _gpgv(self, words: tuple[str, ...]) -> list[str]:
        assert words[1] == "--homedir"
        assert words[3:5] == ("--status-fd", "1")
        options, rest = [], list(words[5:])
        while rest[0] == "--keyring":
            options.append(Path(rest[1]).read_text())
            rest = rest[2:]
        known = [name for keyring in options for name in keyring.split("+")]
        if rest[0] == "--output":
            _, output, message = rest
            name, _, digest, content = Path(message).read_bytes()[6:].split(b"|", 3)
            Path(output).write_bytes(content)
            plaintexts = ["PLAINTEXT 62 0 "] * self.plaintexts
        else:
            name, _, digest, _ = Path(rest[0]).read_bytes().split(b"|")
            content, plaintexts = Path(rest[1]).read_bytes(), []
        if name.decode() not in known:
            return ["NEWSIG", "ERRSIG X"]
        if digest.decode() != hashlib.sha256(content).hexdigest():
            return ["NEWSIG", "BADSIG X"]
        primary = fingerprint(name.decode())
        return ["NEWSIG", *plaintexts, "GOODSIG X", VALID.format(primary, primary)]


def _listing(name: str) -> str:
    return (
        f"tru::1\npub:u:3072:1:X:::\nfpr:::::::::{fingerprint(name)}:\nuid:u::::\nfpr:::::::::{fingerprint('sub')}:\n"
    )
