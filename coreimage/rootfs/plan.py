"""Plans exactly which packages: resolved by the real apt over the archives' verified indexes, on a system without any.

An extra archive brings packages of its own. It replaces a package of the distribution only where the project says so.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote

from coreimage.errors import (
    BuildError,
    InfrastructureError,
    NotFoundError,
    ProcessError,
    UsageError,
    VerificationError,
    did_you_mean,
)
from coreimage.host.disk_space import disk_full, explain_full_disk
from coreimage.host.process import Run
from coreimage.host.workspace import workspace
from coreimage.http import Fetch
from coreimage.model import ArchiveRelease, ArtifactRef, LockedPackage, PackageLock
from coreimage.rootfs.lock import configuration, keep_previous, store_lock
from coreimage.rootfs.release_file import IndexFile, index_files, signed_text
from coreimage.rootfs.spec import ArchiveSpec, Spec
from coreimage.storage import Store, blob_key, fetch_blob, put_blob_file

_PACKAGE = re.compile(r"^[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?(=[A-Za-z0-9.+:~-]+)?$")
_PRINTED_URI = re.compile(
    r"^'[^']*?/mirror/(?P<number>\d+)/(?P<path>[^']*)' (?P<file>\S+) (?P<size>\d+) SHA256:(?P<sha256>[0-9a-f]{64})$",
    re.M,
)
_MADISON = re.compile(r"^ *(?P<name>\S+) \| *(?P<version>\S+) \| \S*/mirror/(?P<number>\d+) ", re.M)
_ESSENTIAL = "?and(?essential,?not(?exact-name(apt)))"
"""apt counts itself among the essential packages (apt-patterns(7)); dpkg does not."""
_ANY = "*"
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
    """Resolve the packages of a spec to exact versions, and store the lock.

    Args:
        spec: What is to be built.
        releases: How the suites of the spec's archives stand, in their order.
        previous: The lock before, of which the epoch and the releases are kept when the packages are the same.
        tools: Versions of the tools that will be used, for the lock.
        store: Where the InRelease files are, and where indexes and the lock go.
        fetch: Downloads a file.
        run: Runs apt.

    Returns:
        A PackageLock, as JSON in the store.

    Raises:
        UsageError: The spec has a name that no package can have.
        BuildError: No archive has a package, the packages cannot be installed together (in apt's own words), or an
            extra archive would replace a package of the distribution.
        InfrastructureError: A mirror has other indexes than its Release names.
        HostError: The disk is full.
    """
    for name in spec.packages:
        if not _PACKAGE.match(name):
            raise UsageError(f"{name!r} is not the name of a package", resolution="write NAME or NAME=VERSION")
    archives = [_archive_of(spec, release) for release in releases]
    with workspace("plan", run=run) as folder, explain_full_disk(_WHERE):
        _lay_out_apt(folder, spec, archives, releases, store=store, fetch=fetch)
        packages = _resolve(folder, spec, archives, releases, run=run)
    lock = PackageLock(
        architecture=spec.architecture,
        epoch=max(int(datetime.fromisoformat(release.date).timestamp()) for release in releases),
        tools=dict(tools),
        configuration=configuration(spec),
        releases=releases,
        packages=packages,
    )
    return store_lock(store, keep_previous(previous, lock))


def _archive_of(spec: Spec, release: ArchiveRelease) -> ArchiveSpec:
    for archive in spec.archives:
        if archive.uri == release.uri and release.suite in archive.suites:
            return archive
    raise UsageError(
        "this release was probed for another project",
        where=f"{release.uri} {release.suite}",
        resolution="probe the archives again",
    )


def _lay_out_apt(
    folder: Path,
    spec: Spec,
    archives: Sequence[ArchiveSpec],
    releases: Sequence[ArchiveRelease],
    *,
    store: Store,
    fetch: Fetch,
) -> None:
    """Make an apt of its own below `folder`: for each suite a local mirror that has the indexes, and no package."""
    for name in ("etc/apt", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial", "var/lib/dpkg"):
        (folder / name).mkdir(parents=True)
    (folder / "var/lib/dpkg/status").touch()
    (folder / "apt.conf").write_text(_APT_CONF.format(folder=folder, architecture=spec.architecture))
    (folder / "etc/apt/preferences").write_text(preferences(archives, releases))
    sources = []
    for number, (archive, release) in enumerate(zip(archives, releases, strict=True)):
        mirror = folder / "mirror" / str(number)
        suite = mirror / "dists" / release.suite
        suite.mkdir(parents=True)
        text = signed_text(fetch_blob(store, release.release, suite / "InRelease").read_bytes())
        if hashlib.sha256(text).hexdigest() != release.release_sha256:
            raise VerificationError(
                "InRelease has more in it than was signed",
                where=f"{release.uri} {release.suite}",
                resolution="use another mirror",
            )
        for index in index_files(text, archive.components, spec.architecture):
            (suite / index.name).parent.mkdir(parents=True, exist_ok=True)
            fetch_blob(store, _stored_index(release, index, store=store, fetch=fetch), suite / index.name)
        key = fetch_blob(store, archive.key, folder / f"{number}.gpg")
        options = f"[arch={spec.architecture} signed-by={key}]"
        sources.append(f"deb {options} copy:{mirror} {release.suite} {' '.join(archive.components)}\n")
    (folder / "etc/apt/sources.list").write_text("".join(sources))


# Read before the host's own configuration, which it switches off (apt.conf(5), APT_CONFIG).
_APT_CONF = """Dir "{folder}";
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


def _stored_index(release: ArchiveRelease, index: IndexFile, *, store: Store, fetch: Fetch) -> ArtifactRef:
    """The index in the store, downloaded if it is not there.

    An index that is not the one of its Release is most often on its way to the mirror; apt says so, too.
    """
    ref = ArtifactRef(
        uri=blob_key(index.sha256),
        sha256=index.sha256,
        size_bytes=index.size_bytes,
        media_type="application/octet-stream",
    )
    if store.head(ref.uri) is None:
        url = f"{release.uri}/dists/{release.suite}/{index.path}"
        with workspace("index") as folder:
            try:
                path = fetch(
                    url,
                    folder / "index",
                    sha256=index.sha256,
                    size_bytes=index.size_bytes,
                    limit_bytes=_INDEX_LIMIT_BYTES,
                )
                put_blob_file(store, path, ref.media_type)
            except (NotFoundError, VerificationError) as error:
                raise InfrastructureError(
                    f"the mirror does not have the index that its Release names: {error.problem}",
                    where=url,
                    resolution="the mirror may just be updated: run again in a while, or use another mirror",
                ) from error
    return ref


def preferences(archives: Sequence[ArchiveSpec], releases: Sequence[ArchiveRelease]) -> str:
    """Compose apt_preferences(5): a stanza for every archive that has a pin.

    Raises:
        BuildError: The Release of such an archive has neither an Origin nor a Label to tell it by.
    """
    stanzas = []
    for archive, release in zip(archives, releases, strict=True):
        if archive.pin_priority is None:
            continue
        if not release.origin and not release.label:
            raise BuildError(
                "a pin needs an archive whose Release has an Origin or a Label",
                where=f"{release.uri} {release.suite}",
                resolution="remove pin_priority, or have the archive name its origin",
            )
        fields = [("o", release.origin), ("l", release.label), ("n", release.codename)]
        pin = ",".join(f"{key}={value}" for key, value in fields if value)
        stanzas.append(f"Package: *\nPin: release {pin}\nPin-Priority: {archive.pin_priority}\n")
    return "\n".join(stanzas)


def _resolve(
    folder: Path, spec: Spec, archives: Sequence[ArchiveSpec], releases: Sequence[ArchiveRelease], *, run: Run
) -> tuple[LockedPackage, ...]:
    env = {"APT_CONFIG": str(folder / "apt.conf")}
    run(["apt-get", "-q", "update"], env=env)
    try:
        output = run(["apt-get", "-q", "--print-uris", "install", _ESSENTIAL, *spec.packages], env=env).output
    except ProcessError as error:
        if disk_full("\n".join(error.last_lines), _WHERE):
            raise
        known = run(["apt-cache", "pkgnames"], env=env).output.split()
        raise _unresolved(error, known) from error
    packages = planned_packages(output, [f"{release.uri} {release.suite}" for release in releases])
    if any(archive.may_replace is not None for archive in archives):
        madison = run(["apt-cache", "madison", *(package.name for package in packages)], env=env).output
        check_replacements(packages, archives, releases, offering_mirrors(madison))
    return packages


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


def planned_packages(output: str, archives: Sequence[str]) -> tuple[LockedPackage, ...]:
    """Read what `apt-get --print-uris` prints.

    Args:
        output: Lines of which the URIs are `…/mirror/<number>/<path>`.
        archives: `<uri> <suite>` of the archive of each mirror.

    Returns:
        The packages, sorted by name and architecture.
    """
    packages = []
    for match in _PRINTED_URI.finditer(output):
        name, version, architecture = unquote(match["file"]).removesuffix(".deb").split("_")
        packages.append(
            LockedPackage(
                name=name,
                version=version,
                architecture=architecture,
                sha256=match["sha256"],
                size_bytes=int(match["size"]),
                filename=unquote(match["path"]),
                archive=archives[int(match["number"])],
            )
        )
    return tuple(sorted(packages, key=lambda package: (package.name, package.architecture)))


def offering_mirrors(madison: str) -> dict[str, set[int]]:
    """Read what `apt-cache madison` prints: the numbers of the mirrors that offer a package, by its name."""
    mirrors: dict[str, set[int]] = {}
    for match in _MADISON.finditer(madison):
        mirrors.setdefault(match["name"], set()).add(int(match["number"]))
    return mirrors


def check_replacements(
    packages: Iterable[LockedPackage],
    archives: Sequence[ArchiveSpec],
    releases: Sequence[ArchiveRelease],
    mirrors: Mapping[str, set[int]],
) -> None:
    """Refuse packages of an extra archive that the distribution has too, unless the archive's `may_replace` has them.

    Args:
        packages: What was planned.
        archives: The archive of each mirror.
        releases: The release of each mirror.
        mirrors: The numbers of the mirrors that offer a package, by its name.

    Raises:
        BuildError: For the first such package.
    """
    distribution = {number for number, archive in enumerate(archives) if archive.may_replace is None}
    numbers = {f"{release.uri} {release.suite}": number for number, release in enumerate(releases)}
    for package in packages:
        allowed = archives[numbers[package.archive]].may_replace
        if allowed is None or package.name in allowed or _ANY in allowed:
            continue
        if mirrors.get(package.name, set()) & distribution:
            raise BuildError(
                f"it would replace the distribution's {package.name} with its {package.version}",
                where=package.archive,
                resolution=f"if that is wanted, put {package.name} into the archive's `may_replace`; "
                "if not, give it a pin_priority below 500",
            )
