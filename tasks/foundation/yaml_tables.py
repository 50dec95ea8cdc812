"""YAML files that hold one table."""

from pathlib import Path
from typing import Any

import yaml

from medbench.tasks.foundation.errors import UsageError

# The safe loader in C is forty times as fast; not every build of PyYAML has it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml_table(path: Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a table.

    Raises:
        UsageError: If it cannot be read, is not UTF-8 or YAML, or holds something else.
    """
    try:
        return parse_yaml_table(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.", "Check the path that was given.") from error


def parse_yaml_table(text: str, where: str) -> dict[str, Any]:
    """Parse YAML text whose top level is a table; `where` names it in the error.

    Raises:
        UsageError: If it is not YAML or holds something else.
    """
    try:
        value = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not YAML: {' '.join(str(error).split())}.", "Correct it.") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where} holds a {type(value).__name__}, not a table of settings.", "Correct it.")
    return value
