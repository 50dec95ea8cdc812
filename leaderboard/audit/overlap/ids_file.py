"""Ids that the native files lack, given by the user: the lesion of a DermaMNIST picture, the scan of a slice."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_numbered_json_lines

Ids = Mapping[str, Mapping[str, Mapping[str, str]]]
"""By task and sample, ids by name."""


def read_ids(paths: Sequence[Path]) -> Ids:
    """Read JSON lines like `{"task": "dermamnist", "sample_id": "test/12", "lesion": "HAM_0000118"}`.

    Raises:
        DataError: If a line has no task or sample_id, or an id that is no text or number.
    """
    found: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for path in paths:
        for number, row in read_numbered_json_lines(path):
            task, sample = row.pop("task", None), row.pop("sample_id", None)
            if not isinstance(task, str) or not isinstance(sample, str):
                raise DataError(f"{path}, line {number} has no task or no sample_id.", "Give both as texts.")
            wrong = next((name for name, value in row.items() if not isinstance(value, str | int)), None)
            if wrong is not None:
                raise DataError(f"{path}, line {number}: the id {wrong!r} is no text.", "Give ids as texts.")
            found[task][sample] = {name: str(value) for name, value in row.items()}
    return found
