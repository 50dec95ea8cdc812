"""The commands `medbench doctor ...`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tasks.foundation.console import emit, emit_table, say
from tasks.foundation.errors import EXIT_FAILED, DataError
from tasks.foundation.files import canonical_json

if TYPE_CHECKING:
    from harness.doctor.scorers import Diagnosis


@click.group("doctor")
def doctor_group() -> None:
    """Test this installation.

    \b
    Example:  medbench doctor scorers
    """


@doctor_group.command("scorers")
@click.option(
    "-t", "--tasks", help="Names, kinds, globs, comma-separated.  [default: all that is prepared, variants too]"
)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N test samples of each task.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def scorers_command(tasks: str | None, data_dir: Path | None, limit: int | None, form: str) -> int:
    """Score pseudo-models: oracle, empty, refusal, constant, shuffled, verbose.

    Under `strict` the oracle must score 100 and the empty model 0 everywhere; otherwise the exit code is 1. What
    `paper` says of the oracle is what the official scripts would say of a perfect model.

    \b
    Example:  medbench doctor scorers --tasks vqa,rec
    """
    from harness.doctor.scorers import examine_scorers
    from harness.settings import Settings
    from harness.workload import load_workload
    from tasks.prepared import prepared_names
    from tasks.suite import prepare_mini_suite

    chosen = (tasks,) if tasks else prepared_names(data_dir or prepare_mini_suite())
    workload = load_workload(Settings(model="doctor", tasks=chosen, data_dir=data_dir, limit=limit))
    diagnoses = examine_scorers(workload.loads)
    if form == "json":
        emit(canonical_json([diagnosis.as_json() for diagnosis in diagnoses], indent=2))
    else:
        _show(diagnoses)
    return _verdict(diagnoses)


def _show(diagnoses: "list[Diagnosis]") -> None:
    models = list(diagnoses[0].values) if diagnoses else []
    rows = [
        [found.task, found.protocol, found.metric, *(_percent(found.values[model]) for model in models)]
        for found in diagnoses
    ]
    emit_table(["task", "protocol", "metric", *models], rows, title="What each metric says of pseudo-models, in %")


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _verdict(diagnoses: "list[Diagnosis]") -> int:
    if not diagnoses:
        raise DataError("No task was examined.", "Name prepared tasks with --tasks.")
    faults = [found for found in diagnoses if found.fault]
    for found in faults:
        say(f"{found.task} {found.metric} ({found.protocol}): {found.fault}.")
    if not faults:
        say("strict: the oracle scores 100 and the empty model 0 everywhere. `-`: nothing could be scored.")
    return EXIT_FAILED if faults else 0
