"""Probing one model: its states, those of its random twin, its answers, and what probes make of them."""

import gc
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from medbench.adapters.base import LocalAdapter
from medbench.adapters.catalog import choose_model
from medbench.harness.identity import installed_version
from medbench.harness.models import load_share, shares_of
from medbench.harness.probing.curves import Answers, Network, Options, found_of
from medbench.harness.probing.document import Probed, TargetFound, write_probed
from medbench.harness.probing.places import randomise
from medbench.harness.probing.reading import StateReader
from medbench.harness.probing.states import States, read_states
from medbench.harness.probing.targets import ANSWER, Asked, Target, target_of
from medbench.harness.results import read_results
from medbench.harness.run import publish_run, run
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, Workload, load_workload, tasks_named
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import fingerprint, read_json_lines
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.images import open_image
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind
from medbench.tasks.validation import NativeRow, parse_value

# What a leaderboard says of it; named, not imported, since the leaderboard is built on the harness.
write_summary: Callable[[Path, Sequence[Probed]], None] = imported_when_called(
    "medbench.leaderboard.probing.summary:write_summary"
)
_METRICS: Mapping[str, str] = {"cls": "accuracy", "qa": "accuracy", "vqa": "closed_accuracy", "rec": "iou"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is to be done with one model."""

    settings: Settings  # Of the model; its tasks are those of `asked`, its output folder is not used.
    asked: tuple[Asked, ...]
    label: str
    folder: Path
    options: Options
    batch: int = 16
    train_samples: int | None = None  # Drawn of each train split; None for all.
    random: bool = True  # Whether states of random weights are read too.
    run: Path | None = None  # A finished run whose answers are taken; None to answer here.
    reference: str = "none"  # Networks that vision is compared with: `small`, or a path; see `reference`.
    workload: Workload = field(init=False)

    def __post_init__(self) -> None:
        """Read the tasks; raises like `load_workload` and `target_of`, before anything is loaded."""
        workload = load_workload(self.settings)
        named = [(one, name) for one in self.asked for name in tasks_named(one.task, workload.names, "--tasks")]
        object.__setattr__(self, "workload", workload)
        object.__setattr__(self, "asked", tuple(Asked(task=name, label=one.label) for one, name in named))
        for asked, load in self._targets():
            samples = self._samples(load)
            pictures = [f"{one.images[:1]}" for one in samples]  # As if no picture had a twin.
            target_of(asked, load.prepared, samples, pictures, self.options.seed)
        if self.reference not in {"none", "small"} and not Path(self.reference).exists():
            problem = f"--reference {self.reference} is neither a folder nor a file here."
            raise UsageError(problem, "Give small, none, a folder of an image classifier, or a file of predictions.")

    def _targets(self) -> list[tuple[Asked, TaskLoad]]:
        loads = {load.spec.name: load for load in self.workload.loads}
        return [(one, loads[one.task]) for one in self.asked]

    def do(self) -> Probed:
        """Do it; what is there already is used. Raises a MedbenchError; the same call goes on."""
        samples = {load.spec.name: self._samples(load) for load in self.workload.loads}
        adapter = self._loaded()
        self._refuse_other_answers(adapter.weights_fingerprint)
        # Probes need float64, which only these have.
        device = adapter.device if adapter.device.startswith("cuda") else "cpu"
        options = replace(self.options, device=device)
        about: dict[str, str] = {"title": adapter.title, "weights": adapter.weights_fingerprint, "dtype": adapter.dtype}
        notices = (*self.workload.notices, *adapter.notices)
        states = {name: self._states(adapter, name, some, "") for name, some in samples.items()}
        random = dict[str, States]()
        if self.random and not adapter.quantised:
            randomise(adapter, self.options.seed)
            random = {name: self._states(adapter, name, some, "-random") for name, some in samples.items()}
        kinds = adapter.card.kinds
        adapter.close()
        del adapter
        gc.collect()
        scored = self._scored(kinds)
        found = [
            self._found(asked, load, samples[asked.task], states[asked.task], random.get(asked.task), scored, options)
            for asked, load in self._targets()
        ]  # fmt: skip
        probed = Probed(
            label=self.label, margin=self.options.margin, refits=self.options.refits, seed=self.options.seed,
            targets=tuple(found), notices=notices, medbench=installed_version("medbench"), **about,
        )  # fmt: skip
        write_probed(self.folder, probed)
        for path in {file.parents[1] for file in scored.values()}:
            write_summary(path / "probed.json", [probed])
        return probed

    def plan(self) -> tuple[tuple[str, ...], list[list[str]], str]:
        """Load the model, read a batch of each task, and return columns, rows and title of what all of it takes."""
        adapter, rows = self._loaded(), list[list[str]]()
        for load in self.workload.loads:
            samples = self._samples(load)
            reader = StateReader(adapter, load.prepared, sketch=load.spec.kind == "rec")
            reader.read(samples[: self.batch])  # Which finds the places.
            started = time.perf_counter()
            reader.read(samples[-self.batch :])
            each = (time.perf_counter() - started) / min(self.batch, len(samples))
            width, twice = sum(one.width for one in reader.places), 1 + self.random
            size = twice * len(samples) * width * 4 / 1e9
            row = [load.spec.name, f"{len(samples):,}", f"{len(reader.places)}", f"{width:,}", f"{size:.2f} GB"]
            rows.append([*row, f"{twice * len(samples) * each / 60:.1f} min"])
        columns = ("task", "samples", "places", "numbers of a sample", "states on disk", "reading them")
        return columns, rows, f"Probing {adapter.title} on {adapter.device}, answers and probes apart"

    def _samples(self, load: TaskLoad) -> list[Sample]:
        """Return the train and the test samples, questions of one picture beside one another."""
        train = load.prepared.samples("train")
        if self.train_samples is not None and self.train_samples < len(train):
            drawn = np.random.default_rng(self.options.seed).choice(len(train), self.train_samples, replace=False)
            train = tuple(train[place] for place in sorted(drawn))
        return sorted([*train, *load.samples], key=lambda one: [(ref.path, ref.index) for ref in one.images])

    def _loaded(self) -> LocalAdapter:
        model = choose_model(self.settings.model, self.settings.model_args)
        adapter = load_share(self.settings, model, self.workload, shares_of(self.settings, self.workload)[0])
        if isinstance(adapter, LocalAdapter):
            return adapter
        raise UsageError(
            f"{adapter.title} shows nothing but its answers.", "Probe a local model: uni-med, hf:NAME, ..."
        )

    def _states(self, adapter: LocalAdapter, task: str, samples: Sequence[Sample], of: str) -> States:
        load = next(one for one in self.workload.loads if one.spec.name == task)
        sketch = load.spec.kind == "rec"
        identity = fingerprint([
            adapter.weights_fingerprint, dict(adapter.made_of), adapter.dtype, load.spec.fingerprint(),
            load.prepared.manifest.data_fingerprint, sketch, of and self.options.seed,
        ])  # fmt: skip
        reader = StateReader(adapter, load.prepared, sketch=sketch)
        file = self.folder / "states" / f"{task}{of}.f32"
        return read_states(reader, samples, file, of=identity, batch=self.batch)

    def _refuse_other_answers(self, weights: str) -> None:
        results = None if self.run is None else read_results(self.run)
        if results is not None and results.imported is None and results.model.weights != weights:
            problem = f"{self.run} has the answers of other weights than {self.settings.model} has here."
            raise UsageError(problem, "Give the run of these weights, or none: the model is asked then.")

    def _scored(self, kinds: Collection[Kind]) -> Mapping[str, Path]:
        """Return the file with the scores of each task that the model is asked; it is asked where there are none."""
        asked = {one.task: load.spec.kind in kinds for one, load in self._targets() if one.label == ANSWER}
        names = tuple(name for name, able in asked.items() if able)
        if unable := [name for name, able in asked.items() if not able]:
            warn(f"{self.settings.model} does not answer {', '.join(unable)}: its states are probed alone.")
        if not names:
            return {}
        path = self.run
        if path is None:
            settings = replace(self.settings, tasks=names, output_dir=self.folder / "runs")
            path = run(settings, publish_run).path
        found = {name: path / "scores" / f"{name}.jsonl" for name in names}
        for name in [name for name, file in found.items() if not file.is_file()]:
            warn(f"{path} has no scores of {name}, so its answers are not compared with anything.")
            del found[name]
        return found

    def _found(
        self, asked: Asked, load: TaskLoad, samples: Sequence[Sample], states: States, random: States | None,
        scored: Mapping[str, Path], options: Options,
    ) -> TargetFound:  # fmt: skip
        target = target_of(asked, load.prepared, samples, states.digests, self.options.seed)
        say(f"{asked.name}: {len(target.parts.train)} train, {len(target.parts.validation)} validation, "
            f"{len(target.parts.test)} test samples")  # fmt: skip
        file = scored.get(asked.task) if asked.label == ANSWER else None
        answers = None if file is None else answers_of(file, _METRICS[load.spec.kind], samples, target)
        networks = self._networks(load, samples, target, options)
        return found_of(target, load.spec.title, states, random, networks, answers, options)

    def _networks(
        self, load: TaskLoad, samples: Sequence[Sample], target: Target, options: Options
    ) -> Sequence[Network]:
        """Return what vision is compared with; nothing where a picture alone does not tell, or for boxes."""
        if self.reference == "none" or target.kind == "box" or target.needs_question:
            return ()
        from medbench.harness.probing.reference import Pictures, Stated, Training, references

        source = load.prepared.source
        pictures = Pictures(
            task=target.asked.name, names=[one.sample_id for one in samples],
            open=lambda place: open_image(source, samples[place].images[0]), labels=target.right.astype(np.intp),
            classes=target.classes, parts=target.parts, fingerprint=load.prepared.manifest.data_fingerprint,
        )  # fmt: skip
        training = Training(seed=options.seed, device=options.device)
        folder = self.folder.parent / "references" / target.asked.name.replace(":", "-")
        return [
            Network(name=one.name, stated=one.accuracy)
            if isinstance(one, Stated)
            else Network(name=one.name, predicted=list(one.predicted.astype(np.float64)), validation=one.validation)
            for one in references(self.reference, pictures, folder, training)
        ]


class _Scored(NativeRow):
    value: Annotated[float, Field(ge=0, le=1)] | None


class _Line(NativeRow):
    sample_id: str
    strict: dict[str, _Scored]


def answers_of(file: Path, metric: str, samples: Sequence[Sample], target: Target) -> Answers:
    """Return how right the answers in a run's file of scores are to the test samples of a target, under `strict`."""
    lines = (parse_value(_Line, record, str(file)) for record in read_json_lines(file))
    found = {one.sample_id: one.strict[metric].value for one in lines if metric in one.strict}
    scores = {name: value for name, value in found.items() if value is not None}
    names = [samples[place].sample_id for place in target.parts.test]
    there = [place for place, name in enumerate(names) if name in scores]
    right = np.asarray([scores[names[place]] for place in there], dtype=np.float64)
    return Answers(scores=right, there=np.asarray(there, dtype=np.intp), failed=len(names) - len(there))
