"""Where the parity fixtures are."""

import os
from pathlib import Path

import pytest

_DEFAULT = Path(__file__).resolve().parent.parent.parent / "shared" / "fixtures"


def fixtures() -> Path:
    """Return the fixture root; without one the test fails under CI and is skipped elsewhere."""
    root = Path(os.environ.get("MEDBENCH_FIXTURES", _DEFAULT))
    if not root.is_dir():
        reason = f"no parity fixtures at {root}; set MEDBENCH_FIXTURES to their folder"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return root
