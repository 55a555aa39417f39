"""Nothing secret leaves: every artefact that is made of this folder is made with secrets planted, and searched."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from docker.utils.build import tar as build_context

from coreimage.errors import UsageError
from coreimage.project.bundle import store_project
from coreimage.signing import Role, create_keys, write_backup
from coreimage.storage.directory import DirectoryStore

REPOSITORY = Path(__file__).parents[2]
SECRET = b"planted secret 5e1f"
PLACES = (
    "var/keys/archive-master/private-keys-v1.d/{}.key",
    "var/up/secret.json",
    ".env",
    "keys.tar",
    "infra/containers/.env",
    "infra/systemd/worker.env",
    "coreimage/var/keys/image-master/private-keys-v1.d/{}.key",
    "coreimage/private.key",
    "coreimage/device/files/var/keys/private-keys-v1.d/{}.key",
    "deployments/var/keys/image-signing/private-keys-v1.d/{}.key",
    "deployments/.env",
    "deployments/gadgets/generic_amd64/backup.tar",
    "tasks/keys/cdimage/private-keys-v1.d/{}.key",
    "flows/.netrc",
    "tests/var/keys/private.asc",
    "docs/secret.pem",
)
"""Where people have secrets: the usual folders, and those below the packages, into which globs reach."""
EXTRA = {"PKG-INFO", "setup.cfg"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of this repository as they are checked out, and a secret in each of the places."""
    folder = tmp_path_factory.mktemp("planted") / "coreimage"
    for name in tracked():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, target, follow_symlinks=False)
    for number, place in enumerate(PLACES):
        path = folder / place.format(f"{number:040X}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SECRET)
    return folder


def tracked() -> list[str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return [name for name in listing.stdout.split("\0") if name and (REPOSITORY / name).exists()]


def of_packages() -> set[str]:
    """The files that the program consists of."""
    return {name for name in tracked() if name.split("/")[0] in {"coreimage", "tasks", "flows", "deployments"}}


def in_tar(file: io.BufferedIOBase) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                yield member.name, content.read()


@pytest.mark.parametrize("ignored", [".containerignore", ".dockerignore"])
def test_the_context_of_a_container_image(planted: Path, ignored: str) -> None:
    lines = [line for line in (planted / ignored).read_text().splitlines() if line and not line.startswith("#")]
    with build_context(str(planted), exclude=lines, dockerfile=("infra/containers/Containerfile", None)) as context:
        files = dict(in_tar(context))
    assert [name for name, content in files.items() if SECRET in content] == []
    assert of_packages() <= files.keys()
    assert {"pyproject.toml", "requirements.lock", "README.md", "infra/install"} <= files.keys()
    assert not [name for name in files if name.startswith(("tests", "docs", ".git", ".venv", "var"))]


def built(planted: Path, kind: str, folder: Path) -> Path:
    code = f"import setuptools.build_meta as backend; print(backend.build_{kind}({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=planted, check=True, capture_output=True)
    (artefact,) = folder.iterdir()
    return artefact


def test_the_wheel(planted: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(built(planted, "wheel", tmp_path)) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    assert [name for name, content in files.items() if SECRET in content] == []
    assert of_packages() <= files.keys()


def test_the_source_distribution(planted: Path, tmp_path: Path) -> None:
    with built(planted, "sdist", tmp_path).open("rb") as file:
        files = {name.partition("/")[2]: content for name, content in in_tar(file)}
    assert [name for name, content in files.items() if SECRET in content] == []
    assert of_packages() <= files.keys()


@pytest.mark.parametrize("kind", ["home", "backup", "armoured"])
def test_a_project_in_the_store(kind: str, tmp_path: Path) -> None:
    """An overlay is packed as it is: keys in it are refused, not left out, for an image would get them too."""
    shutil.copytree(REPOSITORY / "docs/examples/my-device", tmp_path / "docs/examples/my-device")
    shutil.copytree(REPOSITORY / "deployments/gadgets", tmp_path / "deployments/gadgets")
    project = tmp_path / "docs/examples/my-device/project.yaml"
    store = DirectoryStore(tmp_path / "store")
    assert store_project(project, store=store)
    stored = [info.key for info in store.list()]
    overlay = project.parent / "overlay"
    if kind == "armoured":
        (overlay / "key.asc").write_text("-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nabc\n")
    else:
        keys = overlay / "var/keys" if kind == "home" else tmp_path / "keys"
        create_keys(keys, bits=dict.fromkeys(Role, 1024))
        if kind == "backup":
            write_backup(keys, overlay / "backup.tar")
    with pytest.raises(UsageError, match="a private key would go into the store"):
        store_project(project, store=store)
    assert [info.key for info in store.list()] == stored
