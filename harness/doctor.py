"""The commands `medbench doctor ...`: does this installation say of perfect and useless models what it must?

The scorers are tested by pseudo-models whose scores are known before anything is scored. The peers' scorers fail: a
perfect model gets 50 % of MedEvalKit's PathVQA and 157 % of its SLAKE, an empty one all answers `A`, a constant
`yes no` every closed question of MultiMedEval.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from medbench.adapters.base import Dtype, LocalAdapter, answer_with_box
from medbench.adapters.catalog import choose_model
from medbench.harness.commands import as_table, known_device, weight_options
from medbench.harness.models import load_share, shares_of
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import predict
from medbench.harness.settings import Settings, load_settings
from medbench.harness.workload import TaskLoad, load_workload
from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.foundation.console import emit, emit_table, say
from medbench.tasks.foundation.errors import EXIT_FAILED, DataError, UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.foundation.options import NamedGroup, format_option
from medbench.tasks.prepared import prepared_names
from medbench.tasks.protocols import PROTOCOLS, Item, Protocol, evaluate, tokenise_together
from medbench.tasks.suite import prepare_mini_suite

if TYPE_CHECKING:
    from medbench.harness.trials import EngineDiagnosis

_FOLDER = click.Path(path_type=Path)
# Pixels with all their decimals, so that the oracle's boxes are right to the last bit.
EXACT_BOXES = BoxSpace(name="pixels", units=None, digits=15)
# Returns what it answers, of the right answers and the sentence that a chat model wraps around one.
PseudoModel = Callable[[Sequence[str], str], Sequence[str]]
_REFUSAL = "I'm sorry, but I cannot help with medical images."
_SILENT = ("empty", "refusal")
_PERFECT = 1 - 1e-6  # Corpus BLEU has constants against division by zero that keep even the oracle a hair below 1.


def _shuffled(right: Sequence[str], _: str) -> Sequence[str]:
    half = len(right) // 2
    return [*right[half:], *right[:half]]


def _thinking(right: Sequence[str], _: str) -> Sequence[str]:
    pairs = zip(_shuffled(right, ""), right, strict=True)
    return [f"<think>Is it {other}? The answer is {other}.</think>\n\n{answer}" for other, answer in pairs]


PSEUDO_MODELS: Mapping[str, PseudoModel] = {
    "oracle": lambda right, _: right,
    "empty": lambda right, _: [""] * len(right),
    "refusal": lambda right, _: [_REFUSAL] * len(right),
    "constant": lambda right, _: [Counter(right).most_common(1)[0][0]] * len(right),  # The base rate.
    "shuffled": _shuffled,  # To every sample the right answer of the one half-way round the list.
    "verbose": lambda right, sentence: [sentence.format(answer) for answer in right],
    "thinking": _thinking,  # The right answers behind thoughts that name those of other samples.
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """One metric of one task, by pseudo-model: fractions; None where nothing could be scored."""

    task: str
    protocol: Protocol
    metric: str
    values: Mapping[str, float | None]

    @property
    def fault(self) -> str:
        """What is wrong: thoughts that are read; under `strict` an oracle below 1, or silence above 0; else empty."""
        oracle, thinking = self.values["oracle"], self.values["thinking"]
        if thinking != oracle:
            return f"the oracle scores {_told(oracle)}, and {_told(thinking)} if it thinks first"
        if self.protocol != "strict":
            return ""
        if oracle is not None and oracle < _PERFECT:
            return f"the oracle scores {_told(oracle)}"
        silent = [model for model in _SILENT if self.values[model]]
        return f"the model `{silent[0]}` scores {_told(self.values[silent[0]])}" if silent else ""


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _told(value: float | None) -> str:
    return "nothing" if value is None else f"{_percent(value)} %"


def examine_scorers(loads: Sequence[TaskLoad]) -> list[Diagnosis]:
    """Return what every metric says of every pseudo-model; MedbenchError if Java, which one needs, cannot start."""
    answered = {(load.spec.name, name): _items(load, name) for load in loads for name in PSEUDO_MODELS}
    kinds = {load.spec.name: load.spec.kind for load in loads}
    tokenise_together((name, kinds[name], items) for (name, _), items in answered.items())
    found = []
    for spec, protocol in product((load.spec for load in loads), PROTOCOLS):
        told = {
            model: {one.metric.metric_id: one.value for one in evaluate(spec.name, spec.kind, protocol, items)}
            for model in PSEUDO_MODELS
            for items in [answered[spec.name, model]]
        }
        for metric in told["oracle"]:
            values = {model: None if math.isnan(of[metric]) else of[metric] for model, of in told.items()}
            found.append(Diagnosis(task=spec.name, protocol=protocol, metric=metric, values=values))
    return found


def _items(load: TaskLoad, model: str) -> list[Item]:
    spec, parse = load.spec, partial(answer_with_box, EXACT_BOXES)
    boxes = spec.kind == "rec"
    right = [EXACT_BOXES.write(one.box, (1, 1)) if boxes and one.box else one.reference for one in load.samples]
    texts = PSEUDO_MODELS[model](right, "Findings: {}" if spec.kind == "report" else "The answer is {}.")
    asked = zip(load.samples, texts, strict=True)
    records = ((GenerationRecord(run="doctor", sample_id=one.sample_id, text=text), one) for one, text in asked)
    return [predict(*pair, spec, parse) for pair in records]


@click.group("doctor", cls=NamedGroup)
def doctor_group() -> None:
    """Test this installation.

    \b
    Example:  medbench doctor scorers
    """


@doctor_group.command("scorers")
@click.option(
    "-t", "--tasks", help="Names, kinds, globs, comma-separated.  [default: all that is prepared, variants too]"
)
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N test samples of each task.")
@format_option(["table", "json"], "table")
def scorers_command(tasks: str | None, data_dir: Path | None, limit: int | None, form: str) -> int:
    """Score pseudo-models: oracle, empty, refusal, constant, shuffled, verbose.

    Under `strict` the oracle must score 100 and the empty model 0 everywhere; otherwise the exit code is 1. What
    `paper` says of the oracle is what the official scripts would say of a perfect model.

    \b
    Example:  medbench doctor scorers --tasks vqa,rec
    """
    chosen = (tasks,) if tasks else prepared_names(data_dir or prepare_mini_suite())
    workload = load_workload(Settings(model="doctor", tasks=chosen, data_dir=data_dir, limit=limit))
    diagnoses = examine_scorers(workload.loads)
    if form == "json":
        emit(canonical_json([asdict(diagnosis) for diagnosis in diagnoses], indent=2))
    else:
        rows = [[one.task, one.protocol, one.metric, *map(_percent, one.values.values())] for one in diagnoses]
        columns = ["task", "protocol", "metric", *(PSEUDO_MODELS if diagnoses else ())]
        emit_table(columns, rows, title="What each metric says of pseudo-models, in %")
    if not diagnoses:
        raise DataError("No task was examined.", "Name prepared tasks with --tasks.")
    for found in (faults := [found for found in diagnoses if found.fault]):
        say(f"{found.task} {found.metric} ({found.protocol}): {found.fault}.")
    if not faults:
        say("strict: the oracle scores 100, also if it thinks first, and silence 0. `-`: nothing could be scored.")
    return EXIT_FAILED if faults else 0


@doctor_group.command("engine")
@click.option("-m", "--model", required=True, help="A local model of `medbench models`.")
@click.option("-t", "--tasks", default="all", show_default=True, help="Names, kinds, globs, comma-separated.")
@click.option("--data-dir", type=_FOLDER, help="Prepared tasks.  [default: the bundled mini suite]")
@click.option("--checkpoint", type=_FOLDER, help="Weights.  [default: the model's own]")
@click.option("--device", callback=known_device, metavar="auto|cpu|cuda[:N]|mps", default="auto", show_default=True)
@click.option("--dtype", type=click.Choice(get_args(Dtype)), default="auto", show_default=True)
@weight_options
@click.option(
    "--model-arg", "model_args", multiple=True, callback=as_table, help="NAME=VALUE; see `medbench models NAME`."
)
@click.option("--samples", type=click.IntRange(min=1), default=48, show_default=True, help="How many are compared.")
def engine_command(model: str, samples: int, **options: Any) -> int:
    """Prove on this machine that a model's answers do not depend on the engine's schedule.

    The same samples are answered one by one by transformers' `generate`, and by the engine under several schedules.
    In float32 all answers must be equal, otherwise the exit code is 1; in bfloat16 and float16, where the order of
    sums decides close calls, the agreement is told.

    \b
    Example:  medbench doctor engine --model uni-med --samples 24
    """
    from medbench.harness.trials import examine_engine

    settings = load_settings(None, {"model": model, **options})
    chosen, workload = choose_model(model, settings.model_args), load_workload(settings)
    adapter = load_share(settings, chosen, workload, shares_of(settings, workload)[0])
    if not isinstance(adapter, LocalAdapter):
        raise UsageError(f"The model {model!r} does not use the engine.", "Name a local model, such as uni-med.")
    return show_engine(examine_engine(adapter, workload.answerable(adapter.card.kinds), samples=samples), adapter.dtype)


def show_engine(found: "EngineDiagnosis", dtype: str) -> int:
    """Write what was found of the engine; return failure if an answer differs in float32."""
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
