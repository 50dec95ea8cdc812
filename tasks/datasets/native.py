"""What all readers share: finding the layout, collecting what was read, splitting, options."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.sample import Sample, Split
from medbench.tasks.spec import Reading, Skipped

DEFAULT_SEED = 42

SEED_OPTION = f"seed of our own split, used only where the authors' split is not there (default {DEFAULT_SEED})"


def collect(found: Iterable[Sample | Skipped], split_method: str) -> Reading:
    """Return the reading of a stream of samples and skipped items, each in its order."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for item in found:
        if isinstance(item, Sample):
            samples.append(item)
        else:
            skipped.append(item)
    return Reading(samples=tuple(samples), skipped=tuple(skipped), split_method=split_method)


def find_root(source: Path, inner: Sequence[str], markers: Sequence[str], layout: str) -> Path:
    """Return the first of `source` and its `inner` folders that holds one of the `markers`.

    Raises:
        DataError: If `source` is no folder or none of them holds a marker.
    """
    for folder in (source, *(source / name for name in inner)):
        if any((folder / marker).exists() for marker in markers):
            return folder
    raise wrong_layout(source, markers, layout)


def wrong_layout(source: Path, looked_for: Sequence[str], layout: str) -> DataError:
    """Return the error for a source folder that is missing or arranged in another way."""
    expected = f"Expected layout of the folder given with --source: {layout}"
    if not source.is_dir():
        return DataError(f"The source folder {source} does not exist.", expected)
    return DataError(f"{source} has no {' and no '.join(looked_for)}.", expected)


def present_splits(
    files: Mapping[Split, Path], source: Path, layout: str
) -> tuple[dict[Split, Path], tuple[Skipped, ...]]:
    """Return the split files that exist, and the missing ones as skipped items.

    Raises:
        DataError: If none exists.
    """
    present = {split: path for split, path in files.items() if path.is_file()}
    if not present:
        raise wrong_layout(source, [relative(source, path) for path in files.values()], layout)
    missing = (path for split, path in files.items() if split not in present)
    return present, tuple(Skipped(item=relative(source, path), reason="file is missing") for path in missing)


def relative(source: Path, path: Path) -> str:
    """Return `path` relative to `source`, with forward slashes."""
    return path.relative_to(source).as_posix()


def prefix(source: Path, folder: Path) -> str:
    """Return what makes a name in `folder` relative to `source` when put before it: `inner/` or nothing."""
    return "" if folder == source else f"{relative(source, folder)}/"


def rank(seed: int, name: str) -> int:
    """Return a number that orders names at random, the same on every machine and Python version."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode(errors="surrogatepass")).digest()[:8], "big")


def ranked_split(groups: Iterable[str], *, seed: int, parts: int) -> dict[str, Split]:
    """Split groups at random so that one of `parts` equal parts is the test set.

    Two groups or more give at least one test group; a single group is all training.
    """
    ordered = sorted(set(groups), key=lambda group: (rank(seed, group), group))
    tests = max(1, round(len(ordered) / parts)) if len(ordered) > 1 else 0
    return {group: "test" if place < tests else "train" for place, group in enumerate(ordered)}


def seed_option(options: Mapping[str, str]) -> int:
    """Return the option `seed`.

    Raises:
        UsageError: If it is not a whole number.
    """
    text = options.get("seed", str(DEFAULT_SEED))
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"The option seed={text} is not a whole number.", "Example: --option seed=42") from error


def refuse_options(options: Mapping[str, str], names: Iterable[str], because: str) -> None:
    """Refuse options that would have no effect on the layout that was found.

    Raises:
        UsageError: If one of `names` was given.
    """
    given = sorted(set(options).intersection(names))
    if given:
        raise UsageError(f"The option {given[0]} has no effect here: {because}.", f"Leave out --option {given[0]}=...")
