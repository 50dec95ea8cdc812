"""Which files were looked for and are missing, and what is there in their place under nearly the same name."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import inside
from medbench.tasks.spec import Skipped

MISSING = "image is missing"
_NAMED = 3


def missing_files(source: Path, skipped: Sequence[Skipped]) -> Iterator[str]:
    """Yield one warning with the first missing files of a reading, if there are any.

    Args:
        source: The source folder.
        skipped: What was left out; an item that has `looked_for` is a missing file.
    """
    paths = list(dict.fromkeys(item.looked_for for item in skipped if item.looked_for))
    if paths:
        named = "; ".join(_described(source, path) for path in islice(paths, _NAMED))
        more = f"; and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
        yield f"{len(paths)} files are missing; looked for {named}{more}"


def if_missing(source: Path, path: str) -> str:
    """Return the path of a file in a folder if there is nothing of this name, else nothing."""
    try:
        return "" if inside(source, path).exists() else path
    except (DataError, OSError):
        return ""


def _described(source: Path, path: str) -> str:
    found = _nearly(source, path)
    shown = path.encode(errors="replace").decode()
    return f"{shown} (there is {found.encode(errors='replace').decode()})" if found else shown


def _nearly(source: Path, path: str) -> str:
    """Return the path of a file that differs by backslashes, by the case of letters or by its suffix, or nothing."""
    try:
        parts = inside(Path(), path.replace("\\", "/")).parts
    except DataError:
        return ""
    folder = source
    for part in parts[:-1]:
        found = _named(folder, part)
        if found is None or not found.is_dir():
            return ""
        folder = found
    found = _named(folder, parts[-1]) if parts else None
    return found.relative_to(source).as_posix() if found is not None and found.is_file() else ""


def _named(folder: Path, name: str) -> Path | None:
    """Return what is in a folder under this name, in other letters or with another suffix."""
    if (folder / name).exists():
        return folder / name
    try:
        there = sorted(folder.iterdir())
    except OSError:
        return None
    same = (path for path in there if path.name.lower() == name.lower())
    suffixed = (path for path in there if path.stem.lower() == Path(name).stem.lower() and path.is_file())
    return next(same, None) or next(suffixed, None)
