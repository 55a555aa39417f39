"""What a run shows in Prefect's UI: Markdown, made at its uncached end so that every run has it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from coreimage.errors import BootError
from coreimage.logs import decimal_size
from coreimage.model import BootReport, PackageLock
from coreimage.rootfs.lock_diff import lock_diff
from coreimage.storage import Store
from flows.result import ArchitectureResult, BuildResult, DeviceResult
from flows.story import duration
from tasks.console import artifact_key, show_console

_SERIAL_LINES = 12
_SHOWN_DIGITS = 16
"""Of a digest in a table as wide as the UI's; SHA256SUMS beside the files has them whole."""
_CONTROLS = re.compile(r"\[!p|\]104|[\x00-\x08\x0b-\x1f\x7f]")


def show_result(result: BuildResult, locks: dict[str, tuple[str, ...]], *, web: str, store: Store) -> None:
    """The report, versions as a table, what the consoles showed; with the public address `web` also where it all is."""
    key = artifact_key("build", result.channel)
    create_markdown_artifact(markdown_of(result, locks), key=key, description="What this run built")
    key = artifact_key("versions", result.channel)
    create_table_artifact(versions_of(result), key=key, description="Versions and sizes")
    for device in result.devices:
        for boot in device.boots:
            show_console(result.channel, device.device, boot, store)
    for what, name, address in links_of(result, web):
        create_link_artifact(address, name, key=artifact_key("link", result.channel, what), description=name)


def versions_of(result: BuildResult) -> list[dict[str, str]]:
    """A row per device."""
    return [
        {
            "device": device.device,
            "version": str(device.release.version),
            "build": result.published.build_id,
            "to download": decimal_size(sum(file.artifact.size_bytes for file in device.candidate.files)),
            "disk image": decimal_size(device.image.image.size_bytes),
            "boots": ", ".join(f"{boot.firmware}: {boot.reason}" for boot in device.boots) or "not tested",
        }
        for device in result.devices
    ]


def links_of(result: BuildResult, web: str) -> list[tuple[str, str, str]]:
    """Of what (the same in every run), text and address; none without a public address of the store."""
    if not web:
        return []
    root = web.rstrip("/")
    build = ("build", f"build {result.published.build_id}", f"{root}/{result.published.prefix}/")
    images = [
        (each.device, f"image of {each.device}", f"{root}/images/{result.channel}/{each.device}/{each.image.version}/")
        for each in result.devices
    ]
    return [build, *images]


def show_failed_boot(channel: str, device: str, error: BootError) -> None:
    text = f"# {channel} for {device} was not released\n\nThe channel is as it was.\n\n```\n{error}\n```\n"
    create_markdown_artifact(text, key=artifact_key("boot", channel), description="Why nothing was released")


def why(result: BuildResult) -> str:
    """One sentence: what was done anew, or why nothing was."""
    anew = [step.name for step in result.steps if not step.cached]
    if not anew:
        return "nothing to build: archives, configuration and code are as they were"
    return f"done anew: {', '.join(dict.fromkeys(anew))}"


def news(result: BuildResult) -> str:
    """How the run ends, for whoever waits for it."""
    failed = "".join(f"; {lane.architecture} failed and is as it was" for lane in result.failed)
    if result.unchanged:
        return f"Nothing has changed, nothing was built{failed}"
    released = ", ".join(f"{device.device} version {device.release.version}" for device in result.devices)
    return f"Released {result.channel}: {released}, build {result.published.build_id}{failed}"


def markdown_of(result: BuildResult, changes: dict[str, tuple[str, ...]]) -> str:
    """`changes` maps a product or device to its package changes, one line each."""
    parts = [f"# {result.channel}\n\nBuild `{result.published.build_id}`: {why(result)}."]
    parts += [_failure(lane) for lane in result.failed]
    parts += [_device(device) for device in result.devices]
    parts.append(_packages(changes))
    steps = [
        (step.title or step.name, "cached" if step.cached else "done", duration(step.duration_s))
        for step in result.steps
    ]
    parts.append(f"## Steps\n\n{_table(('step', '', 'time'), steps)}")
    files = [
        (file.name, decimal_size(file.artifact.size_bytes), f"`{file.artifact.sha256[:_SHOWN_DIGITS]}…`")
        for file in result.published.files
    ]
    parts.append(f"## Published files\n\n{_table(('name', 'size', 'sha256'), files)}")
    return "\n\n".join(parts) + "\n"


def _failure(lane: ArchitectureResult) -> str:
    where = f"Its log: `{lane.log.uri}`\n\n" if lane.log else ""
    return f"## {lane.architecture} failed\n\n{where}```\n{readable(lane.failure)}\n```"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _packages(changes: dict[str, tuple[str, ...]]) -> str:
    """A list for each part with changes; the others in one line."""
    found = [f"### {part}\n\n" + "\n".join(f"- {line}" for line in lines) for part, lines in changes.items() if lines]
    same = [part for part, lines in changes.items() if not lines]
    found += [f"No change: {', '.join(same)}."] if same else []
    return "\n\n".join(["## Packages", *found])


def changed_packages(old: PackageLock | None, new: PackageLock) -> int:
    """How many packages came, went or changed."""
    found = lock_diff(old, new) if old else None
    return len(found.packages) + len(found.repacked) if found else len(new.packages)


def lock_changes(old: PackageLock | None, new: PackageLock) -> tuple[str, ...]:
    """One line per thing that came, went or changed since the lock before."""
    if not old:
        return (f"first lock: {len(new.packages)} packages",)
    return lock_diff(old, new).lines()


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
    """Without what is left of a terminal's control sequences, and of Markdown's fences."""
    return _CONTROLS.sub("", line).replace("```", "")
