"""The commands `medbench tasks` and `medbench data`."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from medbench.tasks import prepared as on_disk
from medbench.tasks import sharing
from medbench.tasks.catalog import PREPARED, get_task, select_among, select_tasks, task_names
from medbench.tasks.download.archives import readable_size
from medbench.tasks.download.sources import HubSource, ManualSource, Source, check_revision, source_of
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.options import NamedGroup, emit_json, json_option
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import HashedFile, Prepared
from medbench.tasks.sample import SPLITS, Split
from medbench.tasks.spec import Skipped, TaskSpec
from medbench.tasks.terms import NOBODY_SAID, checked_licence, terms_of_prepared

if TYPE_CHECKING:
    from medbench.tasks.foundation.registry import Registry
    from medbench.tasks.metrics.asked import MetricEntry

MINI = "mini"
_DIGITS = 12
_FOLDER = click.Path(file_okay=False, path_type=Path)
_data_dir_option = click.option("--data-dir", type=_FOLDER, help="Folder of prepared tasks.")


@click.command("tasks")
@_data_dir_option
@json_option
def tasks_command(data_dir: Path | None, *, as_json: bool) -> None:
    """List the benchmarks: what is asked, how much, how it is scored, and whether --data-dir has it prepared.

    \b
    Example:  medbench tasks
    """
    found = [_about(get_task(name), data_dir) for name in task_names()]
    if as_json:
        emit_json("tasks", {"tasks": found})
        return
    columns = ("task", "kind", "title", "train", "test", "metrics", "licence", "prepared")
    emit_table(columns, [_task_row(one) for one in found])
    say("train, test: samples in the paper. prepared: in the folder given with --data-dir.")


def _about(spec: TaskSpec, data_dir: Path | None) -> dict[str, Any]:
    # The scorers bring heavy imports that no other command of this room needs.
    metrics = import_module("medbench.tasks.protocols").metrics_for(spec.name, spec.kind, "paper")
    return {
        "task": spec.name, "kind": spec.kind, "title": spec.title,
        "paper": {split: spec.counts.get(split) for split in SPLITS},
        "metrics": [metric.metric_id for metric in metrics], "licence": spec.licence, "credentialed": spec.credentialed,
        "prepared": None if data_dir is None else on_disk.is_prepared(data_dir, spec.name),
    }  # fmt: skip


def _task_row(about: Mapping[str, Any]) -> tuple[str, ...]:
    prepared = {None: "-", True: "yes", False: "no"}[about["prepared"]]
    counts = ("-" if count is None else str(count) for count in about["paper"].values())
    licence = f"{about['licence']}{' (credentialed)' if about['credentialed'] else ''}"
    return (about["task"], about["kind"], about["title"], *counts, " ".join(about["metrics"]), licence, prepared)


@click.command("metrics")
@click.argument("name", required=False)
@json_option
def metrics_command(name: str | None, *, as_json: bool) -> None:
    """List the metrics that --metric asks for beside those of the tasks, or show one with its arguments.

    \b
    Example:  medbench metrics
              medbench metrics chexbert
    """
    asked = import_module("medbench.tasks.metrics.asked").ASKED
    found = [_of_metric(name, asked)] if name else list(_of_metrics(asked))
    if as_json:
        emit_json("metrics", {"metrics": found})
    elif name:
        rows = [(key, str(value)) for key, value in found[0].items() if key not in {"arguments", "metric"} and value]
        rows += [(f"--metric-arg {name}:{key}=", meaning) for key, meaning in found[0]["arguments"].items()]
        emit("\n".join([found[0]["metric"], *(f"  {key:8} {text}" for key, text in rows)]))
    else:
        columns = ("metric", "kinds", "cost", "summary", "from")
        emit_table(columns, [[str(one[column]) for column in columns] for one in found])
        say("Ask for one: medbench run ... --metric NAME; of a run that is there: medbench score RUN --metric NAME")


def _of_metrics(asked: "Registry[MetricEntry]") -> Iterator[dict[str, Any]]:
    for name in asked:
        try:
            yield _of_metric(name, asked)
        except MedbenchError as error:
            # A plug-in that is broken hides no other.
            warn(f"{error.problem} {error.hint}")


def _of_metric(name: str, asked: "Registry[MetricEntry]") -> dict[str, Any]:
    entry = asked.load(name)
    return {
        "metric": f"{name}:{entry.variant}" if entry.variant else name, "kinds": " ".join(sorted(entry.kinds)),
        "cost": entry.cost, "summary": entry.summary, "arguments": dict(entry.arguments),
        "from": asked.origin(name) or "medbench",
    }  # fmt: skip


@click.group("data", cls=NamedGroup)
def data_group() -> None:
    """Prepare the datasets that you have on disk, and check them.

    \b
    Example:  medbench data list slake-vqa
              medbench data prepare slake-vqa --source Slake1.0 --data-dir data
              medbench data verify --data-dir data
    """


@data_group.command("list")
@click.argument("task", nargs=-1)
def list_command(task: Sequence[str]) -> None:
    """Show where each dataset comes from and the layout that is read. TASK: names, kinds, patterns."""
    emit("\n\n".join(_description(get_task(name)) for name in _selected(task)))


def _description(spec: TaskSpec) -> str:
    access = " (credentialed access: nothing of it may leave your machine)" if spec.credentialed else ""
    rows = [("source", spec.source), ("licence", f"{spec.licence}{access}"), ("layout", spec.layout)]
    rows += [("option", f"{name}: {meaning}") for name, meaning in spec.options.items()]
    return "\n".join([f"{spec.name}: {spec.title}", *(f"  {name:8} {text}" for name, text in rows)])


@data_group.command("prepare")
@click.argument("task", nargs=-1, required=True)
@click.option("--source", type=_FOLDER, help="Folder with the native files; see `medbench data list`.")
@_data_dir_option
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="A reader option; may be repeated.")
@click.option(
    "--image-hashes",
    type=click.Choice(get_args(on_disk.ImageHashes)),
    default="prepared",
    show_default=True,
    help="prepared: hash every image file that a sample names; none: leave them unread, and out of the fingerprint.",
)
@click.option(
    "--licence",
    default="",
    metavar="TEXT",
    help="Under which the data may be passed on, if you may say so: 'CC BY 4.0'. Without it their texts stay here.",
)
def prepare_command(
    task: Sequence[str],
    source: Path | None,
    data_dir: Path | None,
    options: Sequence[str],
    image_hashes: on_disk.ImageHashes,
    licence: str,
) -> None:
    """Read native files and write samples and a manifest. TASK: names, kinds, patterns, or `mini`.

    The images stay where they are. `mini` prepares the bundled suite, needs no --source, and shows its folder.
    """
    if MINI in task:
        if len(task) > 1 or source is not None or options or licence or image_hashes != "prepared":
            problem = "The mini suite is prepared alone, from its bundled files."
            raise UsageError(problem, "Use: medbench data prepare mini")
        suite = import_module("medbench.tasks.suite")
        emit(str(suite.prepare_suite(suite.DATA, data_dir)))
        return
    if source is None or data_dir is None:
        raise UsageError(
            f"{'--source' if source is None else '--data-dir'} is not given.",
            "Add --source DIR (your native files; `medbench data list` shows the layouts) and --data-dir DIR "
            "(where the prepared samples go).",
        )
    parsed = _parsed_options(options)
    terms = {name: checked_licence(get_task(name), licence) for name in _selected(task)}
    for name, said in terms.items():
        _report(prepare_task(get_task(name), source, data_dir, parsed, image_hashes=image_hashes, licence=said))


def _parsed_options(options: Sequence[str]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name or name in parsed:
            raise UsageError(f"--option {option!r} is not NAME=VALUE, or is given twice.", "Example: --option seed=42")
        parsed[name] = value
    return parsed


def _report(prepared: Prepared) -> None:
    manifest = prepared.manifest
    say(
        f"{prepared.task}: {manifest.counts['train']} train, {manifest.counts['test']} test samples "
        f"({manifest.split_method}) in {prepared.folder}"
    )
    for reason, count in manifest.skipped_counts.items():
        say(f"  skipped {count}: {reason}")
    if manifest.skipped_counts:
        say(f"  every skipped item: {prepared.folder / on_disk.SKIPPED_NAME}")
    for warning in manifest.warnings:
        warn(f"  {warning}")
    if terms_of_prepared(prepared).reason == NOBODY_SAID:
        say(f"  their texts are not passed on: {NOBODY_SAID}")


@data_group.command("verify")
@click.argument("task", nargs=-1)
@_data_dir_option
@click.option("--skipped", "show_skipped", is_flag=True, help="List every skipped item with its reason.")
@click.option("--images", "check_images", is_flag=True, help="Hash the image files again and name those that changed.")
@json_option
def verify_command(
    task: Sequence[str], data_dir: Path | None, *, show_skipped: bool, check_images: bool, as_json: bool
) -> None:
    """Compare prepared tasks with their manifests and with the paper's counts. TASK: names, kinds, patterns.

    Ends with exit code 1 if a file differs from its manifest, or with --images an image from its hash. Counts that
    differ from the paper's are shown.
    """
    if data_dir is None:
        raise UsageError("--data-dir is not given.", "Add --data-dir DIR, the folder given to medbench data prepare.")
    names = _selected(task) if task else on_disk.prepared_names(data_dir)
    prepared = [on_disk.load_prepared(data_dir, name) for name in names]
    damaged = {item.task: on_disk.damaged_files(item) for item in prepared}
    whole = [item for item in prepared if not damaged[item.task]]
    if not as_json:
        columns = ("task", "part", "paper", "found", "difference", "sha256", "file")
        emit_table(columns, [row for item in prepared for row in _verify_rows(item)])
    for item in prepared:
        for reason, count in item.manifest.skipped_counts.items():
            say(f"{item.task}: skipped {count}: {reason}")
        for warning in item.manifest.warnings:
            warn(f"{item.task}: {warning}")
    skipped = {item.task: list(item.skipped()) for item in whole} if show_skipped else {}
    changed = _changed_images(whole) if check_images else {}
    if as_json:
        found = [_verified(item, damaged[item.task], skipped, changed) for item in prepared]
        emit_json("data verify", {"data_dir": str(data_dir), "tasks": found})
    else:
        if show_skipped:
            rows = [(task, one.item, one.reason) for task, items in skipped.items() for one in items]
            _emit_long_table(("task", "skipped item", "reason"), rows)
        if rows := [(task, file.path, file.problem) for task, files in changed.items() for file in files]:
            _emit_long_table(("task", "image", "problem"), rows)
    broken = [f"{name} ({', '.join(files)})" for name, files in damaged.items() if files]
    broken += [f"{name} ({len(images)} images)" for name, images in changed.items() if images]
    if broken:
        way_out = "Restore these files, or prepare these tasks again from their source."
        raise DataError(f"Changed since it was prepared: {'; '.join(broken)}.", way_out)


def _verify_rows(prepared: Prepared) -> Iterator[tuple[str, ...]]:
    manifest = prepared.manifest
    files = {file.path: file for file in on_disk.file_states(prepared)}
    for split in SPLITS:
        expected, found = prepared.spec.counts.get(split), manifest.counts[split]
        difference = "-" if expected is None else f"{found - expected:+d}" if found != expected else "0"
        paper = "-" if expected is None else str(expected)
        file = files[on_disk.split_file(prepared.folder, split).name]
        yield (prepared.task, split, paper, str(found), difference, *_file_cells(file))
    hashed = files.get(on_disk.IMAGES_NAME)
    images = str(len(prepared.image_hashes() or ())) if hashed and not hashed.problem else "-"
    yield (prepared.task, "images", "-", images, "-", *_file_cells(hashed))
    skipped = str(sum(manifest.skipped_counts.values()))
    yield (prepared.task, "skipped", "-", skipped, "-", *_file_cells(files[on_disk.SKIPPED_NAME]))


def _file_cells(file: HashedFile | None) -> tuple[str, str]:
    return (file.sha256[:_DIGITS] or "-", file.problem or "intact") if file else ("-", "not hashed")


def _verified(
    prepared: Prepared, damaged: Sequence[str], skipped: Mapping[str, Sequence[Skipped]],
    changed: Mapping[str, Sequence[HashedFile]],
) -> dict[str, object]:  # fmt: skip
    """Return what is known of a prepared task; None for what was not asked for, or cannot be seen."""
    task, manifest = prepared.task, prepared.manifest
    return {
        "task": task, "intact": not damaged and not changed.get(task), "damaged": damaged,
        "paper": {split: prepared.spec.counts.get(split) for split in SPLITS}, "found": dict(manifest.counts),
        "files": [asdict(file) for file in on_disk.file_states(prepared)],
        "skipped": dict(manifest.skipped_counts), "warnings": list(manifest.warnings),
        "skipped_items": [asdict(one) for one in skipped[task]] if task in skipped else None,
        "images": [asdict(file) for file in changed[task]] if task in changed else None,
    }  # fmt: skip


def _changed_images(prepared: Sequence[Prepared]) -> Mapping[str, tuple[HashedFile, ...]]:
    changed: dict[str, tuple[HashedFile, ...]] = {}
    for item in prepared:
        hashes = item.image_hashes()
        if hashes is None:
            warn(f"{item.task}: the images were not hashed when it was prepared, so they cannot be checked")
        else:
            changed[item.task] = on_disk.changed_images(item.source, hashes, f"{item.task} images")
    return changed


def _emit_long_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    # The tables of the console are measured cell by cell, which takes minutes for a hundred thousand rows.
    lines = [columns, *(tuple(" ".join(cell.split()) for cell in row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    emit("\n".join(line.rstrip() for line in padded))


@data_group.command("profile")
@click.option("--tasks", default=PREPARED, show_default=True, help="Names, kinds, patterns or `prepared`, by commas.")
@_data_dir_option
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True)
@json_option
def profile_command(tasks: str, data_dir: Path | None, split: Split, *, as_json: bool) -> None:
    """Show which images the prepared tasks share: tasks and entries per image, by data set and together.

    Beside them stand the published means of IMAX, which was made image by image. Images are the same if their files
    have the same bytes.

    \b
    Example:  medbench data profile --tasks slake-vqa,slake-rec,slake-reg --data-dir data
    """
    if data_dir is None:
        raise UsageError("--data-dir is not given.", "Add --data-dir DIR, the folder given to medbench data prepare.")
    names = select_among(tasks, on_disk.prepared_names(data_dir)).names
    found = sharing.profile([on_disk.load_prepared(data_dir, name) for name in names], split)
    if found.unhashed:
        warn(f"{', '.join(found.unhashed)}: prepared without hashes, so images are told apart by their paths alone")
    if as_json:
        about = {"data_dir": str(data_dir), "split": split, "tasks": names}
        emit_json("data profile", {**about, **found.table()})
        return
    rows = [(name, " ".join(of), *one.row()) for name, (of, one) in found.data_sets.items()]
    rows += [
        ("together", f"{len(names)} tasks", *found.together.row()),
        (sharing.IMAX_SOURCE, "7 tasks", *sharing.IMAX_ROW),
    ]
    emit_table(("data", "tasks", *sharing.COLUMNS), rows)
    emit("\n".join(found.sentences()))


def _selected(task: Sequence[str]) -> tuple[str, ...]:
    return select_tasks(",".join(task)) if task else task_names()


@data_group.command("download")
@click.argument("task", nargs=-1)
@click.option("--source", type=_FOLDER, help="Where the native files go; every dataset gets a folder of its own in it.")
@click.option("--data-dir", type=_FOLDER, help="Go on and prepare the tasks into this folder.")
@click.option("--revision", metavar="SHA", help="Fetch this commit from the Hub, not the recorded or pinned one.")
@click.option("--refresh", is_flag=True, help="Forget the recorded commit, and check every file again.")
@click.option(
    "--max-gb",
    type=click.FloatRange(min=0),
    default=20.0,
    show_default=True,
    help="Refuse to fetch more than this for one dataset.",
)
def download_command(
    task: Sequence[str], source: Path | None, data_dir: Path | None, revision: str | None, refresh: bool, max_gb: float
) -> None:
    """Fetch datasets whose licence allows it, and say for the others how to get them. TASK: names, kinds, patterns.

    Without TASK: list what would be fetched from where, and what you have to get yourself. When the same command is run
    again, finished files are kept, and one that was interrupted begins anew; download.json in each folder keeps commit
    and checksums.

    \b
    Example:  medbench data download
              medbench data download slake-vqa --source native --data-dir data
    """
    if not task:
        _list()
        return
    if source is None:
        raise UsageError("--source is not given.", "Add --source DIR, the folder where the native files go.")
    groups: dict[str, list[str]] = {}
    for name in select_tasks(",".join(task)):
        groups.setdefault(source_of(get_task(name)).family, []).append(name)
    if revision is not None and len(groups) > 1:
        problem = f"--revision is a commit of one repository, and {len(groups)} datasets are asked for."
        raise UsageError(problem, "Download them one by one.")
    unfinished: list[str] = []
    for family, names in groups.items():
        found, folder = source_of(get_task(names[0])), source / family
        if revision is not None:
            check_revision(found, revision)
        if not isinstance(found, ManualSource):
            # The client of the Hub takes a while to import, and listing needs none.
            from medbench.tasks.download.fetch import download

            download(found, folder, revision=revision, refresh=refresh, max_bytes=int(max_gb * 10**9))
        unfinished += _settle(found, names, folder, data_dir)
    if unfinished:
        way_out = "Follow the steps above, then run the same command again."
        raise DataError(f"Not complete: {', '.join(unfinished)}.", way_out)


def _list() -> None:
    columns = ("task", "how", "from", "revision", "size", "licence")
    sources = {name: source_of(get_task(name)) for name in task_names()}
    emit_table(columns, [(name, *_row(source)) for name, source in sources.items()])
    for name, source in sources.items():
        if source.licence_note:
            say(f"{name}: {source.licence_note}.")
    say("by hand: `medbench data download TASK --source DIR` says how. not pinned: the newest commit is looked up.")


def _row(source: Source) -> tuple[str, str, str, str, str]:
    if isinstance(source, ManualSource):
        return ("by hand", source.reason, "-", "-", source.licence)
    revision, size = source.revision[:_DIGITS] if source.revision else "not pinned", readable_size(source.size)
    how, about = ("Hub", "about ") if isinstance(source, HubSource) else ("web", "")
    return (how, source.home, revision, f"{about}{size}", source.licence)


def _settle(source: Source, names: Sequence[str], folder: Path, data_dir: Path | None) -> list[str]:
    """Prepare the tasks of a folder, or check that they can be read; return those for which something is missing."""
    # What stands for files that are not unpacked here is too large to be read only to count it.
    stand_in = isinstance(source, HubSource) and any((folder / name).exists() for name in source.instead)
    counted = names if data_dir or not stand_in else ()
    try:
        for name in counted:
            say(_prepared_or_read(name, folder, data_dir))
    except DataError as error:
        if not source.steps:
            raise
        emit("\n".join(_instructions(source, names, folder)))
        say(f"At present: {error.problem}")
        return list(names)
    if source.note and not (source.note_unless and (folder / source.note_unless).exists()):
        warn(source.note.replace("{folder}", str(folder)))
    if not data_dir:
        say(f"Next: {_prepare_command(names, folder)}")
    return []


def _prepared_or_read(name: str, folder: Path, data_dir: Path | None) -> str:
    spec = get_task(name)
    if data_dir is None:
        samples = spec.reader(folder.resolve(), {}).samples
        tests = sum(sample.split == "test" for sample in samples)
        return f"{name}: {len(samples) - tests} train, {tests} test samples are readable in {folder}."
    prepared = prepare_task(spec, folder, data_dir, {})
    counts = prepared.manifest.counts
    return (
        f"{name}: {counts['train']} train, {counts['test']} test samples ({prepared.manifest.split_method}) in "
        f"{prepared.folder}; `medbench data verify {name}` shows what was skipped."
    )


def _instructions(source: Source, names: Sequence[str], folder: Path) -> Iterator[str]:
    reason = source.reason if isinstance(source, ManualSource) else "the files are there, but not yet as they are read"
    yield f"{', '.join(names)}: to be done by hand; {reason}."
    yield f"  licence: {source.licence}"
    last = f"Prepare: {_prepare_command(names, folder)}"
    for number, step in enumerate((*source.steps, last), start=1):
        yield f"  {number}. {step.replace('{folder}', shlex.quote(str(folder)))}"
    if source.note:
        yield f"  Note: {source.note.replace('{folder}', str(folder))}"


def _prepare_command(names: Sequence[str], folder: Path) -> str:
    return f"medbench data prepare {' '.join(names)} --source {shlex.quote(str(folder))} --data-dir DATA"
