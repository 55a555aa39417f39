from __future__ import annotations

import pytest

from coreimage.system_image.server import ChannelTree
from tests.unit.system_image.published import Clock, make_tree


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tree(clock: Clock) -> ChannelTree:
    return make_tree(clock)
