"""Where medbench keeps what can be made again."""

import os
from pathlib import Path

from medbench.tasks.foundation.errors import UsageError


def medbench_home() -> Path:
    """Return the folder for everything that can be made again: `MEDBENCH_HOME`, or `~/.cache/medbench`."""
    if given := os.environ.get("MEDBENCH_HOME"):
        return Path(given)
    try:
        return Path.home() / ".cache" / "medbench"
    except RuntimeError as error:
        raise UsageError("There is no home folder.", "Set MEDBENCH_HOME to a folder that you may write to.") from error
