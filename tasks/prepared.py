"""Prepared tasks on disk: samples as JSON lines and the manifest that vouches for them.

A prepared task is one folder, `<data-dir>/<task>/`::

    train.jsonl, test.jsonl    the samples
    skipped.jsonl              every item of the native data that became no sample, with the reason
    images.sha256              a digest of every image file that a sample names, unless the user did without; in the
                               source folder `sha256sum --check` reads it
    manifest.json              what vouches for the other files

Images stay where they are; a sample names them relative to the source folder that the manifest names.
"""

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image
from pydantic import ConfigDict, TypeAdapter, with_config

from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.foundation.console import Silent, meter
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import file_sha256, fingerprint
from medbench.tasks.images import locate, open_image
from medbench.tasks.sample import SPLITS, ImageRef, Sample, Split
from medbench.tasks.spec import Skipped, TaskSpec
from medbench.tasks.validation import parse_json, parse_json_file, read_bytes

T = TypeVar("T")

MANIFEST_NAME, SKIPPED_NAME, IMAGES_NAME = "manifest.json", "skipped.jsonl", "images.sha256"
ImageHashes = Literal["prepared", "none"]

# Disks answer several readers at once; each of them has one file open.
_WORKERS = 8
_SHOWN_FROM = 1000

_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)
_ESCAPES: dict[str, str | int | None] = {"\\": r"\\", "\n": r"\n", "\r": r"\r"}
_UNESCAPES = {str(escape): mark for mark, escape in _ESCAPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was prepared, from where, how, and what was left out."""

    task: str
    version: int
    spec_fingerprint: str
    source: str  # Absolute path of the source folder; images are relative to it.
    options: Mapping[str, str]  # Reader options as given.
    split_method: str  # How train and test were told apart.
    counts: Mapping[Split, int]
    skipped_counts: Mapping[str, int]  # Skipped items by reason; the items are in `skipped.jsonl`.
    skipped_sha256: str
    warnings: tuple[str, ...]  # What is odd about the data as a whole.
    sha256: Mapping[Split, str]  # Digest of each split's file.
    images_sha256: str | None  # Digest of `images.sha256`, or None where the user did without hashes of the images.
    # Identity of the data: a hash over the digests of splits and images, the same wherever the source is.
    data_fingerprint: str
    licence: str = ""  # Under which their owner says that the data may be passed on; empty if nobody has said.


# The one place where these plain records meet untrusted bytes decides that unknown fields are errors.
for _record in (ImageRef, Sample, Skipped, Manifest):
    with_config(ConfigDict(extra="forbid", strict=True))(_record)

SAMPLE = TypeAdapter(Sample)
MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A prepared task in its folder, `<data-dir>/<task>`; samples are read when they are asked for."""

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

    def images(self, sample: Sample) -> tuple[Image.Image, ...]:
        """Decode the images of a sample, each 8-bit RGB in the size of its file; raises like `open_image`."""
        return tuple(open_image(self.source, ref) for ref in sample.images)

    def samples(self, split: Split) -> tuple[Sample, ...]:
        """Read all samples of a split, in their order.

        Raises DataError if a line is not a sample (the message names file, line and field), or the file is not the one
        that was prepared.
        """
        return self._lines(Sample, split_file(self.folder, split), self.manifest.sha256[split])

    def skipped(self) -> tuple[Skipped, ...]:
        """Read all skipped items, in the order in which they were met; raises like `samples`."""
        return self._lines(Skipped, self.folder / SKIPPED_NAME, self.manifest.skipped_sha256)

    def image_hashes(self) -> Mapping[str, str] | None:
        """Read the digests of the image files by path, or return None if there are none; raises like `samples`."""
        if self.manifest.images_sha256 is None:
            return None
        path = self.folder / IMAGES_NAME
        found = parse_hash_lines(read_bytes(path).decode(errors="replace"), str(path))
        return self._vouched(path, found, self.manifest.images_sha256)

    def _lines(self, kind: type[T], path: Path, sha256: str) -> tuple[T, ...]:
        try:
            with path.open("rb") as stream:
                lines = enumerate(stream, start=1)
                found = [parse_json(kind, line, f"{path}, line {place}") for place, line in lines]
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing.", "Prepare the task again.") from error
        return self._vouched(path, tuple(found), sha256)

    def _vouched(self, path: Path, content: T, sha256: str) -> T:
        if file_sha256(path) != sha256:
            raise DataError(f"{path} was changed after it was prepared.", prepare_again(self.task))
        return content


def load_prepared(data_dir: Path, task: str) -> Prepared:
    """Open a prepared task.

    Raises UsageError if there is no such task; DataError if it is not prepared there, its manifest is malformed, or it
    was prepared for another version of the task.
    """
    spec, folder = get_task(task), data_dir / task
    path = folder / MANIFEST_NAME
    if not has_manifest(data_dir, task):
        raise DataError(f"The task {task!r} is not prepared in {data_dir}.", prepare_again(task))
    try:
        manifest = parse_json_file(Manifest, path)
    except DataError as error:
        raise DataError(error.problem, f"An older medbench may have written it. {prepare_again(task)}") from error
    if manifest.task != task or set(manifest.sha256) != set(SPLITS):
        raise DataError(f"{path} is not a manifest of {task!r}.", prepare_again(task))
    if (manifest.version, manifest.spec_fingerprint) != (spec.version, spec.fingerprint()):
        problem = f"{folder} was prepared for another declaration of {task!r} (version {manifest.version})."
        raise DataError(problem, prepare_again(task))
    return Prepared(folder=folder, spec=spec, manifest=manifest)


def is_prepared(data_dir: Path, task: str) -> bool:
    """Return whether `load_prepared` would find a usable manifest."""
    try:
        load_prepared(data_dir, task)
    except DataError:
        return False
    return True


def has_manifest(data_dir: Path, task: str) -> bool:
    """Return whether a task was prepared in a folder, however long ago."""
    return (data_dir / task / MANIFEST_NAME).is_file()


def prepared_names(data_dir: Path) -> tuple[str, ...]:
    """Return the tasks that are prepared in a folder, variants included, in catalogue order; a DataError if none."""
    found = tuple(name for name in task_names() if has_manifest(data_dir, name))
    if not found:
        way_out = "Prepare one: medbench data prepare TASK --source DIR --data-dir DIR"
        raise DataError(f"No task is prepared in {data_dir}.", way_out)
    return found


def file_states(prepared: Prepared) -> tuple["HashedFile", ...]:
    """Compare every file that the manifest vouches for with it; `images.sha256` only where there is one."""
    manifest, folder = prepared.manifest, prepared.folder
    expected = {split_file(folder, split).name: manifest.sha256[split] for split in SPLITS}
    if manifest.images_sha256 is not None:
        expected[IMAGES_NAME] = manifest.images_sha256
    expected[SKIPPED_NAME] = manifest.skipped_sha256
    return tuple(_hash_file(folder, name, digest) for name, digest in expected.items())


def damaged_files(prepared: Prepared) -> tuple[str, ...]:
    """Return the names of the files that are missing or differ from the manifest."""
    manifest = prepared.manifest
    if data_fingerprint(manifest.sha256, manifest.images_sha256) != manifest.data_fingerprint:
        return (MANIFEST_NAME,)
    return tuple(file.path for file in file_states(prepared) if file.problem)


def split_file(folder: Path, split: Split) -> Path:
    """Return the file of a split's samples."""
    return folder / f"{split}.jsonl"


def data_fingerprint(sha256: Mapping[Split, str], images_sha256: str | None) -> str:
    """Return the identity of a task's data from the digests of its files."""
    digests: dict[str, str] = {split: sha256[split] for split in SPLITS}
    if images_sha256 is not None:
        digests["images"] = images_sha256
    return fingerprint(digests)


def prepare_again(task: str) -> str:
    """Return the hint that names the command to prepare `task`."""
    return f"Prepare it: medbench data prepare {task} --source DIR --data-dir DIR"


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file by its path in a folder: its digest, or `missing`, `unreadable (why)` or, if compared, `changed`."""

    path: str
    sha256: str = ""
    problem: str = ""


def hash_images(source: Path, paths: Iterable[str], label: str) -> dict[str, str]:
    """Return the digest of each image file, `label` in the progress display; a DataError if one cannot be read."""
    found = _hash_all(source, dict.fromkeys(paths), label)
    if failed := next((item for item in found if item.problem), None):
        hint = "Restore it or make it readable and prepare again, or leave all images unread with --image-hashes none."
        raise DataError(f"The image {source / failed.path} is {failed.problem}.", hint)
    return {item.path: item.sha256 for item in found}


def changed_images(source: Path, expected: Mapping[str, str], label: str) -> tuple[HashedFile, ...]:
    """Hash the files again and return those that are not as `expected`, each with its problem."""
    return tuple(item for item in _hash_all(source, expected, label) if item.problem)


def hash_lines(digests: Mapping[str, str]) -> str:
    """Return the text that `parse_hash_lines` reads."""
    escaped = {path: path.translate(str.maketrans(_ESCAPES)) for path in sorted(digests)}
    marked = ((path, shown, "" if shown == path else "\\") for path, shown in escaped.items())
    return "".join(f"{mark}{digests[path]}  {shown}\n" for path, shown, mark in marked)


def parse_hash_lines(text: str, where: str) -> dict[str, str]:
    """Return the digests by path of a text in the form of `sha256sum`; `where` is its file, for the message.

    Raises DataError if a line has another form; the message names the line.
    """
    digests: dict[str, str] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else (), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise DataError(f"{where}, line {number} is not a digest and a path.", "Prepare the task again.")
        escaped, digest, path = match.groups()
        if escaped:
            path = re.sub(r"\\[\\nr]", lambda found: _UNESCAPES[found.group()], path)
        digests[path] = digest
    return digests


def _hash_all(source: Path, expected: Mapping[str, str | None], label: str) -> list[HashedFile]:
    found: list[HashedFile] = []
    pool, total = ThreadPoolExecutor(_WORKERS), len(expected)
    try:
        # A few files need no display.
        with meter(label, total) if total >= _SHOWN_FROM else Silent().meter(label, total, 0) as progress:
            for hashed in pool.map(partial(_hash_file, source), expected, expected.values()):
                found.append(hashed)
                progress.advance()
    finally:
        # A stop does not wait for the files that are left.
        pool.shutdown(cancel_futures=True)
    return found


def _hash_file(folder: Path, path: str, expected: str | None) -> HashedFile:
    try:
        digest = file_sha256(locate(folder, path))
    except (FileNotFoundError, NotADirectoryError):
        return HashedFile(path, problem="missing")
    except OSError as error:
        return HashedFile(path, problem=f"unreadable ({error.strerror})")
    return HashedFile(path, digest, problem="" if expected in {None, digest} else "changed")
