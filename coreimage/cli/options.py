"""Arguments and options that several commands have."""

from __future__ import annotations

import click


class _SizeType(click.ParamType[int]):
    """`20G` on the command line or in an environment variable, as a number of bytes."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from coreimage.errors import UsageError  # noqa: PLC0415
        from coreimage.model import size_bytes  # noqa: PLC0415

        try:
            return size_bytes(str(value), "")
        except UsageError as error:
            self.fail(f"{error.problem}: {error.resolution}", param, ctx)


SIZE = _SizeType()

device_option = click.option("--device", required=True, metavar="D", help="The device.")
devices_option = click.option(
    "--device", "devices", multiple=True, metavar="D", help="Only this device; may be repeated."
)
phase_option = click.option(
    "--phase", type=click.IntRange(0, 100), metavar="P", help="Offer it to P percent of the devices only."
)
delta_bases_option = click.option(
    "--delta-bases",
    type=click.IntRange(0, 20),
    metavar="N",
    help="Make deltas from the channel's N newest versions; 0: none [what the project file says].",
)
