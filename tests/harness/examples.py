"""How many examples Hypothesis draws, by profile (`pytest --hypothesis-profile=NAME`).

`test` is the default: new examples in each run. `check` draws a quarter, the same ones every time, for `make check`.
Neither makes a failing example smaller, as that can take minutes: run the failing test alone with `shrink` for that.
An example may take long on a machine that has other work, so none has a deadline.
"""

from __future__ import annotations

from hypothesis import Phase, settings

_PART_OF_CHECK = 4
_WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


def register_profiles() -> None:
    """Make the profiles known, and load `test`."""
    settings.register_profile("shrink", deadline=None, max_examples=100)
    settings.register_profile("test", settings.get_profile("shrink"), phases=_WITHOUT_SHRINKING, print_blob=True)
    settings.register_profile(
        "check",
        settings.get_profile("test"),
        max_examples=100 // _PART_OF_CHECK,
        phases=(Phase.explicit, Phase.generate),
        derandomize=True,
    )
    settings.load_profile("test")


def examples(count: int) -> int:
    """Return how many of `count` examples the chosen profile draws, for `@settings(max_examples=examples(60))`."""
    return count // _PART_OF_CHECK if settings.default and settings.default.derandomize else count
