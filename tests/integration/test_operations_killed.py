"""Every operation on the tree, killed before and after each of its store calls.

Our readers see the old or the new state, whole. Readers of the pair of 2015 may be refused after a kill between its two
puts, until the next command heals it. The same operation again does what is missing, and `gc` leaves no orphan.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from coreimage.errors import NotFoundError
from coreimage.http import Downloader
from coreimage.signing import GnupgSigner, Role, make_keyring
from coreimage.storage import Store
from coreimage.storage.directory import DirectoryStore
from coreimage.system_image import (
    ChannelTree,
    alias_channel,
    collect_orphans,
    create_channel,
    create_device,
    expire_versions,
    heal_pair,
    hide_channel,
    orphans,
    promote,
    publish_keyrings,
    redirect_channel,
    remove_channel,
    remove_device,
    rename_channel,
    roll_back,
    set_phase,
    tag_image,
    verify_store,
)
from coreimage.system_image.web import client_errors, open_server
from tests.harness.kill import for_each_kill_point
from tests.harness.strict_client import RefusedError, check_tree
from tests.harness.trees import CHANNEL, DEVICE, NOW, RememberingSigner, now, released

STABLE, NEW = "debian-core/13/stable", "debian-core/13/daily"
OPERATIONS: dict[str, Callable[..., object]] = {
    "alias": lambda tree: alias_channel(tree, "stable", CHANNEL),
    "alias moved": lambda tree: alias_channel(tree, "followed", STABLE),
    "rename": lambda tree: rename_channel(tree, CHANNEL, NEW),
    "redirect": lambda tree: redirect_channel(tree, "old", CHANNEL),
    "redirect of a device": lambda tree: redirect_channel(tree, STABLE, CHANNEL, device=DEVICE),
    "promote": lambda tree: promote(tree, CHANNEL, STABLE, DEVICE, phase=20),
    "roll back": lambda tree: roll_back(tree, CHANNEL, DEVICE, 1),
    "tag": lambda tree: tag_image(tree, CHANNEL, DEVICE, "13.1"),
    "phase": lambda tree: set_phase(tree, CHANNEL, DEVICE, 30),
    "create": lambda tree: create_device(tree, STABLE, "pc_amd64"),
    "remove a device": lambda tree: remove_device(tree, STABLE, DEVICE),
    "remove a channel": lambda tree: remove_channel(tree, STABLE),
    "hide": lambda tree: hide_channel(tree, CHANNEL),
    "retention": lambda tree: expire_versions(tree, CHANNEL, 1),
}
KNOWN = {CHANNEL: ([1, 2], [1, 2, 3], [2]), NEW: ([1, 2],), STABLE: ([1], [1, 2], []), "stable": ([1, 2],)}
"""What may be seen of a channel at any moment: what was, and what the operation makes of it."""


@pytest.fixture(scope="module")
def remembering(signer: GnupgSigner) -> RememberingSigner:
    return RememberingSigner(signer)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, remembering: RememberingSigner) -> Path:
    folder = tmp_path_factory.mktemp("start")
    tree = ChannelTree(DirectoryStore(folder), remembering, now)
    publish_keyrings(tree)
    released(tree.store, remembering, "20261123", b"one")
    released(tree.store, remembering, "20261124", b"two")
    create_channel(tree, STABLE)
    promote(tree, CHANNEL, STABLE, DEVICE, version=1)
    alias_channel(tree, "followed", CHANNEL)
    return folder


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_at_every_store_call(
    name: str, every: int, start: Path, remembering: RememberingSigner, tmp_path: Path
) -> None:
    work, healed = tmp_path / "work", tmp_path / "healed"
    top = make_keyring("archive-master", remembering.public_key(Role.ARCHIVE_MASTER))

    def fresh() -> Store:
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(start, work)
        return DirectoryStore(work)

    def act(store: Store) -> None:
        OPERATIONS[name](ChannelTree(store, remembering, now))

    def readable(_: Store) -> None:
        opened = open_server((work / "system-image").as_uri(), top, fetch=Downloader(), now=NOW.timestamp)
        with client_errors():
            channels = opened.channels()
        for channel, known in KNOWN.items():
            if channel in channels:
                assert _versions(opened, channel) in (*known, *KNOWN[CHANNEL]), channel
        _heals(work, healed, top, remembering)

    def finished(store: Store) -> None:
        check_tree(work / "system-image", top)
        collect_orphans(ChannelTree(store, remembering, _later))
        assert orphans(ChannelTree(store, remembering, _later)) == ()
        found = verify_store(store, top, now=NOW.timestamp)
        assert (found.errors, found.orphans) == ((), ())
        check_tree(work / "system-image", top)

    assert for_each_kill_point(fresh, act, readable, finished=finished, every=every) >= 3


def _versions(opened: Any, channel: str) -> list[int]:
    try:
        with client_errors():
            images = opened.index(channel, DEVICE).images
    except NotFoundError:
        return []
    return [image.version for image in images if image.type == "full"]


def _heals(work: Path, healed: Path, top: bytes, signer: RememberingSigner) -> None:
    """A client of 2015 reads it as it is, or after whatever command comes next. Looked at in a copy."""
    try:
        check_tree(work / "system-image", top)
    except RefusedError:
        shutil.rmtree(healed, ignore_errors=True)
        shutil.copytree(work, healed)
        assert heal_pair(ChannelTree(DirectoryStore(healed), signer, now), thorough=False)
        check_tree(healed / "system-image", top)


def _later() -> datetime:
    return NOW + timedelta(days=30)
