"""Exactly which packages: resolved by the real apt over the archives' verified indexes, on a machine that has none."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from debian.deb822 import Release as ReleaseFile

from coreimage.config import did_you_mean
from coreimage.errors import (
    BuildError,
    InfrastructureError,
    NotFoundError,
    ProcessError,
    UsageError,
    VerificationError,
)
from coreimage.full_disk import full_disk, telling_full_disk
from coreimage.http import Fetch
from coreimage.model import ArchiveRelease, ArtifactRef, LockedPackage, PackageLock
from coreimage.process import Run
from coreimage.rootfs.lock import configuration, keep_previous, store_lock
from coreimage.rootfs.probe import signed_text
from coreimage.rootfs.replacement import check_replacements, offered
from coreimage.rootfs.spec import ArchiveSpec, Spec
from coreimage.storage import Store, blob_key, fetch_blob, put_blob_file
from coreimage.workspace import workspace

_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$")
_PLANNED = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$", re.M)
_ESSENTIAL = "?and(?essential,?not(?exact-name(apt)))"
"""apt counts itself among the essential packages (apt-patterns(7)); dpkg does not."""
_INDEX_LIMIT_BYTES = 256 << 20
_WHERE = "while planning packages"


def plan_packages(
    spec: Spec,
    releases: tuple[ArchiveRelease, ...],
    previous: PackageLock | None,
    *,
    tools: Mapping[str, str],
    store: Store,
    fetch: Fetch,
    run: Run,
) -> ArtifactRef:
    """A PackageLock, as JSON in the store: with the epoch of `previous` when the packages are the same.

    Raises BuildError for a package that no archive has (naming the nearest) and, in apt's own words, for what cannot
    be installed together; InfrastructureError for a mirror whose indexes are not those of its Release; HostError when
    the disk is full.
    """
    _check_names(spec.packages)
    with workspace("plan", run=run) as folder, telling_full_disk(_WHERE):
        apt = _Apt(folder, spec, releases)
        apt.lay_out(store=store, fetch=fetch)
        packages = apt.resolve(run)
    lock = PackageLock(
        architecture=spec.architecture,
        epoch=_epoch(releases),
        tools=dict(tools),
        configuration=configuration(spec),
        releases=releases,
        packages=packages,
    )
    return store_lock(store, keep_previous(previous, lock))


def planned_packages(output: str, archives: Sequence[str]) -> tuple[LockedPackage, ...]:
    """Reads `apt-get --print-uris`: URIs are `…/mirror/<n>/<filename>`, `archives[n]` is mirror n's `<uri> <suite>`."""
    found = [_planned(match, archives) for match in _PLANNED.finditer(output)]
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture)))


def _planned(match: re.Match[str], archives: Sequence[str]) -> LockedPackage:
    number, filename = re.search(r"/mirror/(\d+)/(.*)$", match["uri"]).groups()  # type: ignore[union-attr]
    name, version, architecture = unquote(match["file"]).removesuffix(".deb").split("_")
    return LockedPackage(
        name=name,
        version=version,
        architecture=architecture,
        sha256=match["sha256"],
        size_bytes=int(match["size"]),
        filename=unquote(filename),
        archive=archives[int(number)],
    )


class _Apt:
    """An apt of its own below `folder`: one local mirror per suite that holds the indexes and no package."""

    def __init__(self, folder: Path, spec: Spec, releases: tuple[ArchiveRelease, ...]) -> None:
        self._folder, self._spec, self._releases = folder, spec, releases
        self._archives = [_archive_of(spec, release) for release in releases]

    def lay_out(self, *, store: Store, fetch: Fetch) -> None:
        for name in ("etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg"):
            (self._folder / name).mkdir(parents=True)
        (self._folder / "var/lib/dpkg/status").touch()
        (self._folder / "apt.conf").write_text(_apt_conf(self._folder, self._spec.architecture))
        (self._folder / "etc/apt/preferences").write_text(preferences(self._archives, self._releases))
        lines = [
            self._mirror(number, archive, release, store=store, fetch=fetch)
            for number, (archive, release) in enumerate(zip(self._archives, self._releases, strict=True))
        ]
        (self._folder / "etc/apt/sources.list").write_text("".join(lines))

    def resolve(self, run: Run) -> tuple[LockedPackage, ...]:
        env = {"APT_CONFIG": str(self._folder / "apt.conf")}
        run(["apt-get", "-q", "update"], env=env)
        try:
            output = run(["apt-get", "-q", "--print-uris", "install", _ESSENTIAL, *self._spec.packages], env=env).output
        except ProcessError as error:
            if full_disk("\n".join(error.last_lines), _WHERE):
                raise
            known = run(["apt-cache", "pkgnames"], env=env).output.split()
            raise _unresolved(error, known) from error
        planned = planned_packages(output, [f"{release.uri} {release.suite}" for release in self._releases])
        if any(archive.may_replace is not None for archive in self._archives):
            names = [package.name for package in planned]
            mirrors = offered(run(["apt-cache", "madison", *names], env=env).output)
            check_replacements(planned, self._archives, self._releases, mirrors)
        return planned

    def _mirror(self, number: int, archive: ArchiveSpec, release: ArchiveRelease, *, store: Store, fetch: Fetch) -> str:
        mirror = self._folder / "mirror" / str(number)
        suite = mirror / "dists" / release.suite
        suite.mkdir(parents=True)
        content = fetch_blob(store, release.release, suite / "InRelease").read_bytes()
        text = signed_text(content)
        if hashlib.sha256(text).hexdigest() != release.release_sha256:
            raise VerificationError("InRelease holds more than was signed", where=f"{release.uri} {release.suite}")
        for name, sha256, size_bytes in indexes(text, archive.components, self._spec.architecture):
            ref = _index(release, name, sha256, size_bytes, by_hash=_by_hash(text), store=store, fetch=fetch)
            (suite / name).parent.mkdir(parents=True, exist_ok=True)
            fetch_blob(store, ref, suite / name)
        key = fetch_blob(store, archive.key, self._folder / f"{number}.gpg")
        options = f"[arch={self._spec.architecture} signed-by={key}]"
        return f"deb {options} copy:{mirror} {release.suite} {' '.join(archive.components)}\n"


def indexes(release: bytes, components: Sequence[str], architecture: str) -> list[tuple[str, str, int]]:
    """Path below the suite, sha256 and size of the smallest form of every Packages file that is wanted."""
    fields = ReleaseFile(release.splitlines())
    entries = {e["name"]: (e["sha256"], int(e["size"])) for e in fields.get("SHA256", [])}
    # An archive may list binary-all and yet not serve it: these two fields tell (apt, deb/debmetaindex.cc).
    folded = "Packages" in fields.get("No-Support-for-Architecture-all", "").split()
    separate = "all" in fields.get("Architectures", "").split() and not folded
    architectures = (architecture, "all") if separate else (architecture,)
    wanted = [f"{component}/binary-{arch}/Packages" for component in components for arch in architectures]
    for component in components:
        if not any(name.startswith(f"{component}/binary-{architecture}/Packages") for name in entries):
            raise BuildError(
                f"the archive has no component {component!r} for {architecture}",
                where=f"{fields.get('Origin', '')} {fields.get('Suite', '')}",
                resolution="mend `components` in the project file",
            )
    forms = [next((name + end for end in (".xz", ".gz", "") if name + end in entries), None) for name in wanted]
    return [(form, *entries[form]) for form in forms if form]


def preferences(archives: Sequence[ArchiveSpec], releases: Sequence[ArchiveRelease]) -> str:
    """apt_preferences(5): a stanza for every archive that has a pin. Raises BuildError if its Release names nothing."""
    pinned = [(a, r) for a, r in zip(archives, releases, strict=True) if a.pin_priority is not None]
    return "\n".join(f"Package: *\nPin: release {_pin(r)}\nPin-Priority: {a.pin_priority}\n" for a, r in pinned)


def _pin(release: ArchiveRelease) -> str:
    fields = [("o", release.origin), ("l", release.label), ("n", release.codename)]
    pin = ",".join(f"{key}={value}" for key, value in fields if value)
    if not release.origin and not release.label:
        raise BuildError(
            "a pin needs an archive whose Release has an Origin or a Label",
            where=f"{release.uri} {release.suite}",
            resolution="remove pin_priority, or have the archive name its origin",
        )
    return pin


def _index(
    release: ArchiveRelease, name: str, sha256: str, size_bytes: int, *, by_hash: bool, store: Store, fetch: Fetch
) -> ArtifactRef:
    ref = ArtifactRef(uri=blob_key(sha256), sha256=sha256, size_bytes=size_bytes, media_type="application/octet-stream")
    if store.head(ref.uri) is None:
        place = f"{name.rpartition('/')[0]}/by-hash/SHA256/{sha256}" if by_hash else name
        url = f"{release.uri}/dists/{release.suite}/{place}"
        with workspace("index") as folder, _mirror_in_flux(url):
            path = fetch(url, folder / "index", sha256=sha256, size_bytes=size_bytes, limit_bytes=_INDEX_LIMIT_BYTES)
            put_blob_file(store, path, ref.media_type)
    return ref


@contextmanager
def _mirror_in_flux(url: str) -> Iterator[None]:
    """An index that is not the one of its Release is most often on its way to the mirror: so says apt, too."""
    try:
        yield
    except (NotFoundError, VerificationError) as error:
        raise InfrastructureError(
            f"the mirror does not have the index that its Release names: {error.problem}",
            where=url,
            resolution="it may just be updated: run again in a while, which looks at it anew, or use another mirror",
        ) from error


def _by_hash(release: bytes) -> bool:
    return str(ReleaseFile(release.splitlines()).get("Acquire-By-Hash", "no")).lower() == "yes"


def _archive_of(spec: Spec, release: ArchiveRelease) -> ArchiveSpec:
    for archive in spec.archives:
        if archive.uri == release.uri and release.suite in archive.suites:
            return archive
    raise UsageError(
        "this release was probed for another project",
        where=f"{release.uri} {release.suite}",
        resolution="probe the archives again",
    )


def _apt_conf(folder: Path, architecture: str) -> str:
    """Read before the host's own configuration, which it switches off (apt.conf(5), APT_CONFIG)."""
    return f"""Dir "{folder}";
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::trustedparts "/dev/null";
Dir::State::status "{folder}/var/lib/dpkg/status";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::By-Hash "no";
Acquire::ForceHash "SHA256";
Acquire::Check-Valid-Until "false";
Acquire::Check-Date "false";
APT::Get::Assume-Yes "true";
"""


def _unresolved(error: ProcessError, known: Sequence[str]) -> BuildError:
    words = "\n".join(error.last_lines)
    missing = re.search(r"Unable to locate package (\S+)|Package '([^']+)' has no installation candidate", words)
    if missing:
        name = missing[1] or missing[2]
        return BuildError(
            f"no archive has a package {name!r}{did_you_mean(name, known)}",
            resolution="mend the package list in the project file, or add the archive that has it",
        )
    return BuildError(f"apt cannot install these packages together:\n{words}", resolution="mend the package list")


def _check_names(packages: Sequence[str]) -> None:
    for name in packages:
        if not _PACKAGE.match(name):
            raise UsageError(f"{name!r} is not the name of a package", resolution="write NAME or NAME=VERSION")


def _epoch(releases: Sequence[ArchiveRelease]) -> int:
    return max(int(datetime.fromisoformat(release.date).timestamp()) for release in releases)
