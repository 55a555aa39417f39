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
class Source:
    """One URI and suite that apt reads binary packages from."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_one_line(text: str) -> list[Source]:
    """`deb [options] URI SUITE COMPONENT…` lines; comments, `deb-src` and broken lines are passed over."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    matches = (_ONE_LINE.match(line) for line in lines)
    return [Source(m["uri"].rstrip("/"), m["suite"], tuple(m["components"].split())) for m in matches if m]


def parse_deb822(text: str) -> list[Source]:
    """Stanzas of a `.sources` file; disabled ones and those without `deb` among their types are left out."""
    return [
        Source(uri.rstrip("/"), suite, tuple(stanza.get("Components", "").split()))
        for stanza in Deb822.iter_paragraphs(text.splitlines())
        if stanza.get("Enabled", "yes").lower() not in {"no", "false", "0", "off", "without", "disable"}
        and "deb" in stanza.get("Types", "").split()
        for uri in stanza.get("URIs", "").split()
        for suite in stanza.get("Suites", "").split()
    ]


def host_sources(folder: Path = Path("/etc/apt")) -> list[Source]:
    """All that the host's apt reads, in apt's order. Unreadable files are passed over."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for file in files:
        if file.suffix in {".list", ".sources"} and file.is_file():
            text = file.read_text("utf-8", errors="replace")
            found += parse_deb822(text) if file.suffix == ".sources" else parse_one_line(text)
    return found


def mirror_for(sources: Iterable[Source], distribution: str, suite: str) -> str:
    """The URI that the host uses for a suite of a distribution, or for another suite of it.

    A `-security` suite takes the security mirror when the host has one. Raises UsageError when no source fits.
    """
    fitting = [source for source in sources if _belongs(source, distribution)]
    security = suite.endswith("-security")
    same_pocket = [source for source in fitting if source.suite.endswith("-security") == security]
    ranked = sorted(same_pocket, key=lambda source: (source.suite != suite, _foreign_path(source, distribution)))
    if not ranked:
        raise UsageError(
            f"this machine's apt sources name no mirror for {distribution} {suite}",
            where="/etc/apt/sources.list.d",
            resolution="give the archive a `uri` in the project file",
        )
    return ranked[0].uri


def _belongs(source: Source, distribution: str) -> bool:
    return "main" in source.components and _POCKETS.sub("", source.suite) in CODENAMES[distribution]


def _foreign_path(source: Source, distribution: str) -> bool:
    """Whether the path does not end like the distribution's mirrors do; third parties use the same codenames."""
    return not urlsplit(source.uri).path.rsplit("/", 1)[-1].startswith(distribution)


def keyring_paths(distribution: str, folder: Path = Path("/usr/share/keyrings")) -> Sequence[Path]:
    return [folder / f"{distribution}-archive-keyring{suffix}" for suffix in (".pgp", ".gpg")]
