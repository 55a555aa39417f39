"""What `coreimage build` prints of its results: for people, and as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coreimage.cli.settings import Settings
    from coreimage.model import ArtifactRef, BootReport
    from flows.plan import StagesResult
    from flows.report.result import ArchitectureResult, BuildResult


def build_summary(result: BuildResult) -> str:
    """Say what was built and released."""
    lines = [f"Channel: {result.channel}", f"Build: {result.published.build_id}"]
    lines += [f"Device: {device.device}, version {device.release.version}" for device in result.devices]
    return "\n".join(lines)


def build_document(result: BuildResult) -> dict[str, Any]:
    """Return a build's result for programs; `image_sha256` is of the released image, which has no login."""
    devices = [
        {
            "device": device.device,
            "version": device.release.version,
            "image": device.image.image.uri,
            "image_sha256": device.image.raw_sha256,
            "boots": [_boot_document(boot) for boot in device.boots],
        }
        for device in result.devices
    ]
    return {
        "channel": result.channel,
        "build_id": result.published.build_id,
        "unchanged": result.unchanged,
        "architectures": [_architecture_document(each) for each in result.architectures],
        "devices": devices,
        "steps": [task.model_dump() for task in result.tasks],
    }


def stages_summary(settings: Settings, result: StagesResult) -> str:
    """Say what each task gave, and below it where its artifacts are."""
    lines = []
    for output in result.outputs:
        subject = f" ({output.subject})" if output.subject else ""
        lines.append(f"{output.stage}: {output.outcome or output.task}{subject}")
        lines += [f"  {name}: {_place(settings, ref)}" for name, ref in output.artifacts.items()]
    return "\n".join(lines)


def stages_document(settings: Settings, result: StagesResult) -> dict[str, Any]:
    """Return the same as `stages_summary`, for programs."""
    outputs = [
        {
            "stage": each.stage,
            "step": each.task,
            "subject": each.subject,
            "artifacts": {
                name: {"place": _place(settings, ref), "sha256": ref.sha256} for name, ref in each.artifacts.items()
            },
        }
        for each in result.outputs
    ]
    return {"channel": result.channel, "made": outputs, "steps": [task.model_dump() for task in result.tasks]}


def _place(settings: Settings, ref: ArtifactRef) -> str:
    """Return where an artifact can be looked at: a path where the store is a folder, else a URL below the store's."""
    return f"{settings.store_url.removeprefix('file://')}/{ref.uri}"


def _architecture_document(result: ArchitectureResult) -> dict[str, str]:
    return {
        "architecture": result.architecture,
        "log": result.log.uri if result.log else "",
        "failure": result.failure,
    }


def _boot_document(report: BootReport) -> dict[str, Any]:
    verdict = report.model_dump(include={"firmware", "passed", "duration_s"})
    return {**verdict, "serial_log": report.serial_log.uri}
