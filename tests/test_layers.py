"""Imports go one way only: leaderboard to harness to adapters to unimed, and everything may use tasks."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from source_files import ROOMS, source_files

FOUNDATION = "medbench.tasks.foundation"
MAY_USE = {
    "tasks": {"tasks"},
    "unimed": {"tasks", "unimed"},
    "adapters": {"tasks", "unimed", "adapters"},
    "harness": {"tasks", "adapters", "harness"},
    "leaderboard": {"tasks", "harness", "leaderboard"},
}


def imported_rooms(tree: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    inside = {name.removeprefix("medbench.") for name in names if name.startswith("medbench.")}
    return {name.partition(".")[0] for name in inside} & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    files = [(path, tree) for path, tree in source_files() if path.parts[0] == room]
    assert files
    wrong = {str(path): imported_rooms(tree) - MAY_USE[room] for path, tree in files}
    assert {path: rooms for path, rooms in wrong.items() if rooms} == {}


def test_the_ground_floor_of_tasks_imports_nothing_of_the_project() -> None:
    for path, tree in source_files():
        if path.parts[:2] != ("tasks", "foundation"):
            continue
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {m for m in modules if m.startswith("medbench.") and not m.startswith(FOUNDATION)} == set(), path


def test_the_door_imports_no_room_but_the_ground_floor() -> None:
    tree = next(tree for path, tree in source_files() if path.as_posix() == "harness/cli.py")
    modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {m for m in modules if m.startswith("medbench.") and not m.startswith(FOUNDATION)} == set()


def test_the_import_check_sees_imports_inside_functions() -> None:
    assert imported_rooms(ast.parse("def f():\n    from medbench.harness.run import run\n")) == {"harness"}


def module_name(path: Path) -> str:
    parts = ("medbench", *path.with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_anywhere(tree: ast.Module) -> set[str]:
    """Return what a module imports, inside of its functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_module_imports_itself_through_others() -> None:
    imports = {module_name(path): imported_anywhere(tree) for path, tree in source_files()}
    order = TopologicalSorter({name: (imports[name] & imports.keys()) - {name} for name in imports})
    order.prepare()
    assert len(imports) > 100
