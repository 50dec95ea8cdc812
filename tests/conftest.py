"""Shared fixtures: a home of its own for every test session, and small prepared data of all 12 tasks."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

# Before anything imports torch: the workers of a parallel run would otherwise fight over the same cores.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from native_data import NATIVE

from medbench.tasks.catalog import get_task
from medbench.tasks.prepare import prepare_task

# `make test-vllm` and `make test-clinical` run these in environments of their own.
collect_ignore = [
    folder for library, folder in (("vllm", "in_vllm"), ("radeval", "in_clinical")) if not find_spec(library)
]

if TYPE_CHECKING:
    from engine_helpers import Small


@pytest.fixture(scope="session", autouse=True)
def medbench_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("medbench-home")
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDBENCH_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of all 12 tasks with a handful of invented samples each."""
    root = tmp_path_factory.mktemp("native")
    data = tmp_path_factory.mktemp("prepared")
    for name, make in NATIVE.items():
        prepare_task(get_task(name), make(root / name), data, {})
    return data


@pytest.fixture(scope="session")
def picture_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `0.png` to `3.png`."""
    from engine_helpers import pictures

    folder = tmp_path_factory.mktemp("pictures")
    pictures(folder, 4)
    return folder


@pytest.fixture(scope="session")
def small_llama() -> "Small":
    """A random LLaMA of three layers; tests leave it as it is."""
    from engine_helpers import Small

    return Small()
