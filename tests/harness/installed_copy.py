"""What infra/install leaves below /opt/coreimage, of this very environment, for a machine with the same Python."""

from __future__ import annotations

import io
import re
import sys
import tarfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import IO

from packaging.requirements import Requirement

from coreimage.host.process import run
from tests.harness.ordinary_user import ROOT_DIR

OWN = ("coreimage", "flows", "tasks", "deployments")
_PROGRAMS = {"prefect": "prefect.cli:app", "coreimage": "coreimage.cli:main"}
_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_ENTRY = re.compile(r"^([A-Za-z0-9][^ ]*==.*?) \\$", re.MULTILINE)


def write_installed(target: IO[bytes], place: str, python: str, folder: Path) -> None:
    """A tar of what stands in the folder `place` of that machine: a virtual environment with all that the lock names.

    `python` is that machine's, such as 3.11.2; what the lock has for it alone is brought into `folder` first.
    Compiled modules come along: on an emulated machine, compiling them takes minutes.
    """
    packages = f".venv/lib/python{_VERSION}/site-packages"
    with tarfile.open(fileobj=target, mode="w|") as tar:
        _file(tar, ".venv/pyvenv.cfg", "home = /usr/bin\ninclude-system-site-packages = false\n")
        _link(tar, ".venv/bin/python3", "/usr/bin/python3")
        for name, entry in _PROGRAMS.items():
            module, _, function = entry.partition(":")
            text = f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            _file(tar, f".venv/bin/{name}", f"#!{place}/.venv/bin/python3\n{text}", mode=0o755)
        for path, name in _locked():
            tar.add(path, f"{packages}/{name}" if not name.startswith("../") else f".venv/bin/{path.name}")
        for path in _for_it_alone(python, folder):
            tar.add(path, f"{packages}/{path.name}")
        for own in OWN:
            tar.add(ROOT_DIR / own, f"{packages}/{own}")


def _locked() -> Iterator[tuple[Path, str]]:
    """Files of the distributions that requirements.lock names, with their places below site-packages."""
    for requirement in _requirements():
        try:
            files = distribution(requirement.name).files or []
        except PackageNotFoundError:  # of another Python or system
            continue
        for file in files:
            path = Path(str(file.locate()))
            if path.is_file() and (not str(file).startswith("../") or path.name == "weed"):
                yield path, str(file)


def _for_it_alone(python: str, folder: Path) -> Iterator[Path]:
    """Packages, which must not be compiled ones."""
    wanted = [
        f"{requirement.name}{requirement.specifier}"
        for requirement in _requirements()
        if requirement.marker
        and requirement.marker.evaluate({"python_full_version": python})
        and not requirement.marker.evaluate()
    ]
    if wanted:
        run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder, *wanted])
        yield from folder.iterdir()


def _requirements() -> list[Requirement]:
    return [Requirement(entry) for entry in _ENTRY.findall((ROOT_DIR / "requirements.lock").read_text())]


def _file(tar: tarfile.TarFile, name: str, text: str, mode: int = 0o644) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(text.encode()), mode
    tar.addfile(member, io.BytesIO(text.encode()))


def _link(tar: tarfile.TarFile, name: str, to: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = tarfile.SYMTYPE, to
    tar.addfile(member)
