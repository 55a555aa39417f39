"""The command itself: global options, exit statuses, and how errors are shown."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from coreimage.cli.command_folder import CommandFolder
from coreimage.cli.interrupts import raise_interrupts
from coreimage.cli.settings import Settings
from coreimage.errors import CoreimageError

_INTERRUPTED = 130


@click.group(
    cls=CommandFolder,
    package="coreimage.cli.commands",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option("--store", metavar="URL", envvar="COREIMAGE_STORE", help="Where artifacts and channels are [var/store].")
@click.option("--project", type=click.Path(path_type=Path), envvar="COREIMAGE_PROJECT", help="The project file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
@click.option("--debug", is_flag=True, help="Show everything that happens, and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Show only warnings and results.")
@click.version_option(package_name="coreimage")
@click.pass_context
def cli(
    context: click.Context, store: str | None, project: Path | None, as_json: bool, debug: bool, quiet: bool
) -> None:
    """Build, publish and update operating-system images.

    \b
    Example:
      coreimage build debian-core/13/edge --output x86.img
      coreimage boot x86.img
    """
    context.obj = Settings(store=store, project=project, as_json=as_json, debug=debug, quiet=quiet)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit: 0 done, 1 failed, 2 wrong usage, 3 verification refused, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    raise_interrupts()
    status = run(words)
    if status == _INTERRUPTED:
        # Everything is cleaned up; a thread that waits for a server that hangs must not hold us.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def run(words: Sequence[str]) -> int:
    """Run a command line and return its exit status."""
    debug, as_json = "--debug" in words, "--json" in words
    try:
        return int(cli.main(args=list(words), prog_name="coreimage", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted: nothing partial is left; run the same command again to go on.", err=True)
        return _INTERRUPTED
    except CoreimageError as error:
        _show(error, f"error: {error}", debug=debug)
        if as_json:
            click.echo(json.dumps(_document(error)))
        return error.exit_status
    except Exception as error:
        _show(error, f"error: {type(error).__name__}: {error}\n  → run again with --debug and report it", debug=debug)
        return 1


def _show(error: Exception, message: str, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    else:
        from coreimage.logs import printable  # noqa: PLC0415

        click.echo(printable(message), err=True)


def _document(error: CoreimageError) -> dict[str, Any]:
    fields = {"problem": error.problem, "where": error.where, "resolution": error.resolution}
    return {"error": {"kind": type(error).__name__, **fields}}
