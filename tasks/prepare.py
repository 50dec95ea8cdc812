"""From a native folder to prepared samples: read, check, write, and the manifest last."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path

from medbench.tasks import prepared
from medbench.tasks.catalog import TASKS
from medbench.tasks.datasets.native import MISSING
from medbench.tasks.foundation import errors, files
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, SampleError, UsageError
from medbench.tasks.foundation.files import canonical_json, encodable, file_sha256, inside, write_atomically
from medbench.tasks.images import locate
from medbench.tasks.sample import SPLITS, Sample, Split
from medbench.tasks.spec import Reading, Skipped, TaskSpec

_NAMED = 3


def prepare_task(
    spec: TaskSpec,
    source: Path,
    data_dir: Path,
    options: Mapping[str, str],
    *,
    image_hashes: prepared.ImageHashes = "prepared",
    licence: str = "",
) -> prepared.Prepared:
    """Read a native folder and write samples, skipped items, hashes and manifest to `<data_dir>/<task>/`.

    A sample whose image is missing or outside `source`, whose reference is empty or whose text is no valid Unicode is
    skipped and counted. The manifest is written last: without it, the folder does not count as prepared. `image_hashes`
    says whether every image file that a sample names is hashed, so that the identity of the data covers them; `licence`
    is that under which the data's owner says that they may be passed on; see `medbench.tasks.terms`.

    Raises UsageError if an option does not exist or is malformed; DataError if the layout is another one, two samples
    share an id, nothing usable was found, or an image cannot be read; RunError if `data_dir` cannot be written to.
    """
    for name in options:
        if name not in spec.options:
            raise errors.unknown_name(f"option of {spec.name}", name, spec.options)
    source = _storable("source", source.resolve(), source.absolute())
    _storable("data-dir", data_dir.absolute())
    reading = _read(spec, source, options)
    checked = _check(spec, source, reading)
    images = prepared.hash_images(source, checked.images, f"{spec.name} images") if image_hashes == "prepared" else None
    folder = data_dir / spec.name
    written = _write_parts(folder, checked, images)
    digests = {split: written[prepared.split_file(folder, split).name] for split in SPLITS}
    images_sha256 = written.get(prepared.IMAGES_NAME)
    manifest = prepared.Manifest(
        task=spec.name,
        version=spec.version,
        spec_fingerprint=spec.fingerprint(),
        source=str(source),
        options=dict(options),
        split_method=reading.split_method,
        counts={split: len(checked.lines[split]) for split in SPLITS},
        skipped_counts=dict(Counter(encodable(item.reason) for item in checked.skipped)),
        skipped_sha256=written[prepared.SKIPPED_NAME],
        warnings=checked.warnings,
        sha256=digests,
        images_sha256=images_sha256,
        data_fingerprint=prepared.data_fingerprint(digests, images_sha256),
        licence=licence,
    )
    text = canonical_json(prepared.MANIFEST.dump_python(manifest, mode="json"), indent=2)
    write_atomically(folder / prepared.MANIFEST_NAME, f"{text}\n")
    return prepared.Prepared(folder=folder, spec=spec, manifest=manifest)


def _storable(option: str, *paths: Path) -> Path:
    """Return the first of several paths of one folder that a manifest can hold as text; a UsageError if none is."""
    path = next((path for path in paths if encodable(str(path)) == str(path)), None)
    if path is None:
        problem = f"The folder given with --{option} has a name that is not UTF-8: {encodable(str(paths[0]))!r}."
        raise UsageError(problem, "Rename it, or give a link to it: ln -s FOLDER NEW-NAME")
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
        problem = f"The task {spec.name!r} of {whose} could not read {source}: {errors.described(error, home)}."
        raise DataError(problem, f"Expected layout: {spec.layout}") from error
    if not isinstance(reading, Reading):
        raise DataError(f"The reader of {spec.name!r} returned a {type(reading).__name__}, not a Reading.", whose)
    return reading


@dataclass(frozen=True, slots=True)
class _Checked:
    """What of a reading is written: usable samples as JSON lines, their image files, and everything left out."""

    lines: Mapping[Split, Sequence[str]]
    images: tuple[str, ...]
    skipped: Sequence[Skipped]
    warnings: tuple[str, ...]


def _check(spec: TaskSpec, source: Path, reading: Reading) -> _Checked:
    """Sort the samples of a reading into usable lines and skipped items; a DataError if nothing is left."""
    lines: dict[Split, list[str]] = {split: [] for split in SPLITS}
    groups: dict[Split, set[str]] = {split: set() for split in SPLITS}
    skipped = list(reading.skipped)
    problem = cache(partial(_image_problem, source))
    images: set[str] = set()
    seen: set[str] = set()
    for sample in reading.samples:
        _refuse_malformed(spec, sample, seen)
        seen.add(sample.sample_id)
        paths = [ref.path for ref in sample.images]
        line = f"{canonical_json(prepared.SAMPLE.dump_python(sample, mode='json', exclude_defaults=True))}\n"
        reason = next(filter(None, map(problem, paths)), "") or _text_problem(sample, line)
        if reason:
            missing = next((path for path in paths if problem(path) == MISSING), "")
            skipped.append(Skipped(item=encodable(sample.sample_id), reason=reason, looked_for=missing))
            continue
        lines[sample.split].append(line)
        groups[sample.split].add(sample.groups[spec.group_key])
        images.update(paths)
    missing_files = _missing_files(source, skipped)
    if not any(lines.values()):
        reasons = Counter(item.reason for item in skipped).most_common(3)
        listed = "; ".join(f"{count} x {reason}" for reason, count in reasons) or "the files name no items"
        lost = "".join(f" {text}." for text in missing_files)
        told = f"{source} gave no usable sample of {spec.name}: {listed}.{lost}"
        raise DataError(told, f"Expected layout: {spec.layout}")
    warnings = (*reading.warnings, *missing_files, *_warnings(spec, groups))
    return _Checked(lines=lines, images=tuple(sorted(images)), skipped=skipped, warnings=warnings)


def _refuse_malformed(spec: TaskSpec, sample: Sample, seen: set[str]) -> None:
    if sample.sample_id in seen:
        problem = f"Two samples of {spec.name} have the id {sample.sample_id!r}."
        raise DataError(problem, "The native files name one item twice; restore them from their source.")
    if sample.task != spec.name or spec.group_key not in sample.groups or sample.split not in SPLITS:
        hint = f"Task {spec.name!r}, split train or test and the group {spec.group_key!r} are needed."
        raise DataError(f"The reader of {spec.name} made a malformed sample {sample.sample_id!r}.", hint)


def _image_problem(source: Path, path: str) -> str:
    try:
        file = locate(source, path)
        if not file.is_file():
            return MISSING
        return "" if file.stat().st_size else "image file is empty"
    except (SampleError, OSError):
        return "image path is no path inside the source folder"


def _text_problem(sample: Sample, line: str) -> str:
    if not sample.reference.strip():
        return "reference is empty"
    return "text is not valid Unicode" if encodable(line) != line else ""


def _warnings(spec: TaskSpec, groups: Mapping[Split, set[str]]) -> Iterator[str]:
    for split in SPLITS:
        if not groups[split]:
            yield f"there are no {split} samples"
    if shared := len(groups["train"] & groups["test"]):
        yield f"{shared} groups ({spec.group_key}) are in train and in test"


def _missing_files(source: Path, skipped: Sequence[Skipped]) -> list[str]:
    """Return one warning with the first missing files of a reading, if there are any, and what is there instead."""
    paths = list(dict.fromkeys(item.looked_for for item in skipped if item.looked_for))
    found = ((path, _nearly(source, path)) for path in paths[:_NAMED])
    named = "; ".join(encodable(f"{path} (there is {other})" if other else path) for path, other in found)
    more = f"; and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return [f"{len(paths)} files are missing; looked for {named}{more}"] if paths else []


def _nearly(source: Path, path: str) -> str:
    """Return the path of a file that differs by backslashes, by the case of letters or by its suffix, or nothing."""
    found = source
    try:
        for part in inside(Path(), path.replace("\\", "/")).parts:
            there = [found / part] if (found / part).exists() else sorted(found.iterdir())
            name, stem = part.lower(), Path(part).stem.lower()
            same = (one for one in there if one.name.lower() == name)
            found = next(chain(same, (one for one in there if one.stem.lower() == stem and one.is_file())))
    except (DataError, OSError, StopIteration):
        return ""
    return found.relative_to(source).as_posix() if found.is_file() else ""


def _write_parts(folder: Path, checked: _Checked, images: Mapping[str, str] | None) -> dict[str, str]:
    """Write everything but the manifest; return the digest of each file by its name."""
    # A crash between the files must not leave the old manifest beside new samples.
    try:
        for name in (prepared.MANIFEST_NAME, prepared.IMAGES_NAME):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        problem = f"Cannot write to {folder}: {error.strerror or error}."
        raise RunError(problem, "Choose another folder with --data-dir.") from error
    skipped = ({"item": encodable(item.item), "reason": encodable(item.reason)} for item in checked.skipped)
    texts: dict[str, Iterable[str]] = {
        prepared.split_file(folder, split).name: checked.lines[split] for split in SPLITS
    }
    texts[prepared.SKIPPED_NAME] = files.json_lines(skipped)
    if images is not None:
        texts[prepared.IMAGES_NAME] = prepared.hash_lines(images)
    for name, text in texts.items():
        write_atomically(folder / name, text)
    return {name: file_sha256(folder / name) for name in texts}
