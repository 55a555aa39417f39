"""The units of infra/systemd inside one of our own images, installed on its writable partition."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from coreimage.boot_test import make_overlay, start_machine
from coreimage.host.process import run, spawn
from coreimage.services.ports import free_port
from tests.chain.system import BOOT_S
from tests.harness.installed_copy import write_installed
from tests.harness.ordinary_user import ROOT_DIR
from tests.harness.workshop import Workshop, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]
CHANNEL = "installation/1/edge"
CODENAMES = {(3, 11): "bookworm", (3, 13): "trixie"}
"""Debian's releases by their Python."""
STATE = "/var/lib/coreimage"
PLACE = f"{STATE}/opt"
"""Below the only folder of ours that can be written: /opt is part of the image."""
SERVICES = ("coreimage-s3", "coreimage-web", "coreimage-server", "coreimage-worker@build")
PASSWORD = "admin:planted-17d2"
MEMORY_MIB = 3072
_UP_WITHIN_S = 2400.0
_COPIED_WITHIN_S = 1200.0
"""An emulated machine is twenty times slower."""


@dataclass(frozen=True)
class Guest:
    port: int
    key: Path

    def argv(self, command: str) -> list[str]:
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=60", "LogLevel=ERROR"]
        options += ["IdentitiesOnly=yes", "BatchMode=yes"]
        flags = [word for option in options for word in ("-o", option)]
        return ["ssh", "-p", str(self.port), "-i", str(self.key), *flags, "admin@127.0.0.1", command]

    def root(self, script: str, *, accept: tuple[int, ...] = (0,)) -> str:
        """What a script of root's says."""
        done = subprocess.run(
            self.argv("sudo -n sh -eu"), input=script, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode in accept, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def answers(self) -> bool:
        return subprocess.run(self.argv("true"), capture_output=True, check=False, timeout=600).returncode == 0

    def state(self, unit: str) -> str:
        return self.root(f"systemctl is-active {unit} || true")

    def api(self, path: str, document: object, password: str = PASSWORD) -> str:
        """Status and body, as the guest itself sees them."""
        script = (
            "import base64, json, sys, urllib.error, urllib.request\n"
            f"head = {{'content-type': 'application/json', 'authorization': 'Basic ' + "
            f"base64.b64encode({password.encode()!r}).decode()}}\n"
            f"request = urllib.request.Request('http://127.0.0.1:4200/api{path}', "
            f"json.dumps({document!r}).encode(), head)\n"
            "try:\n"
            "    answer = urllib.request.urlopen(request, timeout=120)\n"
            "except (urllib.error.HTTPError) as error:\n"
            "    answer = error\n"
            "except OSError as error:\n"
            "    print(0, error)\n"
            "    sys.exit()\n"
            "print(answer.status, answer.read().decode())\n"
        )
        return self.root(f"python3 - <<'END'\n{script}END\n")


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory, accelerator: str) -> Iterator[Guest]:
    folder = tmp_path_factory.mktemp("units")
    key = folder / "key"
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])
    image = flashed(folder, key.with_suffix(".pub"))
    disk, port = make_overlay(image, folder / "disk.qcow2", run=run), free_port()
    with start_machine(
        disk,
        "bios",
        "amd64",
        run_folder=folder,
        spawn=spawn,
        accelerator=accelerator,
        ssh_port=port,
        memory_mib=MEMORY_MIB,
    ) as machine:
        machine.console.expect("login: ", 3 * BOOT_S)
        made = Guest(port, key)
        wait_until(made.answers, BOOT_S, "the guest's SSH server, which makes its keys at the first boot")
        yield made


def flashed(folder: Path, login_key: Path) -> Path:
    """An image that root may enter by a key, with room for an installation."""
    project = ROOT_DIR / "tests/projects/installation.yaml"
    text = project.read_text().replace("@CODENAME@", CODENAMES[sys.version_info[:2]])
    (folder / "project.yaml").write_text(text.replace("../../deployments", str(ROOT_DIR / "deployments")))
    workshop = Workshop(folder, ordinary=False)
    workshop.coreimage("--project", "project.yaml", "build", CHANNEL)
    words = ["flash", "core", "1", "--channel", CHANNEL, "--output", "units.img", "--size", "8", "--developer-mode"]
    workshop.coreimage(*words, "--login-key", str(login_key))
    return folder / "units.img"


def migrated(path: Path) -> Path:
    """A server's database, migrated here: there it would take a quarter of an hour."""
    environment = {
        "PATH": "/usr/bin:/bin",
        "PREFECT_HOME": str(path.parent),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{path}",
    }
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
    subprocess.run(upgrade, env=environment, check=True, capture_output=True)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def settings() -> dict[str, str]:
    """The shipped examples with the values of this machine; its database is a file, so that nobody needs Redis."""
    found = {path.name.removesuffix(".example"): path.read_text() for path in SYSTEMD.glob("*.env.example")}
    server = [line for line in found["server.env"].splitlines() if "redis" not in line and "postgresql" not in line]
    server += [
        f"PREFECT_SERVER_DATABASE_CONNECTION_URL=sqlite+aiosqlite:///{STATE}/server/prefect.db",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE=prefect.server.concurrency.lease_storage.filesystem",
    ]
    found["server.env"] = "\n".join([*server, ""])
    changed = {
        "admin:change-me": PASSWORD,
        "https://prefect.example.com/api": "http://127.0.0.1:4200/api",
        "https://s3.example.com": "http://127.0.0.1:8333",
    }
    for old, new in changed.items():
        found = {name: text.replace(old, new) for name, text in found.items()}
    return {name: text for name, text in found.items() if name != "signing.env"}


SYSTEMD = ROOT_DIR / "infra/systemd"


def install(guest: Guest, folder: Path) -> None:
    """As docs/installation.md says, below STATE instead of /opt."""
    python = guest.root("python3 -c 'import platform; print(platform.python_version())'")
    with subprocess.Popen(guest.argv(f"sudo -n mkdir -p {PLACE}; sudo -n tar -x -C {PLACE}"), stdin=-1) as copying:
        assert copying.stdin
        write_installed(copying.stdin, PLACE, python, folder / "for-the-guest")
        copying.stdin.close()
        assert copying.wait(_COPIED_WITHIN_S) == 0
    guest.root("mkdir -p /etc/sysusers.d")
    put(guest, "/etc/sysusers.d/coreimage.conf", f"u coreimage - - {STATE}\n")
    guest.root("systemd-sysusers")
    for unit in SYSTEMD.glob("*.service"):
        put(guest, f"/etc/systemd/system/{unit.name}", unit.read_text().replace("/opt/coreimage", PLACE))
    guest.root("install -d -m 700 /etc/coreimage /etc/systemd/system/coreimage-server.service.d")
    put(guest, "/etc/systemd/system/coreimage-server.service.d/emulated.conf", "[Service]\nTimeoutStartSec=infinity\n")
    for name, text in settings().items():
        put(guest, f"/etc/coreimage/{name}", text)
    database = migrated(folder / "prefect.db")
    with database.open("rb") as file:
        copy = f"sudo -n install -D -m 600 -o coreimage /dev/stdin {STATE}/server/prefect.db"
        subprocess.run(guest.argv(copy), stdin=file, check=True)
    guest.root(f"chown coreimage: {STATE} {STATE}/server; systemctl daemon-reload")


def put(guest: Guest, path: str, text: str) -> None:
    guest.root(f"install -m 600 /dev/stdin {path} <<'END'\n{text}END\n")


def test_the_units_work_where_only_the_writable_partition_can_be_written(guest: Guest, tmp_path: Path) -> None:
    assert "Read-only file system" in guest.root("touch /opt/new 2>&1 || true")
    install(guest, tmp_path)
    guest.root(f"systemctl start --no-block {' '.join(SERVICES[:3])}")

    def answers() -> bool:
        assert restarts(guest) == ["0"] * len(SERVICES), journal(guest)
        return guest.api("/flow_runs/count", {}).startswith("200 ")

    wait_until(answers, _UP_WITHIN_S, "Prefect's API")
    assert guest.api("/flow_runs/count", {}, "admin:wrong").startswith("401 "), "it asks who it is"
    page = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:4200/', timeout=300).read().decode())"
    assert "<html" in guest.root(f'python3 -c "{page}"'), "the UI is served"
    pool = {"name": "coreimage", "type": "process"}
    assert guest.api("/work_pools/", pool).startswith("201 ")
    guest.root(f"systemctl start --no-block {SERVICES[3]}")

    def online() -> bool:
        status, _, body = guest.api("/work_pools/coreimage/workers/filter", {}).partition(" ")
        return status == "200" and any(worker["status"] == "ONLINE" for worker in json.loads(body))

    wait_until(online, _UP_WITHIN_S, "the worker")
    assert [guest.state(unit) for unit in SERVICES] == ["active"] * len(SERVICES)
    assert restarts(guest) == ["0"] * len(SERVICES), journal(guest)
    said = guest.root("journalctl --no-pager -u 'coreimage-*'")
    assert not re.search(r"planted-17d2|change-me", said), "no secret is in the journal"


def restarts(guest: Guest) -> list[str]:
    """How often each service had to be started again."""
    return guest.root(f"systemctl show --property NRestarts --value {' '.join(SERVICES)}").split()


def journal(guest: Guest) -> str:
    return guest.root("journalctl --no-pager -n 100 -u 'coreimage-*'")
