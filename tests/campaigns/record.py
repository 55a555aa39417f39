"""`docs/campaigns.md`: when each campaign ran last, on which code, and what came of it. Read back to resume."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

from tests.benchmarks.page import table
from tests.campaigns.plan import Campaign

PAGE = Path(__file__).parents[2] / "docs/campaigns.md"
_HEAD = ("campaign", "tries", "code", "day", "took", "result")
_INTRODUCTION = """# Campaigns

What `make test-all` runs, part by part, with the commit of the code that each part ran on last. A part that passed on
the present code is not run again; `make test-all ONLY="NAME …"` runs parts whether they passed or not. Mutation runs
change the code in one place at a time and count the changes that neither mypy nor a fast test notices (*survivors*).
"""


@dataclass(frozen=True)
class Outcome:
    """The last run of one campaign. `code` is the commit that changed the code last; `result` begins with `passed`
    or `failed`."""

    name: str
    tries: str
    code: str
    day: str
    took: str
    result: str

    @property
    def passed(self) -> bool:
        return self.result.startswith("passed")


def read_outcomes(text: str) -> dict[str, Outcome]:
    """Return the outcomes that the page lists, by the name of the campaign."""
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:2] == "| "]
    outcomes = [Outcome(*row) for row in rows if len(row) == len(_HEAD) and row[0] not in {_HEAD[0], "---"}]
    return {outcome.name: outcome for outcome in outcomes}


def page_of(outcomes: Iterable[Outcome], plan: Sequence[Campaign]) -> str:
    """Return the page with a row for each campaign of the plan, in its order; those that never ran say so."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    rows = [by_name.get(each.name, Outcome(each.name, each.tries, "", "", "", "never ran")) for each in plan]
    return f"{_INTRODUCTION}\n{table(_HEAD, [astuple(row) for row in rows])}\n"


def plain(text: str) -> str:
    """Return the text as it may stand in a cell."""
    return re.sub(r"\s*[|\n]\s*", " ", text).strip()
