"""One installation on this machine, as `coreimage up` makes it, with a tiny product, for all tests of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from coreimage.model import Architecture
from coreimage.services.ports import free_port
from tests.harness.installed import Installed
from tests.harness.product import Product, small_keys
from tests.harness.tools import SharedTools

CHANNELS = ("tiny/1/edge", "tiny/1/beta")
GATED = "tiny/1/gated"
"""A channel that is released only once it boots."""
WEBHOOK, MAIL_PASSWORD = "TEAM_WEBHOOK", "TEAM_MAIL_PASSWORD"
WEBHOOK_SECRET, MAIL_SECRET = "token-4c81", "planted-9e27"


def notifications() -> dict[str, object]:
    """Nobody listens there: what the server then says must not tell the secrets either."""
    mail = {
        "server": "127.0.0.1",
        "port": free_port(),
        "encryption": "none",
        "sender": "images@example.com",
        "recipients": ["team@example.com"],
        "user": "images",
        "password_env": MAIL_PASSWORD,
    }
    return {"webhook": {"url_env": WEBHOOK}, "mail": mail}


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, tools: SharedTools) -> Iterator[Installed]:
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    folder: Path = tmp_path_factory.mktemp("installation")
    small_keys(folder / "var/keys")
    devices: dict[str, Architecture] = {"board_amd64": "amd64", "box_amd64": "amd64"}
    settings = {
        **yaml.safe_load(tools.yaml),
        "web": "https://images.example.com",
        "notifications": notifications(),
    }
    os.environ |= {WEBHOOK: f"http://127.0.0.1:{free_port()}/hook?{WEBHOOK_SECRET}", MAIL_PASSWORD: MAIL_SECRET}
    product = Product(folder, channels=CHANNELS, devices=devices, settings=settings, bootable=True)
    channels: Any = product.config["channels"]
    channels[GATED] = {"series": "1", "devices": ["board_amd64"], "boot_test": ["bios"]}
    product.write()
    made = Installed(folder, product)
    with made.up():
        yield made
