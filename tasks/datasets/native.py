"""What all readers share: finding the layout, counting what is left out, splitting, options, detections."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.foundation.files import inside
from medbench.tasks.images import image_size
from medbench.tasks.sample import Box, ImageRef, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import parse_json_file

DEFAULT_SEED = 42
MISSING = "image is missing"

_LITTER = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
    | {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
_NUMBERS_IN_A_BOX = 4
_DETECTIONS: TypeAdapter[list[dict[str, Any]]] = TypeAdapter(list[dict[str, Any]])

RegionKind = Literal["rec", "reg"]
MakeRegion = Callable[..., Sample]
"""`region_sample` of one task; readers pass it on to where regions are met."""


def collect(found: Iterable[Sample | Skipped], split_method: str, warnings: Iterable[str] = ()) -> Reading:
    """Return the reading of a stream of samples and skipped items, each in its order."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    for item in found:
        if isinstance(item, Sample):
            samples.append(item)
        else:
            skipped.append(item)
    return Reading(samples=tuple(samples), skipped=tuple(skipped), split_method=split_method, warnings=tuple(warnings))


def lacking(**texts: str) -> str:
    """Return why a row is left out (`question is empty`), or nothing if all its texts are there."""
    return next((f"{name} is empty" for name, text in texts.items() if not text.strip()), "")


def find_root(source: Path, inner: Sequence[str], markers: Sequence[str], layout: str) -> Path:
    """Return the first of `source` and its `inner` folders that holds a marker; a DataError if none does."""
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
    """Return the split files that exist, and the missing ones as skipped items; a DataError if none exists."""
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


def if_missing(source: Path, path: str) -> str:
    """Return the path of a file in a folder if there is nothing of this name, else nothing."""
    try:
        return "" if inside(source, path).exists() else path
    except (DataError, OSError):
        return ""


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden or left by a system: never data, never a reason for another split.

    That is every name that begins with a period (`.DS_Store`, `._scan.png`), and a few others (`__MACOSX`, `@eaDir`).
    """
    return name.startswith(".") or name.lower() in _LITTER


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
    """Return the option `seed`; a UsageError if it is not a whole number."""
    text = options.get("seed", str(DEFAULT_SEED))
    try:
        return int(text)
    except ValueError as error:
        raise UsageError(f"The option seed={text} is not a whole number.", "Example: --option seed=42") from error


def refuse_options(options: Mapping[str, str], names: Iterable[str], because: str) -> None:
    """Refuse, by a UsageError, options that would have no effect on the layout that was found."""
    given = sorted(set(options).intersection(names))
    if given:
        raise UsageError(f"The option {given[0]} has no effect here: {because}.", f"Leave out --option {given[0]}=...")


def region_sample(
    task: str,
    kind: RegionKind,
    *,
    sample_id: str,
    split: Split,
    image: str,
    size: tuple[int, int],
    name: str,
    box: Box,
    labels: Mapping[str, str],
    groups: Mapping[str, str],
) -> Sample:
    """Return the question about one object in an image: find its box (REC) or name it (REG).

    The two kinds ask about the same regions with the question and the answer swapped (paper section 4.1), so the name
    is an input of REC only.
    """
    return Sample(
        sample_id=sample_id,
        task=task,
        split=split,
        images=(ImageRef(path=image),),
        inputs={"object": name} if kind == "rec" else {},
        reference=name,
        box=box,
        image_size=size,
        labels={"object": name, **labels},
        groups=groups,
    )


def detections(
    make: MakeRegion, source: Path, image: Path, file: Path, item: str, called: str, **fields: Any
) -> Iterator[Sample | Skipped]:
    """Yield a sample `<item>/d<n>` for every entry `{"Liver": [left, top, width, height]}` of an image's file.

    Args:
        make: What makes samples.
        source: The source folder.
        image: The image.
        file: The file with its entries.
        item: What the ids begin with.
        called: What the image is called if it cannot be read.
        fields: What all its samples share: split, labels and groups.
    """
    path = relative(source, image)
    try:
        size = image_size(image)
    except SampleError:
        yield Skipped(item=called, reason="image is missing or unreadable", looked_for=if_missing(source, path))
        return
    if not file.is_file():
        yield Skipped(item=f"{item}/{file.name}", reason="file is missing")
        return
    entries = parse_json_file(_DETECTIONS, file)
    for index, entry in enumerate(entries):
        sample_id = f"{item}/d{index}"
        found = first_object(entry)
        if isinstance(found, str):
            yield Skipped(item=sample_id, reason=found)
        else:
            yield make(sample_id=sample_id, image=path, size=size, name=found[0], box=found[1], **fields)


def first_object(entry: Mapping[str, object]) -> tuple[str, Box] | str:
    """Return name and box of a one-key detection entry, or why there is none.

    Of an entry with several keys the first counts, as in the official code.
    """
    for name, value in entry.items():
        box = parse_box(value)
        return box if isinstance(box, str) else (name, box)
    return "entry names no object"


def parse_box(value: object) -> Box | str:
    """Return the box of `[x, y, width, height]` in pixels, or why it is none.

    A box of zero width or height is kept, as in the official code.
    """
    if not isinstance(value, list) or len(value) != _NUMBERS_IN_A_BOX:
        return "box is not a list of four numbers"
    try:
        numbers = [float(number) for number in value if isinstance(number, int | float)]
    except OverflowError:
        return "box is not four finite numbers"
    if len(numbers) != _NUMBERS_IN_A_BOX or not all(map(math.isfinite, numbers)):
        return "box is not four finite numbers"
    left, top, width, height = numbers
    if width < 0 or height < 0:
        return "box has a negative size"
    return Box.from_xywh(left, top, width, height)
