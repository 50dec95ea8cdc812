"""From a native folder to prepared samples: read, check, write, and the manifest last."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pydantic import Field, TypeAdapter

from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.checks import Checked, check_reading, encodable
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError, unknown_name
from medbench.tasks.foundation.errors import described
from medbench.tasks.foundation.files import (
    canonical_json,
    file_sha256,
    fingerprint,
    inside,
    json_lines,
    write_atomically,
)
from medbench.tasks.image_hashes import ImageHashes, hash_images, hash_lines
from medbench.tasks.missing import missing_files
from medbench.tasks.prepared import (
    IMAGES_NAME,
    MANIFEST,
    MANIFEST_NAME,
    SKIPPED_NAME,
    SPLITS,
    Manifest,
    Prepared,
    damaged_files,
    data_fingerprint,
    load_prepared,
    split_file,
)
from medbench.tasks.spec import Reading, TaskSpec
from medbench.tasks.validation import NativeRow, parse_json_file

__all__ = ["Manifest", "Prepared", "load_prepared", "medbench_home", "prepare_suite", "prepare_task"]


def prepare_task(
    spec: TaskSpec,
    source: Path,
    data_dir: Path,
    options: Mapping[str, str],
    *,
    image_hashes: ImageHashes = "prepared",
    licence: str = "",
) -> Prepared:
    """Read a native folder and write samples, skipped items, hashes and manifest to `<data_dir>/<task>/`.

    A sample whose image is missing or outside `source`, whose reference is empty or whose text is no valid
    Unicode is skipped and counted. The manifest is written last: without it, the folder does not count as
    prepared.

    Args:
        spec: The task.
        source: The user's native folder.
        data_dir: Where prepared tasks go.
        options: Reader options; see `spec.options`.
        image_hashes: `prepared` to hash every image file that a sample names, so that the identity of the data covers
            them; `none` to leave them unread.
        licence: Under which the data's owner says that they may be passed on; see `medbench.tasks.terms`.

    Raises:
        UsageError: If an option does not exist or is malformed.
        DataError: If the layout is another one, two samples share an id, nothing usable was found, or an image
            cannot be read.
        RunError: If `data_dir` cannot be written to.
    """
    for name in options:
        if name not in spec.options:
            raise unknown_name(f"option of {spec.name}", name, spec.options)
    source = _writable("source", source.resolve(), source.absolute())
    _writable("data-dir", data_dir.absolute())
    reading = _read(spec, source, options)
    checked = check_reading(spec, source, reading)
    if not any(checked.lines.values()):
        raise _nothing_usable(spec, source, checked)
    images = hash_images(source, checked.images, f"{spec.name} images") if image_hashes == "prepared" else None
    folder = data_dir / spec.name
    _write_parts(folder, checked, images)
    manifest = replace(_manifest(spec, source, options, reading.split_method, checked, folder), licence=licence)
    text = canonical_json(MANIFEST.dump_python(manifest, mode="json"), indent=2)
    write_atomically(folder / MANIFEST_NAME, f"{text}\n")
    return Prepared(folder=folder, spec=spec, manifest=manifest)


def _writable(option: str, *paths: Path) -> Path:
    """Return the first of several paths of one folder that a manifest can hold as text.

    Raises:
        UsageError: If no name is UTF-8, as on disks that another system or an old program wrote.
    """
    path = next((path for path in paths if encodable(str(path)) == str(path)), None)
    if path is None:
        raise UsageError(
            f"The folder given with --{option} has a name that is not UTF-8: {encodable(str(paths[0]))!r}.",
            "Rename it, or give a link to it: ln -s FOLDER NEW-NAME",
        )
    return path


def _read(spec: TaskSpec, source: Path, options: Mapping[str, str]) -> Reading:
    """Return what a task's reader finds; what a plugin's raises or returns wrongly is told in a sentence."""
    whose = TASKS.origin(spec.name)
    try:
        reading: object = spec.reader(source, options)
    except MedbenchError:
        raise
    except Exception as error:
        if not whose:
            raise
        home = getattr(getattr(spec.reader, "__code__", None), "co_filename", "")
        raise DataError(
            f"The task {spec.name!r} of {whose} could not read {source}: {described(error, home)}.",
            f"Expected layout: {spec.layout}",
        ) from error
    if not isinstance(reading, Reading):
        raise DataError(f"The reader of {spec.name!r} returned a {type(reading).__name__}, not a Reading.", whose)
    return reading


def _write_parts(folder: Path, checked: Checked, images: Mapping[str, str] | None) -> None:
    # A crash between the files must not leave the old manifest beside new samples.
    _withdraw(folder / MANIFEST_NAME)
    _withdraw(folder / IMAGES_NAME)
    for split in SPLITS:
        write_atomically(split_file(folder, split), "".join(checked.lines[split]))
    skipped = ({"item": encodable(item.item), "reason": encodable(item.reason)} for item in checked.skipped)
    write_atomically(folder / SKIPPED_NAME, json_lines(skipped))
    if images is not None:
        write_atomically(folder / IMAGES_NAME, hash_lines(images))


def _withdraw(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(
            f"Cannot write to {path.parent}: {error.strerror or error}.", "Choose another folder with --data-dir."
        ) from error


def _nothing_usable(spec: TaskSpec, source: Path, checked: Checked) -> DataError:
    reasons = Counter(item.reason for item in checked.skipped).most_common(3)
    listed = "; ".join(f"{count} x {reason}" for reason, count in reasons) or "the files name no items"
    lost = "".join(f" {text}." for text in missing_files(source, checked.skipped))
    return DataError(
        f"{source} gave no usable sample of {spec.name}: {listed}.{lost}", f"Expected layout: {spec.layout}"
    )


def _manifest(
    spec: TaskSpec,
    source: Path,
    options: Mapping[str, str],
    split_method: str,
    checked: Checked,
    folder: Path,
) -> Manifest:
    digests = {split: file_sha256(split_file(folder, split)) for split in SPLITS}
    images = folder / IMAGES_NAME
    images_sha256 = file_sha256(images) if images.is_file() else None
    return Manifest(
        task=spec.name,
        version=spec.version,
        spec_fingerprint=spec.fingerprint(),
        source=str(source),
        options=dict(options),
        split_method=split_method,
        counts={split: len(checked.lines[split]) for split in SPLITS},
        skipped_counts=dict(Counter(encodable(item.reason) for item in checked.skipped)),
        skipped_sha256=file_sha256(folder / SKIPPED_NAME),
        warnings=checked.warnings,
        sha256=digests,
        images_sha256=images_sha256,
        data_fingerprint=data_fingerprint(digests, images_sha256),
    )


class _SuiteTask(NativeRow):
    source: str
    options: dict[str, str] = Field(default_factory=dict)


class _Suite(NativeRow):
    tasks: dict[str, _SuiteTask]


_SUITE = TypeAdapter(_Suite)
_SUITE_FILE = "suite.json"
_ATTEMPTS = 5
_DECIDING = ("", "datasets", "foundation")


def medbench_home() -> Path:
    """Return the folder for everything that can be made again: `MEDBENCH_HOME`, or `~/.cache/medbench`."""
    given = os.environ.get("MEDBENCH_HOME")
    if given:
        return Path(given)
    try:
        return Path.home() / ".cache" / "medbench"
    except RuntimeError as error:
        raise UsageError("There is no home folder.", "Set MEDBENCH_HOME to a folder that you may write to.") from error


def prepare_suite(suite_dir: Path, cache_dir: Path | None = None) -> Path:
    """Prepare all tasks of a bundled suite, once: the folder is used again as long as it is whole.

    The folder's name is made of the suite's manifest and of the code of this package, so that neither an edited suite
    nor an edited reader or check meets old samples. It is built aside and moved into place whole, so that several
    processes may ask at once.

    Args:
        suite_dir: Folder with `suite.json`: `{"tasks": {<task>: {"source": <folder>, "options": {...}}}}`.
        cache_dir: Where the prepared folder goes; `medbench_home()` by default.

    Returns:
        The data folder, for `load_prepared`.

    Raises:
        DataError: If the suite is malformed.
        RunError: If the cache cannot be written to.
    """
    suite = parse_json_file(_SUITE, suite_dir / _SUITE_FILE)
    cache = cache_dir or medbench_home()
    target = cache / f"mini-{_suite_key(suite_dir)[:12]}"
    if _suite_is_whole(suite, suite_dir, target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".mini-", dir=cache))
    except OSError as error:
        raise RunError(
            f"Cannot write to {cache}: {error.strerror or error}.",
            "Set MEDBENCH_HOME to a folder that you may write to.",
        ) from error
    try:
        for name, task in suite.tasks.items():
            prepare_task(get_task(name), inside(suite_dir, task.source), staging, task.options)
        _move_into_place(staging, target, suite, suite_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return target


def _suite_key(suite_dir: Path) -> str:
    # What is read is decided by the readers; what is written, also by the checks and by whatever both use.
    here = Path(__file__).parent
    code = sorted(path for folder in _DECIDING for path in (here / folder).glob("*.py"))
    return fingerprint([file_sha256(path) for path in (suite_dir / _SUITE_FILE, *code)])


def _suite_is_whole(suite: _Suite, suite_dir: Path, target: Path) -> bool:
    try:
        for name, task in suite.tasks.items():
            prepared = load_prepared(target, name)
            if prepared.source != inside(suite_dir, task.source).resolve() or damaged_files(prepared):
                return False
    except DataError:
        return False
    return True


def _move_into_place(staging: Path, target: Path, suite: _Suite, suite_dir: Path) -> None:
    for _ in range(_ATTEMPTS):
        try:
            staging.rename(target)
        except OSError:
            # The place is taken: by another process that was faster, or by what is not whole.
            if _suite_is_whole(suite, suite_dir, target):
                return
            retired = Path(tempfile.mkdtemp(prefix=".old-", dir=target.parent))
            _retire(target, retired)
        else:
            return
    raise RunError(f"Cannot replace {target}.", "Remove this folder and run the same command again.")


def _retire(target: Path, retired: Path) -> None:
    try:
        target.rename(retired)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise RunError(f"Cannot replace {target}: {error.strerror or error}.", "Remove this folder.") from error
    finally:
        shutil.rmtree(retired, ignore_errors=True)
