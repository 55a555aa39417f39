from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.cache import code
from tasks.cache.code import LEFT_OUT, code_digests, source_essence

ROOMS = ["boot_test", "disk_image", "publication", "rootfs", "system_image"]
TASKS = Path(code.__file__).parents[1]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A miniature of coreimage: room.stage uses parts.tool, which uses parts.core; and a step that uses room."""
    files = {
        "miniature/__init__.py": "",
        "miniature/errors.py": "class Wrong(Exception): ...\n",
        "miniature/room/__init__.py": "from miniature.room.stage import build\n",
        "miniature/room/stage.py": "from miniature import errors\nfrom miniature.parts import tool\nbuild = tool.f\n",
        "miniature/room/files/template.in": "x",
        "miniature/parts/__init__.py": "",
        "miniature/parts/tool.py": "def f():\n    from miniature.parts.core import g\n    return g() + 1\n",
        "miniature/parts/core.py": "def g():\n    return 1\n",
        "miniature/parts/unused.py": "x = 1\n",
        "step.py": "from miniature import room\n\n\ndef step():\n    return room.build()\n",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(code, "ROOT", "miniature")
    forget()
    yield tmp_path
    forget()


def forget() -> None:
    code._imports.cache_clear()
    code._root.cache_clear()


def changed(package: Path, name: str, content: str, followed: tuple[str, ...] = ()) -> set[str]:
    before = code_digests(package / "step.py", followed)
    path = package / name
    path.write_text(content)
    # A second edit within one tick of the clock keeps the time; nobody edits files that fast.
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 1))
    after = code_digests(package / "step.py", followed)
    return {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}


def test_all_that_is_imported_counts_and_nothing_else(package: Path) -> None:
    names = {"", "miniature", "miniature.room", "miniature.room.stage", "miniature.parts", "miniature.parts.tool"}
    assert set(code_digests(package / "step.py")) == names | {"miniature.parts.core", "room/files/template.in"}


def test_a_change_of_behaviour_far_below_is_no_stale_hit(package: Path) -> None:
    assert changed(package, "miniature/parts/core.py", "def g():\n    return 2\n") == {"miniature.parts.core"}
    assert changed(package, "miniature/room/files/template.in", "y") == {"room/files/template.in"}
    assert changed(package, "step.py", "from miniature import room\nstep = room.build\n") == {""}


def test_a_comment_is_no_change(package: Path) -> None:
    text = '"""Doc."""\n\n\ndef g():  # why\n    """Doc."""\n    return   1\n'
    assert changed(package, "miniature/parts/core.py", text) == set()


def test_messages_and_unused_modules_do_not_count(package: Path) -> None:
    assert changed(package, "miniature/errors.py", "class Wrong(ValueError): ...\n") == set()
    assert changed(package, "miniature/parts/unused.py", "x = 2\n") == set()


def test_a_package_that_is_named_counts_whole(package: Path) -> None:
    assert changed(package, "miniature/parts/unused.py", "x = 3\n", ("miniature.parts",)) == {"miniature.parts.unused"}
    with pytest.raises(ModuleNotFoundError):
        code_digests(package / "step.py", ("miniature.nothing",))


@pytest.mark.parametrize("room", ROOMS)
def test_no_import_of_a_real_step_is_forgotten(room: str) -> None:
    """Another reading of the import statements than the one that is tested: by regular expression, line by line."""
    found = code_digests(TASKS / f"{room}.py")
    for name in [name for name in found if name.startswith("coreimage")]:
        text = code._path(name).read_text("utf-8")
        for module in re.findall(r"^\s*(?:from|import) (coreimage[\w.]*)", text, re.M):
            assert module in found or any(module.startswith(f"coreimage.{excluded}") for excluded in LEFT_OUT), (
                name,
                module,
            )


def test_comments_docstrings_and_layout_do_not_count() -> None:
    plain = "def f(a):\n    return a + 1\n"
    dressed = '"""Module."""\n\n\ndef f( a ):  # why\n    """Doc."""\n\n    return a+1\n'
    assert source_essence(plain) == source_essence(dressed)
    assert source_essence(plain) != source_essence(plain.replace("1", "2"))
    assert ast.parse(source_essence(plain))
