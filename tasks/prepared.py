"""Prepared tasks on disk: samples as JSON lines and the manifest that vouches for them.

A prepared task is one folder, `<data-dir>/<task>/`, of `train.jsonl`, `test.jsonl` and `manifest.json`.
Images stay where they are; a sample names them relative to the source folder that the manifest names.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ConfigDict, TypeAdapter, with_config

from tasks.catalog import get_task
from tasks.foundation.errors import DataError
from tasks.foundation.files import file_sha256, fingerprint
from tasks.sample import ImageRef, Sample, Split
from tasks.spec import Skipped, TaskSpec
from tasks.validation import parse_json, parse_json_file

SPLITS: tuple[Split, ...] = ("train", "test")
MANIFEST_NAME = "manifest.json"

_STRICT = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was prepared, from where, how, and what was left out.

    Attributes:
        task: Name of the task.
        version: Version of its spec.
        spec_fingerprint: Fingerprint of its spec.
        source: Absolute path of the source folder; images are relative to it.
        options: Reader options as given.
        split_method: How train and test were told apart.
        counts: Samples by split.
        skipped_counts: Skipped items by reason.
        skipped: The first of the skipped items.
        warnings: What is odd about the data as a whole.
        sha256: Digest of each split's file.
        data_fingerprint: Identity of the data: a hash over both digests, the same wherever the source is.
    """

    task: str
    version: int
    spec_fingerprint: str
    source: str
    options: Mapping[str, str]
    split_method: str
    counts: Mapping[Split, int]
    skipped_counts: Mapping[str, int]
    skipped: tuple[Skipped, ...]
    warnings: tuple[str, ...]
    sha256: Mapping[Split, str]
    data_fingerprint: str


# The one place where these plain records meet untrusted bytes decides that unknown fields are errors.
for _record in (ImageRef, Sample, Skipped, Manifest):
    with_config(_STRICT)(_record)

SAMPLE = TypeAdapter(Sample)
MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared task; samples are read when they are asked for.

    Attributes:
        folder: `<data-dir>/<task>`.
        spec: The task's declaration.
        manifest: Its manifest.
    """

    folder: Path
    spec: TaskSpec
    manifest: Manifest

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.spec.name

    @property
    def source(self) -> Path:
        """The folder that images are relative to."""
        return Path(self.manifest.source)

    def samples(self, split: Split) -> tuple[Sample, ...]:
        """Read all samples of a split, in their order.

        Raises:
            DataError: If a line is not a sample (the message names file, line and field), or the file is
                not the one that was prepared.
        """
        path = split_file(self.folder, split)
        found = tuple(_read_samples(path))
        if file_sha256(path) != self.manifest.sha256[split]:
            raise DataError(f"{path} was changed after it was prepared.", prepare_again(self.task))
        return found


def load_prepared(data_dir: Path, task: str) -> Prepared:
    """Open a prepared task.

    Args:
        data_dir: The folder given to `medbench data prepare`.
        task: Name of the task.

    Raises:
        UsageError: If there is no such task.
        DataError: If it is not prepared there, its manifest is malformed, or it was prepared for another
            version of the task.
    """
    spec = get_task(task)
    folder = data_dir / task
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise DataError(f"The task {task!r} is not prepared in {data_dir}.", prepare_again(task))
    manifest = parse_json_file(MANIFEST, path)
    if manifest.task != task or set(manifest.sha256) != set(SPLITS):
        raise DataError(f"{path} is not a manifest of {task!r}.", prepare_again(task))
    if (manifest.version, manifest.spec_fingerprint) != (spec.version, spec.fingerprint()):
        raise DataError(
            f"{folder} was prepared for another declaration of {task!r} (version {manifest.version}).",
            prepare_again(task),
        )
    return Prepared(folder=folder, spec=spec, manifest=manifest)


def is_prepared(data_dir: Path, task: str) -> bool:
    """Return whether `load_prepared` would find a usable manifest."""
    try:
        load_prepared(data_dir, task)
    except DataError:
        return False
    return True


def damaged_files(prepared: Prepared) -> tuple[str, ...]:
    """Return the names of the split files that are missing or differ from the manifest."""
    paths = {split: split_file(prepared.folder, split) for split in SPLITS}
    digests = {split: file_sha256(path) if path.is_file() else "" for split, path in paths.items()}
    if data_fingerprint(prepared.manifest.sha256) != prepared.manifest.data_fingerprint:
        return (MANIFEST_NAME,)
    return tuple(paths[split].name for split in SPLITS if digests[split] != prepared.manifest.sha256[split])


def split_file(folder: Path, split: Split) -> Path:
    """Return the file of a split's samples."""
    return folder / f"{split}.jsonl"


def data_fingerprint(sha256: Mapping[Split, str]) -> str:
    """Return the identity of a task's data from the digests of its files."""
    return fingerprint(dict(sha256))


def prepare_again(task: str) -> str:
    """Return the hint that names the command to prepare `task`."""
    return f"Prepare it: medbench data prepare {task} --source DIR --data-dir DIR"


def _read_samples(path: Path) -> list[Sample]:
    try:
        with path.open("rb") as stream:
            return [parse_json(SAMPLE, line, f"{path}, line {number}") for number, line in enumerate(stream, start=1)]
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing.", "Prepare the task again.") from error
