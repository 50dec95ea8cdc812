"""What all readers share: the native folder, counting what is left out, splitting, options, detections."""

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.foundation.files import inside
from medbench.tasks.images import image_size
from medbench.tasks.sample import Box, ImageRef, Sample, Split
from medbench.tasks.spec import Kind, Reading, Skipped
from medbench.tasks.validation import parse_json_file

MISSING = "image is missing"

_LITTER = frozenset(
    {"__macosx", "__pycache__", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
    | {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
)
_NUMBERS_IN_A_BOX = 4

Found = Iterator[Sample | Skipped]


@dataclass(frozen=True, slots=True)
class Native:
    """What a reader is given: the folder, the options of the command line, and the task."""

    source: Path
    options: Mapping[str, str]
    task: str
    kind: Kind
    layout: str  # What the folder should look like, in words.

    def root(self, inner: str, *markers: str) -> Path:
        """Return the source or its folder `inner`, the first of the two that holds a marker; a DataError if none."""
        for folder in (self.source, self.source / inner):
            if any((folder / marker).exists() for marker in markers):
                return folder
        raise self.other_layout(*markers)

    def other_layout(self, *looked_for: str) -> DataError:
        """Return the error for a source folder that is missing or arranged in another way."""
        expected = f"Expected layout of the folder given with --source: {self.layout}"
        if not self.source.is_dir():
            return DataError(f"The source folder {self.source} does not exist.", expected)
        return DataError(f"{self.source} has no {' and no '.join(looked_for)}.", expected)

    def relative(self, path: Path) -> str:
        """Return `path` relative to the source, with forward slashes."""
        return path.relative_to(self.source).as_posix()

    def prefix(self, folder: Path) -> str:
        """Return what makes a name in `folder` relative to the source when put before it: `inner/` or nothing."""
        return "" if folder == self.source else f"{self.relative(folder)}/"

    def by_split(self, files: Mapping[Split, Path], read: Callable[[Split, Path], Found]) -> Found:
        """Yield what `read` finds in the split files, first those that are missing; a DataError if all are."""
        missing = [path for path in files.values() if not path.is_file()]
        if len(missing) == len(files):
            raise self.other_layout(*map(self.relative, missing))
        yield from (Skipped(item=self.relative(path), reason="file is missing") for path in missing)
        for split, path in files.items():
            if path not in missing:
                yield from read(split, path)

    def seed(self) -> int:
        """Return the option `seed`, 42 by default; a UsageError if it is not a whole number."""
        text = self.options.get("seed", "42")
        try:
            return int(text)
        except ValueError as error:
            raise UsageError(f"The option seed={text} is not a whole number.", "Example: --option seed=42") from error

    def option(self, name: str, default: str, form: str, problem: str, note: str = "") -> str:
        """Return an option, by default `default`; a UsageError with the `problem` if it has not the `form`."""
        text = self.options.get(name, default)
        if not re.fullmatch(form, text):
            example = f"Example: --option {name}={default}{note}"
            raise UsageError(f"The option {name}={text} is {problem}.", example)
        return text

    def refuse_options(self, names: Iterable[str], because: str) -> None:
        """Refuse, by a UsageError, options that would have no effect on the layout that was found."""
        if given := sorted(set(self.options).intersection(names)):
            problem = f"The option {given[0]} has no effect here: {because}."
            raise UsageError(problem, f"Leave out --option {given[0]}=...")

    def region(
        self, sample_id: str, split: Split, image: str, size: tuple[int, int], name: str, box: Box,
        *, labels: Mapping[str, str], groups: Mapping[str, str],
    ) -> Sample:  # fmt: skip
        """Return the question about one object in an image: find its box (REC) or name it (REG).

        The two kinds ask about the same regions with the question and the answer swapped (paper section 4.1), so the
        name is an input of REC only.
        """
        return Sample(
            sample_id=sample_id, task=self.task, split=split, images=(ImageRef(path=image),),
            inputs={"object": name} if self.kind == "rec" else {}, reference=name, box=box, image_size=size,
            labels={"object": name, **labels}, groups=groups,
        )  # fmt: skip

    def detections(
        self, image: Path, file: Path, item: str, called: str, split: Split,
        *, labels: Mapping[str, str], groups: Mapping[str, str],
    ) -> Found:  # fmt: skip
        """Yield a sample `<item>/d<n>` for every entry `{"Liver": [left, top, width, height]}` of an image's file.

        `called` is what the image is called if it cannot be read.
        """
        path = self.relative(image)
        try:
            size = image_size(image)
        except SampleError:
            lost = if_missing(self.source, path)
            yield Skipped(item=called, reason="image is missing or unreadable", looked_for=lost)
            return
        if not file.is_file():
            yield Skipped(item=f"{item}/{file.name}", reason="file is missing")
            return
        entries = parse_json_file(list[dict[str, Any]], file)
        for index, entry in enumerate(entries):
            sample_id, found = f"{item}/d{index}", first_object(entry)
            if isinstance(found, str):
                yield Skipped(item=sample_id, reason=found)
            else:
                yield self.region(sample_id, split, path, size, *found, labels=labels, groups=groups)


def collect(found: Iterable[Sample | Skipped], split_method: str, warnings: Iterable[str] = ()) -> Reading:
    """Return the reading of a stream of samples and skipped items, each in its order."""
    samples, skipped = sorted_out(iter(found))
    return Reading(samples=tuple(samples), skipped=tuple(skipped), split_method=split_method, warnings=tuple(warnings))


def sorted_out(found: Found, limit: int | None = None) -> tuple[list[Sample], list[Skipped]]:
    """Return samples and skipped items of a stream, which is left where `limit` samples are found."""
    samples: list[Sample] = []
    skipped: list[Skipped] = []
    while len(samples) != limit and (item := next(found, None)) is not None:
        if isinstance(item, Sample):
            samples.append(item)
        else:
            skipped.append(item)
    return samples, skipped


def left_out(item: str, reason: str) -> Skipped | None:
    """Return the skipped item, or nothing if there is no reason."""
    return Skipped(item=item, reason=reason) if reason else None


def lacking(item: str, **texts: str) -> Skipped | None:
    """Return a row as skipped if one of its texts says nothing (`question is empty`)."""
    return left_out(item, next((f"{name} is empty" for name, text in texts.items() if not text.strip()), ""))


def filled(**labels: str) -> dict[str, str]:
    """Return those labels that say something."""
    return {name: label for name, label in labels.items() if label}


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
        numbers = []
    if len(numbers) != _NUMBERS_IN_A_BOX or not all(map(math.isfinite, numbers)):
        return "box is not four finite numbers"
    left, top, width, height = numbers
    return "box has a negative size" if width < 0 or height < 0 else Box.from_xywh(left, top, width, height)
