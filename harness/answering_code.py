"""Which code decides what a model answers: its own adapter, what that uses, and who drives it. All else may change.

A comment in another model's adapter, a scorer or a page makes no other run; a line of the engine does.
"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from medbench.adapters.base import Adapter, LocalAdapter
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.environment import installed_version
from medbench.tasks.foundation.files import file_sha256, fingerprint

ROOT = Path(__file__).parents[1]
# Imports are followed in these rooms; of `tasks` only some files decide answers, the others score them.
_FOLLOWED = ("adapters", "unimed")
_OF_ALL = ("tasks/answers/box_space.py", "tasks/images.py", "tasks/npz.py", "tasks/spec.py")
_OF_LOCAL = ("harness/driving.py", "harness/self_test.py", "harness/engine/**/*.py")
_OF_REMOTE = ("harness/remote/asking.py",)
_LIBRARIES = ("torch", "transformers", "tokenizers", "sentencepiece", "numpy", "pillow")
_OF_PICTURES = ("pillow",)
_OURS = "medbench"
_IN_A_ROOM = 2
_GROUPS = ("medbench.adapters", "medbench.tasks")


def made_of(adapter: Adapter, tasks: Iterable[str] = ()) -> dict[str, object]:
    """Return what a run's answers depend on beside its settings, weights and data: code, libraries, the model's parts.

    Args:
        adapter: The model.
        tasks: Names of the tasks that it is asked.
    """
    plugins, parts = _plugins_of(adapter, tasks), dict(adapter.made_of)
    names = _OF_PICTURES if isinstance(adapter, RemoteAdapter) else _LIBRARIES
    return {
        "code": fingerprint(dict(sorted(answering_code(adapter).items()))),
        "libraries": {name: installed_version(name) for name in names},
        **({"plugins": plugins} if plugins else {}),
        **({"parts": parts} if parts else {}),
    }


def answering_code(adapter: Adapter) -> dict[str, str]:
    """Return the hash of each of medbench's own files that decides what a model answers, by its path."""
    local = _OF_LOCAL if isinstance(adapter, LocalAdapter) else ()
    remote = _OF_REMOTE if isinstance(adapter, RemoteAdapter) else ()
    files = {file for pattern in (*_OF_ALL, *local, *remote) for file in ROOT.glob(pattern)}
    for kind in type(adapter).__mro__:
        files |= _followed(_own_files(kind.__module__))
    return {file.relative_to(ROOT).as_posix(): file_sha256(file) for file in sorted(files)}


def _own_files(module: str) -> set[Path]:
    """Return the files of a module of ours: all of its package, where it has one of its own in the room."""
    parts = _inside(module)
    if len(parts) < _IN_A_ROOM:
        return set()
    package = ROOT / parts[0] / parts[1]
    alone = package.with_suffix(".py")
    return {alone} if alone.is_file() else set(package.rglob("*.py"))


def _inside(module: str) -> list[str]:
    """Return a module's name below `medbench`, in parts; empty for one that is not followed."""
    ours, _, rest = module.partition(".")
    parts = rest.split(".")
    return parts if ours == _OURS and parts[0] in _FOLLOWED else []


def _followed(files: set[Path]) -> set[Path]:
    """Return files with all that they import, and what these import, in the rooms that are followed."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(file)
    return found


@cache
def _imports(file: Path) -> tuple[Path, ...]:
    return tuple(path for name in _imported_names(file) for path in _files_of(name))


def _imported_names(file: Path) -> Iterator[str]:
    """Yield the modules that a file may import; of `from a import b`, where `b` may be one, `a` and `a.b`."""
    for node in _run(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands below a node, but for what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        yield child
        yield from _run(child)


def _files_of(module: str) -> Iterator[Path]:
    parts = _inside(module)
    for end in range(1, len(parts) + 1):
        path = ROOT.joinpath(*parts[:end])
        # Packages on the way are imported too.
        yield from (file for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file())


def _plugins_of(adapter: Adapter, tasks: Iterable[str]) -> dict[str, str]:
    """Return the hash of each package of others that brings the model, or a task, by the package's name."""
    wanted = dict(zip(_GROUPS, ({adapter.card.name}, set(tasks)), strict=True))
    modules = {type(adapter).__module__} | {
        entry.module for group, names in wanted.items() for entry in entry_points(group=group) if entry.name in names
    }
    packages = {module.partition(".")[0] for module in modules} - {_OURS}
    return {package: digest for package in sorted(packages) if (digest := _hash_of_package(package))}


def _hash_of_package(package: str) -> str:
    """Return the hash of a package's files, whatever they are: prompts may lie beside the code; empty without files."""
    if package == "__main__":
        file = getattr(sys.modules[package], "__file__", None)
        return file_sha256(Path(file)) if file else ""
    spec = find_spec(package)
    if spec is None:
        return ""
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        return file_sha256(Path(spec.origin)) if spec.origin and Path(spec.origin).is_file() else ""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith("."):
                digest.update(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\0".encode())
    return digest.hexdigest()
