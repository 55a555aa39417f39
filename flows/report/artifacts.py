"""The artifacts of a build in Prefect's UI. A task that is never cached makes them, so that every run has them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from coreimage.logs import decimal_size
from coreimage.model import BootReport
from coreimage.storage import Store
from flows.report.result import ArchitectureResult, BuildResult, DeviceResult
from tasks.console import artifact_key, show_console
from tasks.story import duration

_SERIAL_LINES = 12
_SHOWN_DIGITS = 16
"""The digits of a digest that fit into a table of the UI; SHA256SUMS beside the files has all of them."""
_CONTROLS = re.compile(r"\[!p|\]104|[\x00-\x08\x0b-\x1f\x7f]")


def show_result(result: BuildResult, changes: Mapping[str, tuple[str, ...]], *, web: str, store: Store) -> None:
    """Show the report, the table of versions, the screenshots of the boot tests, and links to what was published.

    Args:
        result: The result of the run.
        changes: The package changes of each part, one line each.
        web: The public address of the store; empty for no links.
        store: The store with the screenshots.
    """
    key = artifact_key("build", result.channel)
    create_markdown_artifact(markdown_of(result, changes), key=key, description="What this run built")
    key = artifact_key("versions", result.channel)
    create_table_artifact(versions_of(result), key=key, description="Versions and sizes")
    for device in result.devices:
        for boot in device.boots:
            show_console(result.channel, device.device, boot, store)
    for what, name, address in links_of(result, web):
        create_link_artifact(address, name, key=artifact_key("link", result.channel, what), description=name)


def versions_of(result: BuildResult) -> list[dict[str, str]]:
    """Return a row of the table of versions for each device."""
    return [
        {
            "device": device.device,
            "version": str(device.release.version),
            "build": result.published.build_id,
            "to download": decimal_size(sum(file.size_bytes for file in device.candidate.files)),
            "disk image": decimal_size(device.image.image.size_bytes),
            "boots": ", ".join(f"{boot.firmware}: {boot.reason}" for boot in device.boots) or "not tested",
        }
        for device in result.devices
    ]


def links_of(result: BuildResult, web: str) -> list[tuple[str, str, str]]:
    """Return the links to build and images, each as a word that is the same in every run, its text and its address."""
    if not web:
        return []
    root = web.rstrip("/")
    build = ("build", f"build {result.published.build_id}", f"{root}/{result.published.prefix}/")
    images = [
        (each.device, f"image of {each.device}", f"{root}/images/{result.channel}/{each.device}/{each.image.version}/")
        for each in result.devices
    ]
    return [build, *images]


def why(result: BuildResult) -> str:
    """Return the reason in one sentence: which tasks ran anew, or why none did."""
    anew = [task.name for task in result.tasks if not task.cached]
    if not anew:
        return "nothing to build: archives, configuration and code are as they were"
    return f"done anew: {', '.join(dict.fromkeys(anew))}"


def news(result: BuildResult) -> str:
    """Return in one sentence how the run ended, for the person who waits for it."""
    failed = "".join(f"; {each.architecture} failed and is as it was" for each in result.failed)
    if result.unchanged:
        return f"Nothing has changed, nothing was built{failed}"
    released = ", ".join(f"{device.device} version {device.release.version}" for device in result.devices)
    return f"Released {result.channel}: {released}, build {result.published.build_id}{failed}"


def markdown_of(result: BuildResult, changes: Mapping[str, tuple[str, ...]]) -> str:
    """Return the report; for the arguments see `show_result`."""
    parts = [f"# {result.channel}\n\nBuild `{result.published.build_id}`: {why(result)}."]
    parts += [_failure(each) for each in result.failed]
    parts += [_device(device) for device in result.devices]
    parts.append(_packages(changes))
    tasks = [
        (task.title or task.name, "cached" if task.cached else "done", duration(task.duration_s))
        for task in result.tasks
    ]
    parts.append(f"## Tasks\n\n{_table(('task', '', 'time'), tasks)}")
    files = [
        (file.name, decimal_size(file.artifact.size_bytes), f"`{file.artifact.sha256[:_SHOWN_DIGITS]}…`")
        for file in result.published.files
    ]
    parts.append(f"## Published files\n\n{_table(('name', 'size', 'sha256'), files)}")
    return "\n\n".join(parts) + "\n"


def _failure(failed: ArchitectureResult) -> str:
    where = f"Its log: `{failed.log.uri}`\n\n" if failed.log else ""
    return f"## {failed.architecture} failed\n\n{where}```\n{readable(failed.failure)}\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _packages(changes: Mapping[str, tuple[str, ...]]) -> str:
    """List the changes of each part that has some, and name the other parts in one line."""
    sections = [
        f"### {part}\n\n" + "\n".join(f"- {line}" for line in lines) for part, lines in changes.items() if lines
    ]
    same = [part for part, lines in changes.items() if not lines]
    sections += [f"No change: {', '.join(same)}."] if same else []
    return "\n\n".join(["## Packages", *sections])


def _device(result: DeviceResult) -> str:
    disk = result.image
    sizes = f"{decimal_size(disk.raw_size_bytes)}, {decimal_size(disk.image.size_bytes)} compressed"
    heading = f"## {result.device}: version {result.release.version}\n\nImage of {sizes}: `{disk.image.uri}`"
    return "\n\n".join([heading, *(_boot(report) for report in result.boots)])


def _boot(report: BootReport) -> str:
    verdict = "booted" if report.passed else "did NOT boot"
    lines = "\n".join(readable(line) for line in report.last_lines[-_SERIAL_LINES:])
    head = f"### {report.firmware.upper()}: {verdict} in {report.duration_s:.0f} s ({report.accelerator})"
    return f"{head}\n\n{report.reason}; the whole console: `{report.serial_log.uri}`\n\n```\n{lines}\n```"


def readable(line: str) -> str:
    """Remove what is left of a terminal's control sequences and of Markdown's fences from a line of a console."""
    return _CONTROLS.sub("", line).replace("```", "")
