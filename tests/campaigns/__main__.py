"""`make test-all [ONLY="NAME …"]`: runs the campaigns that did not pass on this code yet, and records each at once."""

from __future__ import annotations

import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.campaigns.mutations import run_mutations
from tests.campaigns.plan import Campaign, campaigns
from tests.campaigns.record import PAGE, Outcome, page_of, plain, read_outcomes

REPOSITORY = Path(__file__).parents[2]
LOGS = REPOSITORY / "var" / "campaigns"
_CODE = ("coreimage", "tasks", "flows", "deployments", "infra", "tests", "pyproject.toml", "requirements-test.lock")


def main(names: list[str]) -> int:
    """Run the named campaigns, or those that did not pass on this code; return 1 when one of them failed."""
    plan = campaigns()
    unknown = set(names) - {campaign.name for campaign in plan}
    if unknown:
        known = ", ".join(campaign.name for campaign in plan)
        sys.exit(f"no such campaign: {', '.join(sorted(unknown))}; there are {known}")
    code = _git("log", "-1", "--format=%h", "--", *_CODE)
    if changed := _git("status", "--porcelain", "--", *_CODE):
        sys.exit(f"commit these first, so that the record can name the code that was tried:\n{changed}")
    outcomes = read_outcomes(PAGE.read_text("utf-8") if PAGE.exists() else "")
    chosen = [each for each in plan if (each.name in names if names else not _stands(outcomes.get(each.name), code))]
    for campaign in chosen:
        outcomes[campaign.name] = _run(campaign, code)
        PAGE.write_text(page_of(outcomes.values(), plan), "utf-8")
    return int(not all(outcomes[campaign.name].passed for campaign in chosen))


def _stands(outcome: Outcome | None, code: str) -> bool:
    return outcome is not None and outcome.passed and outcome.code == code


def _run(campaign: Campaign, code: str) -> Outcome:
    LOGS.mkdir(parents=True, exist_ok=True)
    log_path = LOGS / f"{campaign.name}.log"
    sys.stdout.write(f"{campaign.name}: {campaign.tries} (log: {log_path.relative_to(REPOSITORY)})\n")
    sys.stdout.flush()
    start_s = time.monotonic()
    with log_path.open("w", encoding="utf-8") as log:
        result = (
            run_mutations(campaign.mutants, code, log) if campaign.mutants else _run_command(campaign.argv, log_path)
        )
    took = f"{(time.monotonic() - start_s) / 60:.0f} min"
    sys.stdout.write(f"  {result} ({took})\n")
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    return Outcome(campaign.name, plain(campaign.tries), code, day, took, plain(result))


def _run_command(argv: tuple[str, ...], log_path: Path) -> str:
    with log_path.open("w", encoding="utf-8") as log:
        status = subprocess.run(
            [sys.executable, *argv], cwd=REPOSITORY, stdout=log, stderr=subprocess.STDOUT, check=False
        ).returncode
    last_line = (log_path.read_text("utf-8", "replace").strip().splitlines() or [""])[-1]
    return f"{'failed' if status else 'passed'}: {last_line}"


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout.rstrip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
