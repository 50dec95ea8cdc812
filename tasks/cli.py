"""The commands `medbench tasks` and `medbench data`."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import click

from tasks.catalog import get_task, select_tasks, task_names
from tasks.foundation.console import emit, emit_table, say, warn
from tasks.foundation.errors import DataError, UsageError
from tasks.prepare import prepare_suite, prepare_task
from tasks.prepared import SPLITS, Prepared, damaged_files, is_prepared, load_prepared
from tasks.sample import Split
from tasks.spec import TaskSpec

MINI = "mini"

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
    return (
        spec.name,
        spec.kind,
        spec.title,
        str(spec.counts.get("train", "-")),
        str(spec.counts.get("test", "-")),
        " ".join(_metric_ids(spec)),
        f"{spec.licence}{' (credentialed)' if spec.credentialed else ''}",
        prepared,
    )


def _metric_ids(spec: TaskSpec) -> list[str]:
    # The scorers bring heavy imports that no other command of this room needs.
    protocols = import_module("tasks.protocols")
    return [metric.metric_id for metric in protocols.metrics_for(spec.name, spec.kind, "paper")]


@click.group("data")
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
def prepare_command(task: Sequence[str], source: Path | None, data_dir: Path | None, options: Sequence[str]) -> None:
    """Read native files and write samples and a manifest. TASK: names, kinds, patterns, or `mini`.

    The images stay where they are. `mini` prepares the bundled suite, needs no --source, and shows its folder.
    """
    if MINI in task:
        _prepare_mini(task, source, data_dir, options)
        return
    if source is None or data_dir is None:
        raise UsageError(
            f"{'--source' if source is None else '--data-dir'} is not given.",
            "Add --source DIR (your native files; `medbench data list` shows the layouts) and --data-dir DIR "
            "(where the prepared samples go).",
        )
    parsed = _parsed_options(options)
    for name in _selected(task):
        _report(prepare_task(get_task(name), source, data_dir, parsed))


def _prepare_mini(task: Sequence[str], source: Path | None, data_dir: Path | None, options: Sequence[str]) -> None:
    if len(task) > 1 or source is not None or options:
        raise UsageError("The mini suite is prepared alone, from its bundled files.", "Use: medbench data prepare mini")
    suite = import_module("tasks.mini_suite").DATA
    emit(str(prepare_suite(suite, data_dir)))


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
    for warning in manifest.warnings:
        warn(f"  {warning}")


@data_group.command("verify")
@click.argument("task", nargs=-1)
@_data_dir_option
def verify_command(task: Sequence[str], data_dir: Path | None) -> None:
    """Compare prepared tasks with their manifests and with the paper's counts. TASK: names, kinds, patterns.

    Ends with exit code 1 if a file differs from its manifest. Counts that differ from the paper's are shown.
    """
    if data_dir is None:
        raise UsageError("--data-dir is not given.", "Add --data-dir DIR, the folder given to medbench data prepare.")
    prepared = _prepared_tasks(task, data_dir)
    damaged = {item.task: damaged_files(item) for item in prepared}
    columns = ("task", "split", "paper", "found", "difference", "files")
    emit_table(columns, [_verify_row(item, split, damaged) for item in prepared for split in SPLITS])
    for item in prepared:
        for reason, count in item.manifest.skipped_counts.items():
            say(f"{item.task}: skipped {count}: {reason}")
        for warning in item.manifest.warnings:
            warn(f"{item.task}: {warning}")
    broken = [f"{name} ({', '.join(files)})" for name, files in damaged.items() if files]
    if broken:
        raise DataError(
            f"Changed since it was prepared: {'; '.join(broken)}.",
            "Prepare these tasks again from their source.",
        )


def _prepared_tasks(task: Sequence[str], data_dir: Path) -> list[Prepared]:
    if task:
        return [load_prepared(data_dir, name) for name in _selected(task)]
    found = [name for name in task_names() if (data_dir / name).is_dir()]
    if not found:
        raise DataError(
            f"No task is prepared in {data_dir}.",
            "Prepare one: medbench data prepare TASK --source DIR --data-dir DIR",
        )
    return [load_prepared(data_dir, name) for name in found]


def _verify_row(prepared: Prepared, split: Split, damaged: dict[str, tuple[str, ...]]) -> tuple[str, ...]:
    expected, found = prepared.spec.counts.get(split), prepared.manifest.counts[split]
    files = ", ".join(damaged[prepared.task]) or "intact"
    difference = "-" if expected is None else f"{found - expected:+d}" if found != expected else "0"
    return (prepared.task, split, "-" if expected is None else str(expected), str(found), difference, files)


def _selected(task: Sequence[str]) -> tuple[str, ...]:
    return select_tasks(",".join(task)) if task else task_names()
