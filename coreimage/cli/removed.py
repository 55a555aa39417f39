"""What `ubuntu-device-flash` had and we do not: given anywhere, it is refused with what replaces it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from coreimage.errors import UsageError

_Command = TypeVar("_Command", bound=Callable[..., Any])

_REPLACEMENTS = {
    "--store": "the snap store of 2015 is gone: --oem FILE is a local gadget, `coreimage --store URL …` our store",
    "--install": "snaps are not installed any more: name packages in the project file, and build",
    "--tls-skip-verify": "certificates are always checked: name a CA of your own in REQUESTS_CA_BUNDLE",
    "personal": "`coreimage flash core` makes an image of any channel: name it with --channel",
    "touch": "UBports has its server and installer now; `coreimage flash core` makes disk images",
    "MANPAGE": "unset the variable; `coreimage man` writes the manual pages",
}


def removed_option(name: str, **attributes: Any) -> Callable[[_Command], _Command]:
    """Decorate a command so that it refuses an option with what replaces it."""

    def refuse(_context: click.Context, _option: click.Parameter, value: object) -> None:
        if value:
            refuse_removed(name)

    return click.option(name, hidden=True, callback=refuse, expose_value=False, help="Removed.", **attributes)


def refuse_removed(name: str) -> None:
    """Raise UsageError, which says what replaces `name`."""
    raise UsageError(f"{name} was removed", resolution=_REPLACEMENTS[name])
