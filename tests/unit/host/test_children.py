"""Children that are ended together, from another thread than the one that runs them."""

from __future__ import annotations

import threading
from contextvars import copy_context
from queue import Queue

import pytest

from coreimage.errors import BuildError
from coreimage.host.children import ChildGroup
from coreimage.host.process import run


def test_ending_a_group_raises_its_reason_where_the_child_ran() -> None:
    group, seen, started = ChildGroup(), Queue[BaseException](), threading.Event()

    def work() -> None:
        try:
            with group.joined():
                run(["sh", "-c", "echo up; exec sleep 600"], on_line=lambda _: started.set())
        except BuildError as error:
            seen.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    group.end(BuildError("too late"))
    thread.join(60)
    assert str(seen.get(timeout=1)) == "too late"


def test_nothing_starts_in_a_group_that_was_ended() -> None:
    group = ChildGroup()
    group.end(BuildError("given up"))
    with group.joined():
        context = copy_context()
    with pytest.raises(BuildError, match="given up"):
        context.run(run, ["true"])
    assert run(["true"]).status == 0
