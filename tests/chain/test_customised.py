"""An image of one's own: everything that `flash` can put into one, seen in one boot of it."""

from __future__ import annotations

import shutil
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from coreimage.boot_test import make_overlay, start_machine
from coreimage.host.process import run, spawn
from tests.chain.conftest import CHANNEL, Chain
from tests.chain.system import BOOT_S, COMMAND_S, started
from tests.harness.workshop import wait_until

pytestmark = pytest.mark.timeout(1800)

PASSWORD = "my-own-password"
USER_DATA = f"""#cloud-config
password: {PASSWORD}
write_files:
  - {{path: /etc/mine.conf, content: "early\\n", permissions: '0640'}}
  - {{path: /home/admin/later, content: bGF0ZXIK, encoding: b64}}
runcmd:
  - echo "ran as $(id -un)" > /var/log/first-boot
  - [sh, -c, 'echo "words kept" >> /var/log/first-boot']
"""
NETWORK_CONFIG = """
version: 2
ethernets:
  lo: {match: {name: lo}, addresses: [192.0.2.7/32]}
"""


def test_what_was_asked_for_is_in_the_booted_image(chain: Chain, accelerator: str, tmp_path: Path) -> None:
    """In qcow2, too: the machine boots from the very file that `flash` left."""
    folder = chain.workshop.folder
    (folder / "user-data").write_text(USER_DATA)
    (folder / "network-config").write_text(NETWORK_CONFIG)
    words = ["flash", "core", "13", "--channel", CHANNEL, "--output", "mine.qcow2", "--format", "qcow2", "--size", "5"]
    words += ["--hostname", "mine-7", "--enable-ssh", "--cloud-init", "user-data", "--network-config", "network-config"]
    chain.workshop.coreimage(*words)
    disk = Path(shutil.copyfile(folder / "mine.qcow2", tmp_path / "disk.qcow2"))
    assert "4.54 GiB (4874999808 bytes)" in run(["qemu-img", "info", disk]).output
    with started(disk, tmp_path, accelerator, PASSWORD) as (_, shell):
        shell.ask("systemctl is-system-running --wait")
        assert shell.ask("systemctl --failed --no-legend --plain") == ""
        assert shell.ask("hostname") == "mine-7"
        assert shell.as_root("sshd -T | grep -i ^passwordauthentication") == "passwordauthentication yes"
        assert shell.as_root("stat -c %a:%U /etc/mine.conf; cat /etc/mine.conf") == "640:root\nearly"
        assert shell.ask("cat ~/later") == "later"
        assert shell.as_root("cat /var/log/first-boot") == "ran as root\nwords kept"
        assert "192.0.2.7" in shell.ask("ip -4 address show dev lo")
        again = "rm /var/log/first-boot; systemctl restart coreimage-first-boot; ls /var/log/first-boot 2>/dev/null"
        assert shell.as_root(f"{again} || echo not again") == "not again"


@pytest.mark.slow
def test_developer_mode_is_a_key_and_no_password(chain: Chain, accelerator: str, tmp_path: Path) -> None:
    """Over SSH, which takes the key of the one file that was named, and offers passwords to nobody."""
    folder, key = chain.workshop.folder, tmp_path / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    shutil.copyfile(f"{key}.pub", folder / "my.pub")
    words = ["flash", "core", "13", "--channel", CHANNEL, "--output", "keys.img", "--developer-mode"]
    said = chain.workshop.coreimage(*words, "--login-key", "my.pub", "--force").stdout
    assert "password" not in said
    disk = make_overlay(folder / "keys.img", tmp_path / "disk.qcow2", run=run)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=60"]
    ssh = ["ssh", "-p", str(port), *options, "admin@127.0.0.1"]
    with start_machine(
        disk, "bios", "amd64", run_folder=tmp_path, spawn=spawn, accelerator=accelerator, ssh_port=port
    ) as machine:
        machine.console.expect("login: ", BOOT_S)
        wait_until(lambda: _greeting(port).startswith(b"SSH-"), BOOT_S, "sshd, which may start after the prompt")
        with_key = ["-i", str(key), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        asked = "id -un; sudo -n id -u; sudo -n grep ^admin: /var/lib/extrausers/shadow"
        lines = run([ssh[0], *with_key, *ssh[1:], asked], timeout_s=COMMAND_S).output.splitlines()
        assert lines[-3:] == ["admin", "0", "admin:*:::::::"]
        no_key = ["-o", "PubkeyAuthentication=no", "-o", "BatchMode=yes"]
        refused = run([ssh[0], *no_key, *ssh[1:], "true"], accept=(255,), timeout_s=COMMAND_S).output
        assert "Permission denied (publickey)" in refused


def _greeting(port: int) -> bytes:
    """What a server says first; nothing while QEMU finds none in the guest."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=COMMAND_S) as connection:
        return connection.recv(64)
    return b""
