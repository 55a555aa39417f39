"""The whole system, as its user meets it: what runs, what can be written, and what is still there after a reboot."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coreimage.boot_test import Machine, start_machine
from coreimage.boot_test.console import Console
from coreimage.host.process import spawn

BOOT_S, COMMAND_S = 300, 120


class Shell:
    """A login on the serial console; `ask` gives what a command prints, and checks its status."""

    def __init__(self, console: Console, password: str) -> None:
        self._console, self._password = console, password

    def log_in(self) -> None:
        prompts = {"login": r"[\w.-]+ login: ", "password": "Password: "}
        asked = self._console.await_any(prompts, BOOT_S)
        while asked.name == "login":
            # getty may have been starting over, asking the terminal for its size, when the name came.
            self._console.send("admin\n")
            asked = self._console.await_any(prompts, BOOT_S)
        assert asked.name == "password", self._console.lines()
        self._console.send(f"{self._password}\n")
        self._console.expect(r"\$ ", COMMAND_S)
        # No echo: what comes back is output only.
        self._console.send("stty -echo; PS1=; PS2=\n")
        assert self.ask("echo ready") == "ready"

    def ask(self, command: str, *, status: int = 0) -> str:
        mark = secrets.token_hex(6)
        self._console.send(f"echo '<{mark}'; {command}; echo \"{mark}:$?>\"\n")
        text = self._console.expect(rf"<{mark}\r?\n(?s:.*?){mark}:\d+>", COMMAND_S)
        output, _, ended = text.partition("\n")[2].rpartition(f"{mark}:")
        assert int(ended.removesuffix(">")) == status, text
        return output.replace("\r", "").strip()

    def as_root(self, command: str) -> str:
        return self.ask(f"printf '%s\\n' '{self._password}' | sudo -S -p '' sh -c '{command}'")


@contextmanager
def started(disk: Path, folder: Path, accelerator: str, password: str) -> Iterator[tuple[Machine, Shell]]:
    with start_machine(
        disk, "bios", "amd64", run_folder=folder, spawn=spawn, accelerator=accelerator, reboot=True
    ) as machine:
        shell = Shell(machine.console, password)
        shell.log_in()
        yield machine, shell


def check_file_systems(shell: Shell) -> None:
    assert re.search(r"^ro\b", shell.ask("findmnt -n -o OPTIONS /"))
    assert shell.ask("findmnt -n -o FSTYPE /etc") == "overlay"
    assert "Read-only file system" in shell.as_root("touch /usr/bin/new 2>&1 || true")
    for path in ("/home", "/root", "/var/log", "/var/lib/systemd", "/tmp"):
        assert re.match(r"rw\b", shell.ask(f"findmnt -n -o OPTIONS {path}")), path
    assert shell.ask("stat -c %a /tmp /var/tmp") == "1777\n1777"


def check_root(shell: Shell) -> None:
    assert shell.as_root("id -u") == "0"
    assert "sudo" in shell.ask("id -nG").split()
    assert shell.ask("sudo -k -n true 2>&1", status=1) != "", "a login by password must give it again for sudo"
    assert shell.as_root("ls -l /etc/ssh/ssh_host_ed25519_key").startswith("-rw-------")
    assert shell.ask("ping -c 1 127.0.0.1 > /dev/null && systemctl is-active ssh") == "active"
    assert "whole image" in shell.ask("apt install x 2>&1", status=1)


def identity_of(shell: Shell) -> tuple[str, str]:
    machine_id = shell.ask("cat /etc/machine-id")
    assert re.fullmatch(r"[0-9a-f]{32}", machine_id)
    return machine_id, shell.ask("cat /etc/ssh/ssh_host_ed25519_key.pub")
