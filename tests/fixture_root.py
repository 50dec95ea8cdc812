"""Where the parity fixtures and the real open data are."""

import os
from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parent.parent.parent / "shared"


def fixture_folder() -> Path:
    """Return where the fixtures should be, there or not; for lists of test cases."""
    return Path(os.environ.get("MEDBENCH_FIXTURES") or _SHARED / "fixtures")


def fixtures() -> Path:
    """Return the fixture root; without one the test fails under CI and is skipped elsewhere."""
    root = fixture_folder()
    return _needed(root, f"no parity fixtures at {root}; set MEDBENCH_FIXTURES to their folder")


def realdata(name: str) -> Path:
    """Return the folder of one real data set; without it the test fails under CI and is skipped elsewhere."""
    folder = Path(os.environ.get("MEDBENCH_REALDATA") or _SHARED / "realdata") / name
    return _needed(folder, f"no real data at {folder}; set MEDBENCH_REALDATA to the folder that holds {name}")


def _needed(folder: Path, reason: str) -> Path:
    if not folder.is_dir():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
