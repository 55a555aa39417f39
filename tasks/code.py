"""What a step does, as digests: of its own module and of all of coreimage that it imports, directly or not.

Derived from the import statements, so that no change of behaviour can be forgotten. Nothing is imported for it.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

ROOT = "coreimage"
LEFT_OUT = frozenset({"coreimage.cli", "coreimage.config", "coreimage.errors", "coreimage.logs"})
"""What shapes no result: a configuration's values reach a step as its inputs, messages and logs are no results."""

_Import = tuple[str, tuple[str, ...]]


def code_digests(source: Path, packages: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest by module name, and by path for other files; sorted. `source` is the step's own module, keyed ``.

    `packages` are followed besides what `source` imports. Comments, docstrings and layout do not count.
    Raises ModuleNotFoundError for a package that does not exist.
    """
    own, imports = _read(source)
    found = {"": own}
    wanted = [*packages, *_names(imports, "")]
    while wanted:
        name = wanted.pop()
        if name in found or _left_out(name):
            continue
        path = _path(name)
        found[name], imports = _read(path)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        wanted += _names(imports, package)
        if path.name == "__init__.py":
            found |= _files(path.parent)
            wanted += _modules(name, path.parent) if name in packages else []
    return dict(sorted(found.items()))


def source_essence(source: str) -> bytes:
    """Equal for sources that differ only in layout, comments and docstrings."""
    return _essence(ast.parse(source))


def _essence(tree: ast.Module) -> bytes:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [item for item in node.body if not _is_docstring(item)] or [ast.Pass()]
    return ast.unparse(tree).encode()


def _read(path: Path) -> tuple[str, tuple[_Import, ...]]:
    """Digest of what the file does, and its import statements."""
    stat = path.stat()
    return _read_once(path, stat.st_mtime_ns, stat.st_size)


@cache
def _read_once(path: Path, _mtime_ns: int, _size_bytes: int) -> tuple[str, tuple[_Import, ...]]:
    tree = ast.parse(path.read_text("utf-8"))
    imports = tuple(_imports(tree))
    return hashlib.sha256(_essence(tree)).hexdigest(), imports


def _imports(tree: ast.Module) -> Iterator[_Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), tuple(alias.name for alias in node.names)


def _names(imports: tuple[_Import, ...], package: str) -> list[str]:
    """The modules of coreimage that import statements in `package` load: with each its packages, outermost last."""
    found: list[str] = []
    for name, members in imports:
        module = resolve_name(name, package) if name.startswith(".") else name
        if module == ROOT or module.startswith(f"{ROOT}."):
            parts = module.split(".")
            found += [".".join(parts[:count]) for count in range(1, len(parts) + 1)]
            found += [f"{module}.{member}" for member in members if _exists(f"{module}.{member}")]
    return found


@lru_cache(maxsize=1)
def _root() -> Path:
    spec = find_spec(ROOT)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no package {ROOT}")
    return Path(spec.origin).parent


def _path(name: str) -> Path:
    place = _root().joinpath(*name.split(".")[1:])
    found = [path for path in (place / "__init__.py", place.with_suffix(".py")) if path.is_file()]
    if not found:
        raise ModuleNotFoundError(f"no package {name}")
    return found[0]


def _exists(name: str) -> bool:
    place = _root().joinpath(*name.split(".")[1:])
    return (place / "__init__.py").is_file() or place.with_suffix(".py").is_file()


def _modules(package: str, folder: Path) -> list[str]:
    """Every module below a package."""
    paths = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.py") if _in_package(path, folder)]
    names = [".".join([package, *path.parts]).removesuffix(".__init__") for path in paths]
    return [name for name in names if name != package]


def _in_package(path: Path, folder: Path) -> bool:
    """Not one of the scripts that are copied into images: those are files like others."""
    between = path.relative_to(folder).parents
    return all((folder / parent / "__init__.py").is_file() for parent in between)


def _files(package: Path) -> dict[str, str]:
    """Digests of the files of a package that are no modules, those of its sub-packages left out."""
    return {
        path.relative_to(_root()).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and _belongs(path, package)
    }


def _belongs(path: Path, package: Path) -> bool:
    inner = [package / parent for parent in path.relative_to(package).parents]
    owner = next(folder for folder in inner if (folder / "__init__.py").is_file())
    return owner == package and (path.suffix != ".py" or path.parent != package)


def _left_out(name: str) -> bool:
    return any(name == excluded or name.startswith(f"{excluded}.") for excluded in LEFT_OUT)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
