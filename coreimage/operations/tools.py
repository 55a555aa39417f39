"""The programs that make an image on this machine: those of the build where a tree offers them, else the machine's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coreimage.client import NotPresentError, Web
from coreimage.errors import HostError, ProcessError
from coreimage.host.process import Run, run, run_in
from coreimage.logs import story
from coreimage.operations.tree_source import TreeSource
from coreimage.rootfs import machine_architecture, offered_tools, offered_tree
from coreimage.storage import open_store
from coreimage.system_image.web import StoreWeb, client_errors

OEM_ROOT = "oem/"
"""The prefix of the store with gadgets and tools, which images are made with."""


@dataclass(frozen=True)
class ImageTools:
    """The programs that an image is made with; `tree_sha256` is None for the machine's own."""

    run: Run
    tree_sha256: str | None


def machine_tools(reason: str = "") -> ImageTools:
    """Return the machine's own programs; log the `reason`, unless the user asked for them."""
    if reason:
        story.info(f"{reason}: this machine's programs make the image: another machine's may write other bytes")
    return ImageTools(run, None)


def find_tools(webs: Sequence[Web], open_message: Callable[[bytes, str], bytes]) -> ImageTools:
    """Return the tools that a server offers for this machine; the machine's own where none are offered or can run.

    Args:
        webs: The places to look in, each an `oem/`; the first that offers tools is taken.
        open_message: Verifies a signed message and returns its content.

    Raises:
        VerificationError: The signature or digest of the offered tools is wrong.
    """
    with client_errors():
        try:
            web, offered = offered_tools(machine_architecture(), webs=webs, open_message=open_message)
            tree = offered_tree(web, offered)
        except NotPresentError:
            return machine_tools("No tools are offered")
    run_offered = run_in(tree)
    try:
        run_offered(["true"])
    except (HostError, ProcessError) as error:
        problem = f"{error.problem}; {error.resolution}" if error.resolution else error.problem
        return machine_tools(f"The offered tools cannot run here ({problem})")
    return ImageTools(run_offered, offered.sha256)


def store_tools(tree: TreeSource) -> ImageTools:
    """Return the tools that the own store offers, or the machine's own.

    Args:
        tree: The channels of the own store, whose keyring says which offers count.
    """
    return find_tools([StoreWeb(open_store(tree.store_url), root=OEM_ROOT)], tree.open_session().message)
