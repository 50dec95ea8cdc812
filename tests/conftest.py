"""Shared fixtures: a home of its own for every test session, and small prepared data of all 12 tasks."""

from pathlib import Path

import pytest
from native_data import NATIVE

from tasks.catalog import get_task
from tasks.prepare import prepare_task


@pytest.fixture(scope="session", autouse=True)
def medbench_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("medbench-home")
    patch = pytest.MonkeyPatch()
    patch.setenv("MEDBENCH_HOME", str(home))
    patch.setenv("OMP_NUM_THREADS", "1")
    return home


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared data of all 12 tasks with a handful of invented samples each."""
    root = tmp_path_factory.mktemp("native")
    data = tmp_path_factory.mktemp("prepared")
    for name, make in NATIVE.items():
        prepare_task(get_task(name), make(root / name), data, {})
    return data
