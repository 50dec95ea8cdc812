"""What every reading must hold before it is written: whole samples, images that exist, storable texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.images import locate
from medbench.tasks.missing import MISSING, missing_files
from medbench.tasks.prepared import SAMPLE, SPLITS
from medbench.tasks.sample import Sample, Split
from medbench.tasks.spec import Reading, Skipped, TaskSpec


@dataclass(frozen=True, slots=True)
class Checked:
    """What of a reading can be used.

    Attributes:
        lines: The usable samples as JSON lines, by split.
        images: The image files that usable samples name, each once, sorted.
        skipped: Everything that was left out, by the reader or here.
        warnings: What is odd about the data as a whole.
    """

    lines: Mapping[Split, Sequence[str]]
    images: tuple[str, ...]
    skipped: Sequence[Skipped]
    warnings: tuple[str, ...]


def check_reading(spec: TaskSpec, source: Path, reading: Reading) -> Checked:
    """Sort the samples of a reading into usable lines and skipped items.

    Raises:
        DataError: If two samples share an id, or the reader made a sample that does not fit its task.
    """
    lines: dict[Split, list[str]] = {split: [] for split in SPLITS}
    groups: dict[Split, set[str]] = {split: set() for split in SPLITS}
    skipped = list(reading.skipped)
    check = _ImageCheck(source)
    images: set[str] = set()
    seen: set[str] = set()
    for sample in reading.samples:
        _refuse_malformed(spec, sample, seen)
        seen.add(sample.sample_id)
        line = f"{canonical_json(SAMPLE.dump_python(sample, mode='json', exclude_defaults=True))}\n"
        reason = check.problem(sample) or _text_problem(sample, line)
        if reason:
            missing = check.first_missing(sample)
            skipped.append(Skipped(item=encodable(sample.sample_id), reason=reason, looked_for=missing))
            continue
        lines[sample.split].append(line)
        groups[sample.split].add(sample.groups[spec.group_key])
        images.update(ref.path for ref in sample.images)
    warnings = (*reading.warnings, *missing_files(source, skipped), *_warnings(spec, lines, groups))
    return Checked(lines=lines, images=tuple(sorted(images)), skipped=skipped, warnings=warnings)


def _refuse_malformed(spec: TaskSpec, sample: Sample, seen: set[str]) -> None:
    if sample.sample_id in seen:
        raise DataError(
            f"Two samples of {spec.name} have the id {sample.sample_id!r}.",
            "The native files name one item twice; restore them from their source.",
        )
    if sample.task != spec.name or spec.group_key not in sample.groups or sample.split not in SPLITS:
        raise DataError(
            f"The reader of {spec.name} made a malformed sample {sample.sample_id!r}.",
            f"Task {spec.name!r}, split train or test and the group {spec.group_key!r} are needed.",
        )


class _ImageCheck:
    """Looks for every image file once."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._problems: dict[str, str] = {}

    def problem(self, sample: Sample) -> str:
        return next((problem for ref in sample.images if (problem := self._of(ref.path))), "")

    def first_missing(self, sample: Sample) -> str:
        """Return the first file of a sample that is missing, or nothing."""
        return next((ref.path for ref in sample.images if self._of(ref.path) == MISSING), "")

    def _of(self, path: str) -> str:
        if path not in self._problems:
            self._problems[path] = self._look(path)
        return self._problems[path]

    def _look(self, path: str) -> str:
        try:
            file = locate(self._source, path)
            if not file.is_file():
                return MISSING
            return "" if file.stat().st_size else "image file is empty"
        except (SampleError, OSError):
            return "image path is no path inside the source folder"


def _text_problem(sample: Sample, line: str) -> str:
    if not sample.reference.strip():
        return "reference is empty"
    return "text is not valid Unicode" if encodable(line) != line else ""


def encodable(text: str) -> str:
    """Return `text` with everything replaced that UTF-8 cannot hold (lone surrogates)."""
    return text.encode(errors="replace").decode()


def _warnings(spec: TaskSpec, lines: Mapping[Split, Sequence[str]], groups: Mapping[Split, set[str]]) -> Iterator[str]:
    for split in SPLITS:
        if not lines[split]:
            yield f"there are no {split} samples"
    shared = len(groups["train"] & groups["test"])
    if shared:
        yield f"{shared} groups ({spec.group_key}) are in train and in test"
