"""The programs that an image on this machine is made with: those of the build, where they are to be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coreimage.errors import CoreimageError, HostError, ProcessError

if TYPE_CHECKING:
    from coreimage.cli.settings import Settings
    from coreimage.client import Web
    from coreimage.process import Run

_OWN = "this machine's programs make the image: another machine's may write other bytes"


@dataclass(frozen=True)
class Tools:
    """`tree` is the digest of the tools tree that `run` starts programs from; None for the machine's own."""

    run: Run
    tree: str | None


def machine_tools(reason: str = "") -> Tools:
    """With a word on why, unless they were asked for."""
    from coreimage.logs import story  # noqa: PLC0415
    from coreimage.process import run  # noqa: PLC0415

    if reason:
        story.info(f"{reason}: {_OWN}")
    return Tools(run, None)


def find_tools(webs: Sequence[Web], open_message: Callable[[bytes, str], bytes]) -> Tools:
    """Those that the first of `webs`, each an `oem/`, offers for this machine; the machine's own where nobody does, or
    where they cannot run. Raises what is wrong with tools that are offered."""
    from coreimage.client import NotPresentError  # noqa: PLC0415
    from coreimage.image_server import client_errors  # noqa: PLC0415
    from coreimage.process import run_in  # noqa: PLC0415
    from coreimage.rootfs import machine_architecture, offered_tools, offered_tree  # noqa: PLC0415

    with client_errors():
        try:
            web, offered = offered_tools(machine_architecture(), webs=webs, open_message=open_message)
            tree = offered_tree(web, offered)
        except NotPresentError:
            return machine_tools("No tools are offered")
    run = run_in(tree)
    try:
        run(["true"])
    except (HostError, ProcessError) as error:
        return machine_tools(f"The offered tools cannot run here ({_first_line(error)})")
    return Tools(run, offered.sha256)


def own_tools(settings: Settings) -> Tools:
    """Those of the own store."""
    from coreimage.cli.server import open_session  # noqa: PLC0415
    from coreimage.image_server import StoreWeb  # noqa: PLC0415
    from coreimage.storage import open_store  # noqa: PLC0415

    session = open_session(settings, None, None)
    return find_tools([StoreWeb(open_store(settings.store_url), root="oem/")], session.message)


def _first_line(error: CoreimageError) -> str:
    return f"{error.problem}; {error.resolution}" if error.resolution else error.problem
