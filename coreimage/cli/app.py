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

from coreimage.cli.boot import boot
from coreimage.cli.build import build
from coreimage.cli.channel import channel
from coreimage.cli.completion import completion
from coreimage.cli.deploy import deploy
from coreimage.cli.device import device
from coreimage.cli.flash import flash
from coreimage.cli.gc import gc
from coreimage.cli.import_ import import_
from coreimage.cli.interrupts import raise_interrupts
from coreimage.cli.keys import keys
from coreimage.cli.lock import lock
from coreimage.cli.man import man
from coreimage.cli.pages import pages
from coreimage.cli.pin import builds, pin, unpin
from coreimage.cli.promote import phase, promote, roll_back, tag
from coreimage.cli.query import query
from coreimage.cli.serve import serve
from coreimage.cli.settings import Settings
from coreimage.cli.up import down, up
from coreimage.cli.verify import verify
from coreimage.errors import CoreimageError

_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--store", metavar="URL", envvar="COREIMAGE_STORE", help="Where artifacts and channels are [var/store].")
@click.option("--project", type=click.Path(path_type=Path), envvar="COREIMAGE_PROJECT", help="The project file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on standard output.")
@click.option("--debug", is_flag=True, help="Everything that happens, and tracebacks.")
@click.option("-q", "--quiet", is_flag=True, help="Only warnings and results.")
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


_COMMANDS = (
    *(build, flash, query, boot),
    *(channel, device, import_, promote, roll_back, tag, phase),
    *(verify, keys, gc, lock, pages, serve),
    *(builds, pin, unpin),
    *(deploy, up, down),
    *(completion, man),
)
for _command in _COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs a command line and exits: 0 done, 1 failed, 2 wrong usage, 3 verification refused, 130 interrupted."""
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
    """The exit status of a command line."""
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
        _show(error, debug=debug)
        if as_json:
            click.echo(json.dumps(_document(error)))
        return error.exit_status
    except Exception as error:
        _show(error, debug=debug)
        return 1


def _show(error: Exception, *, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    elif isinstance(error, CoreimageError):
        click.echo(f"error: {error}", err=True)
    else:
        click.echo(f"error: {type(error).__name__}: {error}\n  → run again with --debug and report it", err=True)


def _document(error: CoreimageError) -> dict[str, Any]:
    fields = {"problem": error.problem, "where": error.where, "resolution": error.resolution}
    return {"error": {"kind": type(error).__name__, **fields}}
