"""The digests of a task's code: of its own module, and of all of coreimage that it imports, directly or not.

They follow the import statements, so that no change of behaviour can be missed. No module is imported for them.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import grimp

ROOT = "coreimage"
LEFT_OUT = ("cli", "project.config", "errors", "logs")
"""Modules that shape no result: the values of a configuration reach a task as inputs; messages are no results."""


def code_digests(source: Path, packages: Iterable[str] = ()) -> dict[str, str]:
    """Return a digest for each module that a task runs, and for each file in the packages of these modules.

    Args:
        source: The file of the task's own module, whose digest has the key "".
        packages: Packages of coreimage that count as a whole, besides those that `source` imports.

    Returns:
        SHA-256 digests by module name, and by path for other files, sorted. Comments, docstrings and layout do not
        count.

    Raises:
        ModuleNotFoundError: A package does not exist.
    """
    graph, tree = _imports(), ast.parse(source.read_text("utf-8"))
    digests = {"": hashlib.sha256(_essence(tree)).hexdigest()}
    wanted = [*_imported_names(tree)]
    for package in packages:
        if package not in graph.modules:
            raise ModuleNotFoundError(f"no package {package}")
        wanted += [package, *graph.find_descendants(package)]
    while wanted:
        name = wanted.pop()
        if name in digests or name not in graph.modules or _left_out(name):
            continue
        path = _path(name)
        digests[name] = _digest(path, path.stat().st_mtime_ns)
        # The import of a module also runs the packages that it is in.
        wanted += [*graph.find_modules_directly_imported_by(name), name.rpartition(".")[0]]
        if path.name == "__init__.py":
            digests |= _files(path.parent)
    return dict(sorted(digests.items()))


def source_essence(source: str) -> bytes:
    """Return a source text without layout, comments and docstrings: equal for texts that do the same."""
    return _essence(ast.parse(source))


def _essence(tree: ast.Module) -> bytes:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_docstring(item)] or [ast.Pass()]
    return ast.unparse(tree).encode()


@cache
def _imports() -> grimp.ImportGraph:
    """Return the modules of coreimage, and the imports of each."""
    return grimp.build_graph(ROOT, cache_dir=None)


def _imported_names(tree: ast.Module) -> Iterator[str]:
    """Return every name that a module imports, whether it names a module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _digest(path: Path, _mtime_ns: int) -> str:
    return hashlib.sha256(source_essence(path.read_text("utf-8"))).hexdigest()


@cache
def _root() -> Path:
    spec = find_spec(ROOT)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {ROOT}")
    return Path(spec.origin).parent


def _left_out(name: str) -> bool:
    return f"{name}.".startswith(tuple(f"{ROOT}.{excluded}." for excluded in LEFT_OUT))


def _path(name: str) -> Path:
    place = _root().joinpath(*name.split(".")[1:])
    package = place / "__init__.py"
    return package if package.is_file() else place.with_suffix(".py")


def _files(package: Path) -> dict[str, str]:
    """Return the digests of the files of a package that are no modules, without those of its sub-packages.

    Scripts that are copied into images are such files: they are in folders without an `__init__.py`.
    """
    return {
        path.relative_to(_root()).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and _belongs(path, package)
    }


def _belongs(path: Path, package: Path) -> bool:
    inner = [package / parent for parent in path.relative_to(package).parents]
    owner = next(folder for folder in inner if (folder / "__init__.py").is_file())
    return owner == package and (path.suffix != ".py" or path.parent != package)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
