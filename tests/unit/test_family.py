"""Children that are ended together, from another thread than the one that runs them."""

from __future__ import annotations

import threading
from contextvars import copy_context
from queue import Queue

import pytest

from coreimage.errors import BuildError
from coreimage.process import Family, run


def test_ending_a_family_raises_its_reason_where_the_child_ran() -> None:
    family, seen, started = Family(), Queue[BaseException](), threading.Event()

    def work() -> None:
        try:
            with family.joined():
                run(["sh", "-c", "echo up; exec sleep 600"], on_line=lambda _: started.set())
        except BuildError as error:
            seen.put(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert started.wait(60)
    family.end(BuildError("too late"))
    thread.join(60)
    assert str(seen.get(timeout=1)) == "too late"


def test_nothing_starts_in_a_family_that_was_ended() -> None:
    family = Family()
    family.end(BuildError("given up"))
    with family.joined():
        context = copy_context()
    with pytest.raises(BuildError, match="given up"):
        context.run(run, ["true"])
    assert run(["true"]).status == 0
