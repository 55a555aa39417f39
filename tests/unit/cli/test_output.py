from __future__ import annotations

import sys
from pathlib import Path

import pytest

from coreimage.cli.launch import own_command
from coreimage.cli.output import Access, check_output, document, login_key_files, login_with, summary
from coreimage.disk_image import Login
from coreimage.errors import UsageError
from coreimage.host.process import run
from coreimage.operations.finish_image import RawImage
from coreimage.operations.tools import ImageTools

KEY = "ssh-ed25519 " + "A" * 68 + " me@here"
IMAGE = RawImage("amd64", "ubuntu-core/15.04/edge", 57, ImageTools(run, None))
WITH_KEY = Access(Login(ssh_keys=(KEY,)), (Path("/home/me/.ssh/id_ed25519.pub"),), "qemu x86.img", "coreimage boot x")
WITH_PASSWORD = Access(Login(password="hunter2"), (), "qemu x86.img", "coreimage boot x")


def test_the_summary_is_that_of_2015() -> None:
    assert summary(Path("x86.img"), IMAGE, WITH_KEY).splitlines() == [
        "New image complete",
        "Summary:",
        " Output: x86.img",
        " Architecture: amd64",
        " Channel: edge (ubuntu-core/15.04/edge)",
        " Version: 57",
        " Login: admin, with /home/me/.ssh/id_ed25519.pub: ssh -p 2222 admin@localhost",
        "Launch by running: qemu x86.img",
        "or: coreimage boot x",
    ]


def test_a_password_is_shown_and_a_key_is_not() -> None:
    assert summary(Path("x86.img"), IMAGE, WITH_PASSWORD).count("hunter2") == 1
    assert document(Path("x86.img"), IMAGE, WITH_PASSWORD)["login"] == {"user": "admin", "password": "hunter2"}
    assert "password" not in document(Path("x86.img"), IMAGE, WITH_KEY)["login"]
    assert KEY not in str(document(Path("x86.img"), IMAGE, WITH_KEY))


def test_an_existing_output_is_kept_unless_forced(tmp_path: Path) -> None:
    output = tmp_path / "x86.img"
    output.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        check_output(output, force=False)
    check_output(output, force=True)


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folder does not exist"):
        check_output(tmp_path / "no" / "x86.img", force=False)
    with pytest.raises(UsageError, match="is a folder"):
        check_output(tmp_path, force=True)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="folder does not exist"):
        check_output(tmp_path / "file" / "x86.img", force=False)
    with pytest.raises(UsageError, match="cannot be written"):
        check_output(Path("/proc/x86.img"), force=False)


def test_all_usual_keys_else_a_password_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    passwords = {login_with(login_key_files(None)).password for _ in range(2)}
    assert len(passwords) == 2
    assert "" not in passwords
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519.pub").write_text(f"{KEY}\n")
    (tmp_path / ".ssh/id_rsa").write_text("PRIVATE")
    assert login_with(login_key_files(None)) == Login(ssh_keys=(KEY,))


@pytest.mark.parametrize("content", [b"-----BEGIN OPENSSH PRIVATE KEY-----", b"\xff\xfe"])
def test_what_is_no_key_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_bytes(content)
    with pytest.raises(UsageError, match="--login-key"):
        login_with((tmp_path / "id.pub",))


def test_our_command_is_named_as_it_can_be_typed_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / ".venv/bin/coreimage"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert own_command() == [".venv/bin/coreimage"]
    monkeypatch.chdir("/")
    assert own_command() == [str(program).lstrip("/")]
    monkeypatch.setenv("PATH", str(program.parent))
    assert own_command() == ["coreimage"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/coreimage/cli/__main__.py"])
    assert own_command() == [sys.executable, "-m", "coreimage.cli"]
