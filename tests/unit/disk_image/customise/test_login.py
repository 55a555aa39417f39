from __future__ import annotations

import pytest
from pydantic import ValidationError

from coreimage.disk_image.customise.login import Login, login_files

KEY = "ssh-ed25519 " + "A" * 68 + " me@here"


def test_a_key_login_may_sudo_and_has_no_password() -> None:
    files = {file.path: file for file in login_files(Login(ssh_keys=(KEY,)), "*")}
    assert files["user-data/admin/.ssh/authorized_keys"].content == f"{KEY}\n".encode()
    assert (files["user-data/admin/.ssh"].mode, files["user-data/admin/.ssh"].uid) == (0o700, 1000)
    assert b"NOPASSWD" in (files["overlays/etc/upper/sudoers.d/90-admin"].content or b"")
    shadow = files["system-data/var/lib/extrausers/shadow"]
    assert (shadow.content, shadow.mode, shadow.gid) == (b"admin:*:::::::\n", 0o640, 42)
    assert b"sudo:x:27:admin\n" in (files["system-data/var/lib/extrausers/group"].content or b"")


def test_a_password_login_asks_for_it() -> None:
    files = {file.path: file for file in login_files(Login(password="secret"), "$6$x$y")}
    assert b"NOPASSWD" not in (files["overlays/etc/upper/sudoers.d/90-admin"].content or b"")
    assert "user-data/admin/.ssh" not in files


def test_parents_come_before_their_content() -> None:
    paths = [file.path for file in login_files(Login(password="x"), "h")]
    assert all(path.rpartition("/")[0] in {"", *paths[:n]} for n, path in enumerate(paths))


@pytest.mark.parametrize(
    "fields", [{}, {"ssh_keys": ("not a key",)}, {"ssh_keys": (f"{KEY}\n{KEY}",)}, {"password": "a\nb"}]
)
def test_bad_logins(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Login.model_validate(fields)


def test_the_password_is_not_shown() -> None:
    assert "secret" not in repr(Login(password="secret"))
