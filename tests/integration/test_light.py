"""Commands that need no Prefect work where there is none: a second and 80 MB of import that nobody has to wait for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from coreimage.signing import GnupgSigner
from coreimage.storage import open_store
from coreimage.system_image import ChannelTree, publish_keyrings
from tests.harness.product import small_keys
from tests.harness.trees import CHANNEL, DEVICE, now, released

STABLE = "debian-core/13/stable"
COMMANDS = [
    ["channel", "list"],
    ["channel", "create", STABLE],
    ["device", "create", STABLE, DEVICE],
    ["promote", CHANNEL, STABLE, "--device", DEVICE],
    ["tag", STABLE, "13.1", "--device", DEVICE],
    ["phase", STABLE, "50", "--device", DEVICE],
    ["channel", "hide", STABLE],
    ["channel", "remove", STABLE],
    ["query", "--show-image", "--channel", CHANNEL, "--device", DEVICE],
    ["verify"],
    ["gc", "--dry-run"],
    ["keys", "show"],
    ["keys", "publish"],
    ["channel", "list"],
]
_SCRIPT = """
import json, sys

class NoPrefect:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "prefect":
            raise ImportError("there is no Prefect here")

sys.meta_path.insert(0, NoPrefect())
from coreimage.cli.app import run
print(json.dumps([run(words) for words in json.loads(sys.argv[1])]), file=sys.stderr)
"""


def test_commands_of_the_tree_work_without_prefect(tmp_path: Path) -> None:
    keys = small_keys(tmp_path / "var/keys")
    store = open_store(str(tmp_path / "var/store"))
    publish_keyrings(ChannelTree(store, GnupgSigner(keys), now))
    released(store, GnupgSigner(keys))
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, json.dumps(COMMANDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    statuses = json.loads(done.stderr.splitlines()[-1])
    assert [words for words, status in zip(COMMANDS, statuses, strict=True) if status] == [], done.stderr
