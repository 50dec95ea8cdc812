"""The command `medbench score`: a run's answers again, or anybody's predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medbench.harness.commands import exit_code, percent, publish, show_results
from medbench.harness.predictions.catalog import DEFAULT_FORMAT, FORMATS
from medbench.tasks.answers.box_space import BOX_SPACES, UNI_MED, BoxSpace
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import EXIT_FAILED, UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.protocols import PROTOCOLS
from medbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from medbench.harness.predictions.scoring import PredictionScores

_FOR_PREDICTIONS = {
    "predictions": "--predictions",
    "source": "--from",
    "references": "--references",
    "boxes": "--boxes",
    "protocol": "--protocol",
    "form": "--format",
}


@click.command("score")
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where the prepared tasks of RUNS are now.")
@click.option("-t", "--task", help="The task that --predictions answer.")
@click.option("--predictions", type=click.Path(path_type=Path), help="A file of predictions, made by anybody.")
@click.option("--from", "source", type=click.Choice(list(FORMATS)), help="Format of the file.  [default: jsonl]")
@click.option("--references", type=click.Path(path_type=Path), help="The right answers, where the format has none.")
@click.option(
    "--boxes", type=click.Choice(list(BOX_SPACES)), help="How the model writes boxes (REC).  [default: uni-med]"
)
@click.option("--protocol", type=click.Choice([*PROTOCOLS, "both"]), help="[default: both]")
@click.option("--format", "form", type=click.Choice(["table", "json"]), help="[default: table]")
def score_command(runs: tuple[Path, ...], data_dir: Path | None, task: str | None, **options: Any) -> int:
    """Score the answers of RUNS again without the model, or score anybody's predictions of one task.

    A line of predictions has at least `prediction` and `reference`; for REC `prediction`, `box` [x1, y1, x2, y2] in
    pixels and `image_size` [width, height]; optional are `answer_type` (OPEN or CLOSED), `choices` and `group`.

    \b
    Example:  medbench score runs/uni-med-mini-0123456789ab
              medbench score --task slake-vqa --predictions answers.jsonl --format json
              medbench score --task medqa-options --predictions MedQA.csv --from multimedeval
    """
    if task is None:
        return _score_runs(runs, data_dir, options)
    if runs or data_dir is not None:
        raise UsageError("Runs and --task exclude each other.", "Score runs or predictions, each by a command.")
    return _score_predictions(task, **options)


def _score_runs(runs: Sequence[Path], data_dir: Path | None, options: dict[str, Any]) -> int:
    from medbench.harness.rescore import rescore
    from medbench.harness.several import Attempt

    given = [_FOR_PREDICTIONS[name] for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{given[0]} needs --task.", "Add --task NAME; `medbench tasks` lists them.")
    if not runs:
        raise UsageError("There is nothing to score.", "Give folders of runs, or --task NAME --predictions FILE.")
    codes = [0]
    for path in runs:
        # One run that cannot be scored does not keep the others from it.
        with Attempt(str(path)) as attempt:
            results = rescore(path, data_dir)
            publish(path)
            say(str(path))
            show_results(results)
            codes.append(exit_code(results))
        codes.append(attempt.exit_code)
    return max(codes)


def _score_predictions(
    task: str,
    predictions: Path | None,
    source: str | None,
    references: Path | None,
    boxes: str | None,
    protocol: str | None,
    form: str | None,
) -> int:
    from medbench.harness.predictions.catalog import read_predictions
    from medbench.harness.predictions.scoring import score_predictions

    if predictions is None:
        raise UsageError("--task needs --predictions.", "Add --predictions FILE.")
    spec = get_task(task)
    found = read_predictions(predictions, source or DEFAULT_FORMAT, spec, references)
    protocols = [name for name in PROTOCOLS if protocol in {None, "both", name}]
    scores = score_predictions(spec, found, _box_space(spec, source or DEFAULT_FORMAT, boxes), protocols)
    if form == "json":
        emit(canonical_json(scores.as_json(), indent=2))
    else:
        _show(scores)
    return _verdict(scores)


def _box_space(spec: TaskSpec, source: str, boxes: str | None) -> BoxSpace | None:
    if boxes is not None and spec.kind != "rec":
        raise UsageError(f"--boxes has no effect on {spec.name}, whose answers are no boxes.", "Leave it out.")
    if not FORMATS[source].boxes_are_read:
        return BOX_SPACES[boxes or UNI_MED.name]
    if boxes is not None:
        raise UsageError(f"--boxes has no effect on the format {source}, which holds boxes in pixels.", "Leave it out.")
    return None


def _show(scores: "PredictionScores") -> None:
    rows = [
        [protocol, name, percent(metric), str(metric.n), metric.signature]
        for protocol, metrics in scores.protocols.items()
        for name, metric in metrics.items()
    ]
    emit_table(["protocol", "metric", "value % [95 % interval]", "n", "signature"], rows, title=_title(scores))


def _title(scores: "PredictionScores") -> str:
    states = ", ".join(f"{count} {state}" for state, count in scores.states.items() if count)
    return f"{scores.task}: {scores.samples} predictions ({states})"


def _verdict(scores: "PredictionScores") -> int:
    if scores.samples and scores.states["unparsed"] == scores.samples - scores.states["error"]:
        say("No answer could be read. Is --boxes the space that the model writes in, or --from another format?")
    if scores.doubt:
        warn(scores.doubt)
    if any(metric.value is not None for metrics in scores.protocols.values() for metric in metrics.values()):
        return 0
    say("Nothing could be scored.")
    return EXIT_FAILED
