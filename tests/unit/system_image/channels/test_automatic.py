"""A channel takes over what has stood in another one for long enough, and nothing sooner."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coreimage.project.config import PromotionConfig, ScheduleConfig
from coreimage.system_image.channels.automatic import Takeover, take_over
from coreimage.system_image.channels.changes import create_channel
from coreimage.system_image.documents import layout
from coreimage.system_image.server import ChannelTree
from tests.harness.memory_signer import MemorySigner
from tests.harness.memory_store import MemoryStore
from tests.unit.publication.stores import WatchedStore
from tests.unit.system_image.published import DEVICE, EDGE, STABLE, Clock, contents, index_of, release

CONFIG = PromotionConfig(source=EDGE, schedule=ScheduleConfig(cron="0 3 * * *"), min_age_hours=24, phase=20)


@pytest.fixture
def tree(clock: Clock) -> ChannelTree:
    """A store whose objects are as old as the clock says."""
    tree = ChannelTree(MemoryStore(now=clock), MemorySigner(), clock)
    create_channel(tree, STABLE)
    release(tree, b"one")
    return tree


@pytest.mark.parametrize("min_age_hours", [24, 0.5])
def test_a_version_is_taken_over_at_its_second_and_not_before(
    tree: ChannelTree, clock: Clock, min_age_hours: float
) -> None:
    config = CONFIG.model_copy(update={"min_age_hours": min_age_hours})
    clock.pass_(hours=min_age_hours, seconds=-1)
    assert take_over(tree, STABLE, DEVICE, config) == Takeover(device=DEVICE, offered=1)
    assert index_of(tree, STABLE).images == ()
    clock.pass_(seconds=1)
    taken = take_over(tree, STABLE, DEVICE, config)
    assert taken.change is not None
    assert (taken.offered, taken.change.changed, taken.change.version) == (1, True, 1)
    assert contents(tree, STABLE) == [b"one"]
    assert index_of(tree, STABLE).images[0].phased_percentage == 20


def test_what_is_there_already_is_not_published_again(tree: ChannelTree, clock: Clock) -> None:
    clock.pass_(days=2)
    take_over(tree, STABLE, DEVICE, CONFIG)
    again = take_over(tree, STABLE, DEVICE, CONFIG)
    assert again.change is not None
    assert not again.change.changed


def test_the_newest_version_counts_not_an_older_one(tree: ChannelTree, clock: Clock) -> None:
    clock.pass_(days=2)
    release(tree, b"two")
    clock.pass_(hours=23)
    assert take_over(tree, STABLE, DEVICE, CONFIG) == Takeover(device=DEVICE, offered=2)


def test_nothing_is_taken_from_a_channel_without_versions(tree: ChannelTree) -> None:
    config = CONFIG.model_copy(update={"source": "nothing", "min_age_hours": 0})
    assert take_over(tree, STABLE, DEVICE, config) == Takeover(device=DEVICE, offered=0)


def test_a_version_that_comes_meanwhile_is_not_taken_over_with_the_old_one(tree: ChannelTree, clock: Clock) -> None:
    """It comes when the older one was found to be old enough; nobody has had time to try it."""
    version_file = layout.key(layout.version_tarball(EDGE, DEVICE, 1))
    releases = iter([b"two"])

    def overtake(operation: str, key: str) -> None:
        if (operation, key) == ("head", version_file):
            for content in releases:
                release(tree, content)
                break

    clock.pass_(hours=24)
    taken = take_over(replace(tree, store=WatchedStore(tree.store, overtake)), STABLE, DEVICE, CONFIG)
    assert taken.offered == 1
    assert contents(tree, STABLE) == [b"one"]
    assert contents(tree) == [b"one", b"two"]


def test_a_version_whose_file_is_gone_never_gets_old_enough(tree: ChannelTree, clock: Clock) -> None:
    tree.store.delete([layout.key(layout.version_tarball(EDGE, DEVICE, 1))])
    clock.pass_(days=100)
    assert take_over(tree, STABLE, DEVICE, CONFIG) == Takeover(device=DEVICE, offered=1)
