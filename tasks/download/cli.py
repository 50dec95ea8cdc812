"""The command `medbench data download`: fetch what may be fetched, and say for the rest how to get it."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from medbench.tasks.catalog import get_task, select_tasks, task_names
from medbench.tasks.download.archives import readable_size
from medbench.tasks.download.sources import HubSource, ManualSource, Source, check_revision, source_of
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.prepare import prepare_task

_SHORT_COMMIT = 12
_DEFAULT_MAX_GB = 20.0
_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("download")
@click.argument("task", nargs=-1)
@click.option("--source", type=_FOLDER, help="Where the native files go; every dataset gets a folder of its own in it.")
@click.option("--data-dir", type=_FOLDER, help="Go on and prepare the tasks into this folder.")
@click.option("--revision", metavar="SHA", help="Fetch this commit from the Hub, not the recorded or pinned one.")
@click.option("--refresh", is_flag=True, help="Forget the recorded commit, and check every file again.")
@click.option(
    "--max-gb",
    type=click.FloatRange(min=0),
    default=_DEFAULT_MAX_GB,
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
        raise UsageError(
            f"--revision is a commit of one repository, and {len(groups)} datasets are asked for.",
            "Download them one by one.",
        )
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
        raise DataError(
            f"Not complete: {', '.join(unfinished)}.", "Follow the steps above, then run the same command again."
        )


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
    revision, size = source.revision[:_SHORT_COMMIT] if source.revision else "not pinned", readable_size(source.size)
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
