"""Pairs of random trees have all that a delta can meet, in each of its forms."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from itertools import chain
from typing import get_args

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from coreimage.client.layers import LayeredTree
from coreimage.client.tree import Entry, Kind
from coreimage.deltas.legacy import NotExpressibleError, plan
from tests.harness.random_trees import (
    ACL,
    CAPABILITY,
    DEFAULT_ACL,
    GZIP_MAGIC,
    NO_TEXT,
    NOTE,
    SPARSE,
    Layers,
    pairs,
    tarball,
)

Entries = Mapping[bytes, Entry]
Change = Callable[[Entry, Entry], bool]


def changes(old: LayeredTree, new: LayeredTree) -> set[str]:
    was, now = ({entry.name: entry for entry in tree.entries()} for tree in (old, new))
    both = [(was[name], now[name]) for name in was.keys() & now.keys()]
    found = {f"new {now[name].kind}" for name in now.keys() - was.keys()}
    found |= {f"{was[name].kind} gone" for name in was.keys() - now.keys()}
    found |= {f"{sort(one)} becomes {sort(other)}" for one, other in both if one.kind != other.kind}
    found |= {f"other {sort(one)}" for one, other in both if one.kind == other.kind and one != other}
    found |= {what for what, holds in BETWEEN.items() if any(holds(one, other) for one, other in both)}
    found |= {f"{key} gained" for one, other in both for key in keys(other) - keys(one)}
    found |= {f"{key} lost" for one, other in both for key in keys(one) - keys(other)}
    found |= {"new name that is no text" for name in now.keys() - was.keys() if NO_TEXT in name}
    found |= {"link between tarballs" for name in new.names if crosses(new, name)}
    found |= {"path in another tarball" for one, _ in both if old[one.name].layer != new[one.name].layer}
    return found


BETWEEN: dict[str, Change] = {
    "content of equal size and time": lambda one, other: (
        one.kind == other.kind == "file"
        and (one.size_bytes, one.mtime) == (other.size_bytes, other.mtime)
        and one.sha256 != other.sha256
    ),
    "device number": lambda one, other: one.kind == other.kind and one.device != other.device,
    "owner": lambda one, other: one.kind == other.kind == "file" and one.uid != other.uid,
    "note of another value": lambda one, other: (
        one.kind == other.kind and {NOTE} <= keys(one) & keys(other) and dict(one.records) != dict(other.records)
    ),
    "link to another file": lambda one, other: one.kind == other.kind == "link" and one.target != other.target,
}


def sort(entry: Entry) -> str:
    return "node" if entry.kind in {"char", "block", "fifo"} else entry.kind


def keys(entry: Entry) -> set[str]:
    return {key for key, _ in entry.records}


def crosses(tree: LayeredTree, name: bytes) -> bool:
    return tree[name].layer != tree.last_layer(name)


def sparse(layers: Layers) -> bool:
    return any(SPARSE in member.pax_headers for member, _ in chain(*layers))


def packed_differently(old: Layers, new: Layers) -> bool:
    was, now = (
        {member.name: content for member, content in chain(*layers) if content.startswith(GZIP_MAGIC)}
        for layers in (old, new)
    )
    return any(was[name] != now[name] for name in was.keys() & now.keys())


KINDS = get_args(Kind)
WANTED = {
    *(f"new {kind}" for kind in KINDS),
    *(f"{kind} gone" for kind in KINDS),
    *(f"other {kind}" for kind in ("file", "folder", "link", "symlink", "node")),
    *(f"folder becomes {kind}" for kind in ("file", "symlink", "node")),
    *(f"{kind} becomes folder" for kind in ("file", "link", "symlink", "node")),
    *("file becomes link", "link becomes file", "link between tarballs", "path in another tarball"),
    *(f"{key} {what}" for key in (NOTE, CAPABILITY, ACL) for what in ("gained", "lost")),
    f"{DEFAULT_ACL} gained",
    *("new name that is no text", "sparse before", "sparse after", "other content in a packed file"),
    *BETWEEN,
}
ONLY_COMPACT = {f"{DEFAULT_ACL} lost"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_random_pairs_have_all_that_a_delta_can_meet() -> None:
    """Some hundred have, and of those some that have no delta in the form of 2015."""
    missing = {"compact": WANTED | ONLY_COMPACT, "2015": set(WANTED)}

    @settings(max_examples=150, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(pairs())
    def draw(drawn: tuple[Layers, Layers]) -> None:
        with ExitStack() as opened:
            old, new = (
                LayeredTree([opened.enter_context(tarfile.open(fileobj=io.BytesIO(tarball(tar)))) for tar in layers])
                for layers in drawn
            )
            met = changes(old, new)
            met |= {"other content in a packed file"} if packed_differently(*drawn) else set()
            met |= {f"sparse {when}" for when, layers in zip(("before", "after"), drawn, strict=True) if sparse(layers)}
            missing["compact"] -= met
            with suppress(NotExpressibleError):
                plan(old, new, len(drawn[1]))
                missing["2015"] -= met

    for number in range(20):
        if any(missing.values()):
            seed(number)(draw)()
    assert missing == {"compact": set(), "2015": set()}
