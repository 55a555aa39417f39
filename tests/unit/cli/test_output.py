from __future__ import annotations

import json
from pathlib import Path

import pytest

from coreimage.cli.output import check_output, document, login_of, summary
from coreimage.disk_image import Login
from coreimage.errors import UsageError

KEY = "ssh-ed25519 " + "A" * 68 + " me@here"


def test_the_summary_is_that_of_2015() -> None:
    facts = {"Output": "x86.img", "Architecture": "amd64", "Channel": "edge", "Version": "57"}
    text = summary(facts, Login(ssh_keys=(KEY,)), "qemu x86.img")
    head = "New image complete\nSummary:\n Output: x86.img\n Architecture: amd64\n Channel: edge\n Version: 57\n"
    assert text.startswith(head)
    assert "Launch by running: qemu x86.img" in text


def test_a_password_is_shown_and_a_key_is_not() -> None:
    facts = {"Output": "x86.img"}
    assert "hunter2" in summary(facts, Login(password="hunter2"), "")
    assert json.loads(document(facts, Login(password="hunter2"), ""))["password"] == "hunter2"
    assert "password" not in json.loads(document(facts, Login(ssh_keys=(KEY,)), ""))


def test_an_existing_output_is_kept_unless_forced(tmp_path: Path) -> None:
    output = tmp_path / "x86.img"
    output.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        check_output(output, force=False)
    check_output(output, force=True)
    with pytest.raises(UsageError, match="folder"):
        check_output(tmp_path / "no" / "x86.img", force=False)


def test_all_usual_keys_else_a_password_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    passwords = {login_of(None).password for _ in range(2)}
    assert len(passwords) == 2
    assert "" not in passwords
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519.pub").write_text(f"{KEY}\n")
    (tmp_path / ".ssh/id_rsa").write_text("PRIVATE")
    assert login_of(None) == Login(ssh_keys=(KEY,))


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "id.pub").write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    with pytest.raises(UsageError, match="--login-key"):
        login_of(tmp_path / "id.pub")
