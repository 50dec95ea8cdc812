"""The commands `medbench doctor ...`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from medbench.adapters.base import Device, Dtype
from medbench.harness.options import as_table
from medbench.tasks.foundation.console import emit, emit_table, say
from medbench.tasks.foundation.errors import EXIT_FAILED, DataError, UsageError
from medbench.tasks.foundation.files import canonical_json

if TYPE_CHECKING:
    from medbench.harness.doctor.engine import EngineDiagnosis
    from medbench.harness.doctor.scorers import Diagnosis


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
    from medbench.harness.doctor.scorers import examine_scorers
    from medbench.harness.settings import Settings
    from medbench.harness.workload import load_workload
    from medbench.tasks.prepared import prepared_names
    from medbench.tasks.suite import prepare_mini_suite

    chosen = (tasks,) if tasks else prepared_names(data_dir or prepare_mini_suite())
    workload = load_workload(Settings(model="doctor", tasks=chosen, data_dir=data_dir, limit=limit))
    diagnoses = examine_scorers(workload.loads)
    if form == "json":
        emit(canonical_json([diagnosis.as_json() for diagnosis in diagnoses], indent=2))
    else:
        _show(diagnoses)
    return _verdict(diagnoses)


@doctor_group.command("engine")
@click.option("-m", "--model", required=True, help="A local model of `medbench models`.")
@click.option("-t", "--tasks", default="all", show_default=True, help="Names, kinds, globs, comma-separated.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Weights.  [default: the model's own]")
@click.option("--device", type=click.Choice(get_args(Device)), default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(get_args(Dtype)), default="auto", show_default=True)
@click.option(
    "--model-arg", "model_args", multiple=True, callback=as_table, help="NAME=VALUE; see `medbench models NAME`."
)
@click.option("--samples", type=click.IntRange(min=1), default=48, show_default=True, help="How many are compared.")
def engine_command(model: str, tasks: str, samples: int, **options: Any) -> int:
    """Prove on this machine that a model's answers do not depend on the engine's schedule.

    The same samples are answered one by one by transformers' `generate`, and by the engine under several schedules.
    In float32 all answers must be equal, otherwise the exit code is 1; in bfloat16 and float16, where the order of
    sums decides close calls, the agreement is told.

    \b
    Example:  medbench doctor engine --model uni-med --samples 24
    """
    from medbench.adapters.base import LocalAdapter
    from medbench.adapters.catalog import choose_model
    from medbench.harness.doctor.engine import examine_engine
    from medbench.harness.run import load_options
    from medbench.harness.settings import load_settings
    from medbench.harness.workload import load_workload

    settings = load_settings(None, {"model": model, "tasks": (tasks,), **options})
    chosen = choose_model(model, settings.model_args)
    workload = load_workload(settings)
    adapter = chosen.entry.load(load_options(settings, chosen, workload, settings.checkpoint))
    if not isinstance(adapter, LocalAdapter):
        raise UsageError(f"The model {model!r} does not use the engine.", "Name a local model, such as uni-med.")
    loads = [load for load in workload.loads if load.spec.kind in adapter.card.kinds]
    return _engine_verdict(examine_engine(adapter, loads, samples=samples), adapter.dtype)


def _engine_verdict(found: "EngineDiagnosis", dtype: str) -> int:
    rows = [[one.schedule, f"{one.equal}/{one.total}", one.differing or "none"] for one in found.agreements]
    emit_table(["schedule", "equal", "first that differs"], rows, title=f"Against generate, one by one, {dtype}")
    if not found.driven:
        say("This decoder cannot be driven row by row; runs use static batches.")
    if found.unreadable:
        say(f"{found.unreadable} samples were left out: an image is missing or broken.")
    equal = all(one.equal == one.total for one in found.agreements)
    if equal:
        say("All schedules give the same answers.")
    elif dtype != "float32":
        say(f"In {dtype} close calls depend on the order of sums; compare models under one schedule, or in float32.")
    return EXIT_FAILED if dtype == "float32" and not equal else 0


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
        say("strict: the oracle scores 100, also if it thinks first, and silence 0. `-`: nothing could be scored.")
    return EXIT_FAILED if faults else 0
