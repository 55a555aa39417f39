from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreimage.client import Image, Index, RepositoryError
from coreimage.client.upgrade import find_path, newest_reachable, phase_of, starting_version
from tests.harness.strict_client import device_percentage


def image(version: int, base: int | None = None, size: int = 10, **more: Any) -> Image:
    kind = {"type": "full"} if base is None else {"type": "delta", "base": base}
    path = f"/pool/{version}-{base}.tar.xz"
    file = {"path": path, "signature": f"{path}.asc", "checksum": "0" * 64, "size": size}
    entry = {**kind, "version": version, "files": [file], **{key.replace("_", "-"): more[key] for key in more}}
    return Index.from_bytes(json.dumps({"global": {}, "images": [entry]}).encode(), "x").images[0]


def way(images: list[Image], build: int, **options: int) -> list[tuple[int | None, int]]:
    return [(step.base, step.version) for step in find_path(images, build, **options).images]


FULLS = [image(version, size=100) for version in (1, 2, 3)]
CHAIN = [*FULLS, image(2, 1), image(3, 2)]


def test_the_fewest_bytes_win() -> None:
    assert way(CHAIN, 0) == [(None, 3)]
    assert way(CHAIN, 1) == [(1, 2), (2, 3)]
    assert way(CHAIN, 2) == [(2, 3)]
    assert way(CHAIN, 3) == way(CHAIN, 9) == []
    assert way([*CHAIN, image(3, 1, 15)], 1) == [(1, 3)]
    assert way([*FULLS, image(2, 1, 60), image(3, 2, 60)], 1) == [(None, 3)]
    assert way([image(1, size=10), image(2, size=100), image(2, 1, 20)], 0) == [(None, 1), (1, 2)]


def test_a_tie_goes_to_fewer_images_and_a_full_one() -> None:
    assert way([image(2, size=20), image(1, size=10), image(2, 1, 10)], 0) == [(None, 2)]
    assert way([image(2, 1, 10), image(2, size=10)], 1) == [(None, 2)]


def test_deltas_that_lead_nowhere_or_back_are_not_taken() -> None:
    assert way([image(3, 2), image(2, 2), image(2, 3), image(1)], 0) == [(None, 1)]


def test_a_full_image_for_those_who_have_a_version() -> None:
    assert way([image(5, minversion=4), image(3)], 0) == [(None, 3)]
    assert way([image(5, minversion=4), image(3)], 4) == [(None, 5)]
    assert way([image(5, minversion=5)], 0) == [(None, 5)], "closed to appliers of 2015 only"


def test_a_device_outside_the_phase_gets_the_newest_before() -> None:
    images = [*FULLS[:2], image(3, size=100, phased_percentage=20), image(3, 2, phased_percentage=20), image(2, 1)]
    assert way(images, 0, device_percent=20) == [(None, 3)]
    assert way(images, 0, device_percent=21) == [(None, 2)]
    assert way(images, 1, device_percent=21) == [(1, 2)]
    assert way(images, 2, device_percent=21) == []
    assert newest_reachable(images, 0) == 3
    assert way([image(1, phased_percentage=0)], 0) == []


@pytest.mark.parametrize(
    ("channel", "target", "machine", "percent"),
    [
        ("ubuntu", 11, "0123456789abcdef", 51),
        ("ubuntu", 11, "fedcba9876543210", 25),
        ("devel", 11, "0123456789abcdef", 96),
        ("ubuntu", 12, "0123456789abcdef", 1),
    ],
)
def test_phases_are_those_of_the_original(channel: str, target: int, machine: str, percent: int) -> None:
    assert phase_of(channel, target, machine) == percent
    assert device_percentage(channel, target, machine) == percent


MACHINES = [f"{number:032x}" for number in range(2000)]


def test_clients_of_both_kinds_share_the_phases_of_an_alias() -> None:
    """There the original draws by the name of the alias's target, as ours do."""
    for machine in MACHINES[:50]:
        assert phase_of("ubuntu-core/15.04/edge", 7, machine) == device_percentage("ubuntu-core/15.04/edge", 7, machine)


def test_clients_of_both_kinds_are_drawn_apart_on_a_plain_channel() -> None:
    """There the original draws by the text of an absent value (system-image §3.5), so that the same machines come first
    in every channel; ours draw by the channel's name. Of each kind, as many take part as the phase says."""
    ours = {machine for machine in MACHINES if phase_of("edge", 7, machine) <= 10}
    original = {machine for machine in MACHINES if device_percentage(None, 7, machine) <= 10}
    assert (phase_of("None", 7, MACHINES[0]), phase_of("None", 7, MACHINES[1])) == (
        device_percentage(None, 7, MACHINES[0]),
        device_percentage(None, 7, MACHINES[1]),
    )
    assert ours != original
    for taking_part in (ours, original):
        assert 0.08 < len(taking_part) / len(MACHINES) < 0.14


def test_another_target_starts_from_nothing() -> None:
    assert starting_version(7, "a", "b") == 0
    assert starting_version(7, "a", "a") == starting_version(7, None, "b") == starting_version(7, "a", None) == 7


class Counted(list[Image]):
    looked = 0

    def __iter__(self) -> Any:
        for each in super().__iter__():
            Counted.looked += 1
            yield each


@pytest.mark.parametrize("versions", [50, 500])
def test_the_search_looks_at_each_image_once(versions: int) -> None:
    """Two deltas to each version: the original tries as many paths as Fibonacci's numbers."""
    images = [image(1)]
    for version in range(2, versions):
        images += [image(version, version - 1, 1), image(version, max(version - 2, 1), 2)]
    Counted.looked = 0
    assert find_path(Counted(images), 1).version == versions - 1
    assert Counted.looked == len(images)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.none() | st.integers(0, 9), st.integers(0, 99)), max_size=20), st.randoms()
)
def test_the_order_of_the_index_does_not_matter(entries: list[tuple[int, int | None, int]], shuffle: Any) -> None:
    images = [image(version, base, size) for version, base, size in entries]
    path = find_path(images, 2)
    shuffle.shuffle(images)
    again = find_path(images, 2)
    assert (again.version, again.size_bytes) == (path.version, path.size_bytes)
    assert all(after.base in {None, before.version} for before, after in pairwise(path.images))
    assert not path.images or path.images[0].base in {None, 2}


def test_a_percentage_may_be_a_string() -> None:
    assert image(1, phased_percentage="40").phased_percentage == 40


@pytest.mark.parametrize("wrong", [{"phased_percentage": 101}, {"phased_percentage": "x"}, {"minversion": -1}])
def test_wrong_numbers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RepositoryError):
        image(1, **wrong)
