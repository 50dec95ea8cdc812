"""Hostile bytes for every reader of the product: each case ends in a value or a declared error, soon, in little memory.

`python -m tools.fuzz` (`make fuzz`) runs them. `readers` says what is read and how, `mutations` make the cases,
`workers` run them in processes that may die. Seeds are the tiny folders of the tests.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# The tests' makers of tiny folders, which stand in no package.
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
