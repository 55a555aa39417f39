"""The host's own apt sources: where a distribution's packages come from when a project names no mirror.

Formats: sources.list(5), one line per source and deb822.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from debian.deb822 import Deb822

from coreimage.errors import UsageError

CODENAMES = {
    "debian": {"bullseye", "bookworm", "trixie", "forky", "sid", "testing", "unstable", "oldstable", "stable"},
    "ubuntu": {"focal", "jammy", "noble", "plucky", "questing", "resolute", "devel"},
}
_POCKETS = re.compile(r"-(updates|security|backports|proposed|proposed-updates|backports-sloppy)$")
_ONE_LINE = re.compile(r"^deb\s+(?:\[[^\]]*\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)(?P<components>(?:\s+\S+)*)$")


@dataclass(frozen=True)
class AptSource:
    """One URI and suite that apt reads binary packages from."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_one_line(text: str) -> list[AptSource]:
    """Read `deb [options] URI SUITE COMPONENT…` lines; comments, `deb-src` and broken lines are passed over."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    matches = (_ONE_LINE.match(line) for line in lines)
    return [AptSource(m["uri"].rstrip("/"), m["suite"], tuple(m["components"].split())) for m in matches if m]


def parse_deb822(text: str) -> list[AptSource]:
    """Read the stanzas of a `.sources` file; those that are disabled or not of the type `deb` are left out."""
    return [
        AptSource(uri.rstrip("/"), suite, tuple(stanza.get("Components", "").split()))
        for stanza in Deb822.iter_paragraphs(text.splitlines())
        if stanza.get("Enabled", "yes").lower() not in {"no", "false", "0", "off", "without", "disable"}
        and "deb" in stanza.get("Types", "").split()
        for uri in stanza.get("URIs", "").split()
        for suite in stanza.get("Suites", "").split()
    ]


def host_sources(folder: Path = Path("/etc/apt")) -> list[AptSource]:
    """Return all sources of the host's apt, in apt's order."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    sources: list[AptSource] = []
    for file in files:
        if file.suffix in {".list", ".sources"} and file.is_file():
            text = file.read_text("utf-8", errors="replace")
            sources += parse_deb822(text) if file.suffix == ".sources" else parse_one_line(text)
    return sources


def mirror_for(sources: Iterable[AptSource], distribution: str, suite: str) -> str:
    """Return the URI that the host uses for a suite of a distribution, or for another suite of that distribution.

    Security suites have mirrors of their own. Of several mirrors, one whose path ends as the distribution's mirrors do
    is preferred: third parties use the same codenames.

    Raises:
        UsageError: The host has no such source.
    """
    codenames, security = CODENAMES[distribution], suite.endswith("-security")
    fitting = [
        source
        for source in sources
        if "main" in source.components
        and _POCKETS.sub("", source.suite) in codenames
        and source.suite.endswith("-security") == security
    ]

    def rank(source: AptSource) -> tuple[bool, bool]:
        own_path = urlsplit(source.uri).path.rsplit("/", 1)[-1].startswith(distribution)
        return source.suite != suite, not own_path

    if not fitting:
        raise UsageError(
            f"this machine's apt sources name no mirror for {distribution} {suite}",
            where="/etc/apt/sources.list.d",
            resolution="give the archive a `uri` in the project file",
        )
    return min(fitting, key=rank).uri


def keyring_paths(distribution: str, folder: Path = Path("/usr/share/keyrings")) -> Sequence[Path]:
    """Return where the packages of a distribution put its archive's keyring, newest first."""
    return [folder / f"{distribution}-archive-keyring{suffix}" for suffix in (".pgp", ".gpg")]
