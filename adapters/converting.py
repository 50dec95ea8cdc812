"""What every converter needs: a folder that is there as a whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from medbench.tasks.foundation.errors import RunError, UsageError


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write to, which becomes `output` when the block ends well and vanishes when it does not.

    Raises:
        UsageError: If `output` is there already.
        RunError: If it cannot be written, or the disk is full.
    """
    if output.exists():
        raise UsageError(f"{output} is there already.", "Give another --output.")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
