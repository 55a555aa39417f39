"""What a chroot's scripts can reach, what a killed build leaves, and that the builder does not show in the result."""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from coreimage.host.process import Completed, run, spawn
from coreimage.model import RootfsBuild
from coreimage.rootfs import chroot
from coreimage.rootfs.unpacked_tools import unpacked_tools
from coreimage.storage import open_store, read_blob
from tests.harness.archive import LocalArchive, TestKey
from tests.harness.stranger import built_by_stranger, search, text_in
from tests.harness.tiny import SUITE, build_tiny, tiny_archive, tiny_project
from tests.harness.tools import SharedTools

HOSTILE = """#!/bin/sh
exec > /etc/report-@WHO@ 2>&1
echo "environment:"; env
echo "network:"; ls /sys/class/net
@SEARCH@
for place in usr etc var/lib/dpkg; do
    (: > "/proc/1/root/$place/coreimage-was-here") 2>/dev/null && echo "WROTE /proc/1/root/$place"
done
kill -9 @OUTSIDER@ 2>/dev/null && echo "KILLED @OUTSIDER@"
echo done
"""


_HOOK = {"PATH", "HOME", "LANG", "SOURCE_DATE_EPOCH", "PWD", "OLDPWD", "SHLVL", "_"}
_APT = {"USER", "APT_CONFIG", "LC_ALL", "LANGUAGE", "TZ", "INITRD", "DEBIAN_FRONTEND", "DEBCONF_NONINTERACTIVE_SEEN"}
_ALLOWED = {"hook": _HOOK, "script": _HOOK | _APT}
"""What they may see of an environment, besides what dpkg says of itself."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="sandbox-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="module")
def archive(folder: Path) -> Iterator[LocalArchive]:
    key = TestKey.make(folder / "key", "tiny")
    archive = tiny_archive(folder / "archive", key)
    archive.add(SUITE, "capable", postinst="#!/bin/sh\nsetcap cap_net_raw+ep /usr/share/capable/content\n")
    yield archive.publish()
    key.close()


def in_process(home: Path, project: Path, _tools: SharedTools | None = None) -> RootfsBuild:
    return build_tiny(project, (home / "store").as_uri())


def by_tools(home: Path, project: Path, tools: SharedTools) -> RootfsBuild:
    return build_tiny(project, (home / "store").as_uri(), tools.run)


def as_user(home: Path, project: Path, _tools: SharedTools | None = None) -> RootfsBuild:
    imports, words = "from tests.harness.tiny import build_tiny", (str(project), (home / "store").as_uri())
    return built_by_stranger(imports, "build_tiny(Path(argv[1]), argv[2])", home, *words)


def as_user_by_tools(home: Path, project: Path, tools: SharedTools) -> RootfsBuild:
    tree = unpacked_tools(tools.tools, store=tools.store, folder=home / "cache")
    imports = "from tests.harness.tiny import build_tiny; from coreimage.host.process import run_in"
    words = str(project), (home / "store").as_uri(), str(tree)
    return built_by_stranger(imports, "build_tiny(Path(argv[1]), argv[2], run_in(Path(argv[3])))", home, *words)


Build = Callable[[Path, Path, SharedTools], RootfsBuild]


def home_of(folder: Path, name: str) -> Path:
    home = folder / name
    home.mkdir()
    return home


def test_who_builds_where_does_not_show(folder: Path, archive: LocalArchive) -> None:
    first, second = home_of(folder, "first"), home_of(folder, "second-and-longer")
    capable = ("packages: [editor]\n      hooks", "packages: [capable]\n      hooks")
    ours = in_process(first, tiny_project(first, archive, capable))
    theirs = as_user(second, tiny_project(second, archive, capable))
    assert ours.rootfs == theirs.rootfs
    assert ours.lock == theirs.lock
    with tarfile.open(fileobj=io.BytesIO(read_blob(open_store((first / "store").as_uri()), ours.rootfs))) as tar:
        assert "SCHILY.xattr.security.capability" in tar.getmember("usr/share/capable/content").pax_headers


def test_whether_it_was_made_in_memory_or_on_disk_does_not_show(
    folder: Path, archive: LocalArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of(folder, "memory")
    project = tiny_project(home, archive, ("packages: [editor]", "packages: [capable]"))
    started: list[str] = []

    def recording(argv: Sequence[str | Path], **options: Any) -> Completed:
        started.append(" ".join(map(str, argv)))
        return run(argv, **options)

    def built(free_bytes: int) -> RootfsBuild:
        started.clear()
        monkeypatch.setattr(chroot, "available_bytes", lambda: free_bytes)
        return build_tiny(project, (home / f"store-{free_bytes}").as_uri(), recording)

    in_memory = built(1 << 40)
    assert any("-t tmpfs -o mode=0755,size=" in argv for argv in started)
    on_disk = built(0)
    assert not any("-t tmpfs -o mode=0755,size=" in argv for argv in started)
    assert in_memory.rootfs == on_disk.rootfs


@pytest.mark.parametrize("build", [in_process, as_user, by_tools, as_user_by_tools])
def test_hostile_hooks_and_maintainer_scripts_reach_nothing(
    folder: Path, archive: LocalArchive, tools: SharedTools, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the store's credentials")
    monkeypatch.setenv("https_proxy", "http://user:password@proxy.test")
    home, name = home_of(folder, f"hostile-{build.__name__}"), build.__name__.replace("_", "-")
    (home / "secret").write_text("signing key\n")
    with spawn(["sleep", "31536"]) as outsider:
        words = {"@SEARCH@": search(home / "secret"), "@OUTSIDER@": str(outsider.pid)}
        hostile = HOSTILE
        for word, value in words.items():
            hostile = hostile.replace(word, value)
        archive.add(SUITE, f"hostile-{name}", postinst=hostile.replace("@WHO@", "script"))
        archive.publish()
        (home / "hook.sh").write_text(hostile.replace("@WHO@", "hook"))
        changes = ("packages: [editor]", f"packages: [hostile-{name}]"), ("hooks: []", "hooks: [hook.sh]")
        built = build(home, tiny_project(home, archive, *changes), tools)
        assert outsider.running()
    reports = {who: text_in(built, f"etc/report-{who}", (home / "store").as_uri()) for who in _ALLOWED}
    for who, report in reports.items():
        assert report.endswith("done\n")
        assert not [line for line in report.splitlines() if line.startswith(("FOUND", "WROTE", "KILLED"))], report
        environment = report.partition("environment:\n")[2].partition("network:\n")[0]
        names = {line.partition("=")[0] for line in environment.splitlines() if not line.startswith("DPKG_")}
        assert names <= _ALLOWED[who]
        assert str(home) not in environment
        assert report.partition("network:\n")[2].splitlines()[0] == "lo"
    assert report.partition("network:\n")[2].splitlines()[1] == "done"
