"""A small Debian-style archive made on the spot: real .debs, real indexes, signed by a key of its own."""

from __future__ import annotations

import gzip
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coreimage.host.process import run
from coreimage.http import Downloader

fetch = Downloader(attempts=1)
"""Once is enough: the archives are on this machine, or one mirror away."""


@dataclass
class TestKey:
    """An OpenPGP key in a GnuPG home of its own."""

    __test__ = False
    home: Path
    name: str

    @classmethod
    def make(cls, home: Path, name: str) -> TestKey:
        home.mkdir(mode=0o700, parents=True)
        key = cls(home, name)
        key.gpg("--passphrase", "", "--quick-generate-key", f"{name} <{name}@example.com>", "rsa2048", "sign", "never")
        (home / "public.asc").write_text(key.gpg("--armor", "--export"))
        return key

    @property
    def public(self) -> Path:
        return self.home / "public.asc"

    def gpg(self, *arguments: str | Path) -> str:
        argv = ["gpg", "--homedir", self.home, "--batch", "--quiet", "--no-permission-warning", *arguments]
        return run(argv).output

    def close(self) -> None:
        run(["gpgconf", "--homedir", self.home, "--kill", "all"])


@dataclass
class LocalArchive:
    """`add` packages to suites, then `publish`; publishing again after more changes moves the archive on."""

    folder: Path
    key: TestKey
    origin: str = "Test"
    label: str = "Test"
    date: str = "Tue, 26 May 2015 10:00:00 UTC"
    valid_until: str = ""
    codename: str = ""
    """The same for all suites, as Ubuntu's pockets have it; default: each suite's own name."""
    architectures: tuple[str, ...] = ("amd64",)
    _stanzas: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By suite and component."""

    @property
    def uri(self) -> str:
        return self.folder.as_uri()

    def add(
        self,
        suite: str,
        name: str,
        version: str = "1",
        *,
        architecture: str = "all",
        fields: str = "",
        content: str = "",
        component: str = "main",
        files: Mapping[str, Path | str] | None = None,
        links: Mapping[str, str] | None = None,
        folders: Sequence[str] = (),
        trees: Sequence[Path] = (),
        postinst: str = "",
    ) -> None:
        """`fields`: more control lines, such as `Depends: x\\n`. The package holds /usr/share/<name>/content, and
        `files` (copies, or texts), symbolic `links` (to what), `folders`, by their path without the leading slash;
        and all that is below the folders `trees`."""
        tree = self.folder / "build" / f"{name}_{version}_{architecture}"
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr/share" / name).mkdir(parents=True)
        (tree / "usr/share" / name / "content").write_text(content or f"{name} {version}\n")
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n"
            f"Maintainer: Nobody <nobody@example.com>\n{fields}Description: test\n"
        )
        (tree / "DEBIAN/control").write_text(control)
        if postinst:
            (tree / "DEBIAN/postinst").write_text(postinst)
            (tree / "DEBIAN/postinst").chmod(0o755)
        for other in trees:
            shutil.copytree(other, tree, symlinks=True, dirs_exist_ok=True)
        _fill(tree, files or {}, links or {}, folders)
        deb = self._pool(suite, component) / f"{tree.name}.deb"
        run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, deb], env={"SOURCE_DATE_EPOCH": "0"})
        shutil.rmtree(tree)
        self._index(suite, component, deb, control)

    def add_deb(self, suite: str, deb: Path, *, component: str = "main") -> None:
        """A .deb that somebody else made."""
        place = self._pool(suite, component) / deb.name
        shutil.copyfile(deb, place)
        control = run(["dpkg-deb", "--field", place]).output
        self._index(suite, component, place, control.rstrip("\n") + "\n")

    def publish(self) -> LocalArchive:
        for suite, components in self._stanzas.items():
            self._publish(suite, components)
        return self

    def _pool(self, suite: str, component: str) -> Path:
        pool = self.folder / "pool" / suite / component
        pool.mkdir(parents=True, exist_ok=True)
        return pool

    def _index(self, suite: str, component: str, deb: Path, control: str) -> None:
        filename = deb.relative_to(self.folder).as_posix()
        digest = hashlib.sha256(deb.read_bytes()).hexdigest()
        stanza = f"{control}Filename: {filename}\nSize: {deb.stat().st_size}\nSHA256: {digest}\n"
        self._stanzas.setdefault(suite, {}).setdefault(component, []).append(stanza)

    def _publish(self, suite: str, packages: dict[str, list[str]]) -> None:
        dists = self.folder / "dists" / suite
        # apt passes over an index whose uncompressed form the Release does not list.
        forms = {
            f"{component}/binary-{architecture}/Packages{end}": content
            for architecture in self.architectures
            for component, stanzas in packages.items()
            for plain in (_index_of(stanzas, architecture),)
            for end, content in (("", plain), (".gz", gzip.compress(plain, mtime=0)))
        }
        for name, form in forms.items():
            (dists / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".gz"):
                (dists / name).write_bytes(form)
        lines = "".join(f" {hashlib.sha256(form).hexdigest()} {len(form)} {name}\n" for name, form in forms.items())
        until = f"Valid-Until: {self.valid_until}\n" if self.valid_until else ""
        (dists / "Release").write_text(
            f"Origin: {self.origin}\nLabel: {self.label}\nSuite: {suite}\nCodename: {self.codename or suite}\n"
            f"Date: {self.date}\n{until}Architectures: {' '.join(self.architectures)}\n"
            f"Components: {' '.join(packages)}\nSHA256:\n{lines}"
        )
        (dists / "InRelease").unlink(missing_ok=True)
        self.key.gpg("--clearsign", "--output", dists / "InRelease", dists / "Release")


def _index_of(stanzas: Sequence[str], architecture: str) -> bytes:
    """What a Packages file lists: the architecture's own packages, and those of all."""
    own = {f"Architecture: {name}" for name in ("all", architecture)}
    return "".join(f"{stanza}\n" for stanza in stanzas if own & set(stanza.splitlines())).encode()


def _fill(tree: Path, files: Mapping[str, Path | str], links: Mapping[str, str], folders: Sequence[str]) -> None:
    for name in folders:
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name, source in files.items():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copy(source, target)
        else:
            target.write_text(source)
            target.chmod(0o755 if source.startswith("#!") else 0o644)
    for name, to in links.items():
        (tree / name).symlink_to(to)
