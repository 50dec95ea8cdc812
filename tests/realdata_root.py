"""Where the real public data are that no test needs but some can use."""

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "realdata"


def realdata(name: str) -> Path:
    """Return the folder `name` of the real data; without it the test fails under CI and is skipped elsewhere."""
    folder = Path(os.environ.get("MEDBENCH_REALDATA", _DEFAULT)) / name
    if not folder.is_dir():
        reason = f"no real data at {folder}; set MEDBENCH_REALDATA to the folder that holds {name}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
