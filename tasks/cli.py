"""The commands `medbench tasks` and `medbench data`."""

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import get_args

import click

from medbench.tasks.catalog import get_task, select_tasks, task_names
from medbench.tasks.download.cli import download_command
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import (
    IMAGES_NAME,
    SKIPPED_NAME,
    HashedFile,
    ImageHashes,
    Prepared,
    changed_images,
    damaged_files,
    file_states,
    is_prepared,
    load_prepared,
    prepared_names,
    split_file,
)
from medbench.tasks.sample import SPLITS
from medbench.tasks.spec import TaskSpec
from medbench.tasks.terms import NOBODY_SAID, checked_licence, terms_of_prepared

MINI = "mini"
_DIGITS = 12

_data_dir_option = click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Folder of prepared tasks."
)


@click.command("tasks")
@_data_dir_option
def tasks_command(data_dir: Path | None) -> None:
    """List the benchmarks: what is asked, how much, how it is scored, and whether --data-dir has it prepared.

    \b
    Example:  medbench tasks
    """
    columns = ("task", "kind", "title", "train", "test", "metrics", "licence", "prepared")
    emit_table(columns, [_task_row(get_task(name), data_dir) for name in task_names()])
    say("train, test: samples in the paper. prepared: in the folder given with --data-dir.")


def _task_row(spec: TaskSpec, data_dir: Path | None) -> tuple[str, ...]:
    prepared = "-" if data_dir is None else "yes" if is_prepared(data_dir, spec.name) else "no"
    counts = (str(spec.counts.get(split, "-")) for split in SPLITS)
    # The scorers bring heavy imports that no other command of this room needs.
    metrics = import_module("medbench.tasks.protocols").metrics_for(spec.name, spec.kind, "paper")
    scored = " ".join(metric.metric_id for metric in metrics)
    licence = f"{spec.licence}{' (credentialed)' if spec.credentialed else ''}"
    return (spec.name, spec.kind, spec.title, *counts, scored, licence, prepared)


@click.group("data")
def data_group() -> None:
    """Prepare the datasets that you have on disk, and check them.

    \b
    Example:  medbench data list slake-vqa
              medbench data prepare slake-vqa --source Slake1.0 --data-dir data
              medbench data verify --data-dir data
    """


data_group.add_command(download_command)


@data_group.command("list")
@click.argument("task", nargs=-1)
def list_command(task: Sequence[str]) -> None:
    """Show where each dataset comes from and the layout that is read. TASK: names, kinds, patterns."""
    emit("\n\n".join(_description(get_task(name)) for name in _selected(task)))


def _description(spec: TaskSpec) -> str:
    access = " (credentialed access: nothing of it may leave your machine)" if spec.credentialed else ""
    lines = [
        f"{spec.name}: {spec.title}",
        f"  source   {spec.source}",
        f"  licence  {spec.licence}{access}",
        f"  layout   {spec.layout}",
    ]
    lines += [f"  option   {name}: {meaning}" for name, meaning in spec.options.items()]
    return "\n".join(lines)


@data_group.command("prepare")
@click.argument("task", nargs=-1, required=True)
@click.option(
    "--source",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with the native files; see `medbench data list`.",
)
@_data_dir_option
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="A reader option; may be repeated.")
@click.option(
    "--image-hashes",
    type=click.Choice(get_args(ImageHashes)),
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
    image_hashes: ImageHashes,
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
        say(f"  every skipped item: {prepared.folder / SKIPPED_NAME}")
    for warning in manifest.warnings:
        warn(f"  {warning}")
    if terms_of_prepared(prepared).reason == NOBODY_SAID:
        say(f"  their texts are not passed on: {NOBODY_SAID}")


@data_group.command("verify")
@click.argument("task", nargs=-1)
@_data_dir_option
@click.option("--skipped", "show_skipped", is_flag=True, help="List every skipped item with its reason.")
@click.option("--images", "check_images", is_flag=True, help="Hash the image files again and name those that changed.")
def verify_command(task: Sequence[str], data_dir: Path | None, show_skipped: bool, check_images: bool) -> None:
    """Compare prepared tasks with their manifests and with the paper's counts. TASK: names, kinds, patterns.

    Ends with exit code 1 if a file differs from its manifest, or with --images an image from its hash. Counts that
    differ from the paper's are shown.
    """
    if data_dir is None:
        raise UsageError("--data-dir is not given.", "Add --data-dir DIR, the folder given to medbench data prepare.")
    prepared = [load_prepared(data_dir, name) for name in (_selected(task) if task else prepared_names(data_dir))]
    columns = ("task", "part", "paper", "found", "difference", "sha256", "file")
    emit_table(columns, [row for item in prepared for row in _verify_rows(item)])
    for item in prepared:
        for reason, count in item.manifest.skipped_counts.items():
            say(f"{item.task}: skipped {count}: {reason}")
        for warning in item.manifest.warnings:
            warn(f"{item.task}: {warning}")
    damaged = {item.task: damaged_files(item) for item in prepared}
    whole = [item for item in prepared if not damaged[item.task]]
    if show_skipped:
        rows = [(item.task, skipped.item, skipped.reason) for item in whole for skipped in item.skipped()]
        _emit_long_table(("task", "skipped item", "reason"), rows)
    changed = _check_images(whole) if check_images else {}
    broken = [f"{name} ({', '.join(files)})" for name, files in damaged.items() if files]
    broken += [f"{name} ({len(images)} images)" for name, images in changed.items() if images]
    if broken:
        raise DataError(
            f"Changed since it was prepared: {'; '.join(broken)}.",
            "Restore these files, or prepare these tasks again from their source.",
        )


def _verify_rows(prepared: Prepared) -> Iterator[tuple[str, ...]]:
    manifest = prepared.manifest
    files = {file.path: file for file in file_states(prepared)}
    for split in SPLITS:
        expected, found = prepared.spec.counts.get(split), manifest.counts[split]
        difference = "-" if expected is None else f"{found - expected:+d}" if found != expected else "0"
        paper = "-" if expected is None else str(expected)
        file = files[split_file(prepared.folder, split).name]
        yield (prepared.task, split, paper, str(found), difference, *_file_cells(file))
    hashed = files.get(IMAGES_NAME)
    images = str(len(prepared.image_hashes() or ())) if hashed and not hashed.problem else "-"
    yield (prepared.task, "images", "-", images, "-", *_file_cells(hashed))
    skipped = str(sum(manifest.skipped_counts.values()))
    yield (prepared.task, "skipped", "-", skipped, "-", *_file_cells(files[SKIPPED_NAME]))


def _file_cells(file: HashedFile | None) -> tuple[str, str]:
    return (file.sha256[:_DIGITS] or "-", file.problem or "intact") if file else ("-", "not hashed")


def _check_images(prepared: Sequence[Prepared]) -> Mapping[str, tuple[HashedFile, ...]]:
    changed: dict[str, tuple[HashedFile, ...]] = {}
    for item in prepared:
        hashes = item.image_hashes()
        if hashes is None:
            warn(f"{item.task}: the images were not hashed when it was prepared, so they cannot be checked")
        else:
            changed[item.task] = changed_images(item.source, hashes, f"{item.task} images")
    rows = [(task, file.path, file.problem) for task, files in changed.items() for file in files]
    if rows:
        _emit_long_table(("task", "image", "problem"), rows)
    return changed


def _emit_long_table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    # The tables of the console are measured cell by cell, which takes minutes for a hundred thousand rows.
    lines = [columns, *(tuple(" ".join(cell.split()) for cell in row) for row in rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    emit("\n".join(line.rstrip() for line in padded))


def _selected(task: Sequence[str]) -> tuple[str, ...]:
    return select_tasks(",".join(task)) if task else task_names()
