"""Interference between tasks for the rooms above: what a user names becomes models, and these become tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medbench.adapters.hf.entry import short_name
from medbench.adapters.uni_med import MINI_WEIGHTS
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.unimed.interpret import document, fisher, fisher_rows, maps, measure
from medbench.unimed.interpret.choice import Choice
from medbench.unimed.interpret.document import Document, Interference, Measured, Number
from medbench.unimed.interpret.fisher import Change, Estimate, FisherDocument
from medbench.unimed.interpret.maps import PLACES, Maps
from medbench.unimed.interpret.measure import Subject, Table
from medbench.unimed.interpret.subjects import uni_med

__all__ = [
    "FILE",
    "PLACES",
    "Document",
    "Interference",
    "Maps",
    "Measured",
    "Number",
    "Work",
    "fisher",
    "read",
    "resolved",
    "tables",
]
FILE = document.FILE
_UNI_MED, _HF = "uni-med", "hf:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Models to measure."""

    subjects: Sequence[Subject[Any]]
    choice: Choice

    @classmethod
    def of(cls, names: Sequence[str], **chosen: Any) -> "Work":
        """Return the models of names, none of which is loaded yet; `chosen` are the fields of `Choice`.

        UsageError or DataError if one of them, or what was chosen, is not there or cannot be measured.
        """
        choice, subjects = Choice(**chosen), dict[str, Subject[Any]]()
        for name in names:
            label, model, folder = resolved(name)
            others = sum(one == label or one.startswith(f"{label}-") for one in subjects)
            label = f"{label}-{others + 1}" if label in subjects else label
            subjects[label] = _subject(model, folder, label, choice)
        return cls(subjects=tuple(subjects.values()), choice=choice)

    def plan(self) -> Table:
        """Return columns and rows that say what it takes."""
        return measure.plan(self.subjects, self.choice)

    def measure(self, output: Path) -> Document:
        """Measure; see `medbench.unimed.interpret.measure.measure`."""
        return measure.measure(self.subjects, self.choice, output)

    def fisher_plan(self, samples: int) -> Table:
        """Return columns and rows that say what `fisher` takes on the disk."""
        return fisher_rows.plan(self.subjects, samples)

    def fisher(self, output: Path, samples: int) -> FisherDocument:
        """Measure Fisher spectra, with batches of one sample; see `medbench.unimed.interpret.fisher_rows.measure`."""
        return fisher_rows.measure(self.subjects, self.choice, samples, output)

    def map(self, output: Path, count: int) -> None:
        """Write maps of `count` images of each task for those models whose features can be had."""
        asked = [one.maps for one in self.subjects if count and one.maps is not None]
        made = [found for of in asked if (found := of(count, self.choice.seed or 0)) is not None]
        maps.write_maps(made, output)


def read(output: Path) -> tuple[Document, tuple[Maps, ...], FisherDocument | None]:
    """Return what was measured into a folder, maps and spectra if there are some; DataError if a file is malformed.

    Spectra that an earlier command left of other weights are none.
    """
    found, file = document.read_document(output / FILE), output / fisher.FILE
    spectra = fisher.read_fisher(file) if file.exists() else None
    if spectra and [one.fingerprint for one in spectra.models] != [one.fingerprint for one in found.models]:
        spectra = None
    return found, maps.read_maps(output), spectra


def resolved(name: str) -> tuple[str, str, Path]:
    """Return a label, a model, and the folder of its checkpoint; UsageError if a name is none of either."""
    if name == _UNI_MED:
        return "uni-med-mini", _UNI_MED, MINI_WEIGHTS
    if name.startswith(_HF):
        return short_name(name.removeprefix(_HF)), name, Path()
    path = Path(name)
    if not path.is_dir():
        way_out = "Give the folder of a checkpoint or a run, uni-med for the bundled mini weights, or hf:NAME."
        raise UsageError(f"{name} is no folder.", way_out)
    label = path.resolve().name
    if not (path / "run.yaml").is_file():
        return label, _UNI_MED, path
    settings = read_yaml_table(path / "run.yaml").get("settings")
    if not isinstance(settings, dict) or "model" not in settings:
        raise UsageError(f"{path / 'run.yaml'} names no model.", "Give a folder that `medbench run` made.")
    checkpoint = settings.get("checkpoint")
    return label, str(settings["model"]), Path(str(checkpoint)) if checkpoint else MINI_WEIGHTS


def _subject(model: str, folder: Path, label: str, choice: Choice) -> Subject[Any]:
    if model.startswith(_HF):
        from medbench.adapters.hf_gradients import subject_of

        return subject_of(model.removeprefix(_HF), label, choice)
    if model != _UNI_MED:
        problem = f"{label} is a run of {model}, whose connector no gradients can be had of here."
        raise UsageError(problem, "Give a run or a checkpoint of uni-med, or hf:NAME.")
    return uni_med(folder, label, choice)


def tables(found: Document) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Yield title, columns and rows of what is worth seeing at once."""
    for model in found.models:
        title = f"{model.label} ({model.connector}): tug-of-war, {model.batches} batches of {model.batch_size}"
        yield title, _INDEX, _indexes(model)
    rows = [row for model in found.models for row in _scores(model)]
    yield "Statistics scores (Eq. 5), mean", _SCORES, rows


_INDEX = (
    "task", "index (paper)", "index (strict) [95 %]", "by the largest", "denominators <= 0", "halves agree",
)  # fmt: skip
_SCORES = ("model", "parameters", "count", "tasks", "random signs", "copies of one", "of one task alone", "of none")


def _indexes(model: Measured) -> list[list[str]]:
    one = model.groups["all"]
    rows = []
    for place, task in enumerate(model.tasks):
        low, high = _shown(one.index.low[place]), _shown(one.index.high[place])
        strict = f"{_shown(one.index.value[place])} [{low}, {high}]"
        share = one.non_positive[place]
        rows.append([
            task, _shown(one.paper_index[place]), strict, _shown(one.normalised.value[place]),
            "-" if share is None else f"{share:.0%}", _shown(one.halves[place]),
        ])  # fmt: skip
    return rows


def _scores(model: Measured) -> list[list[str]]:
    return [
        [
            model.label, group, f"{model.groups[group].parameters:,}", _shown(one.tasks.mean), _shown(one.flipped.mean),
            _shown(one.copies.mean), f"{one.tasks.single:,}", f"{one.tasks.silent:,}",
        ]
        for group, one in model.scores.items()
    ]  # fmt: skip


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def fisher_tables(found: FisherDocument) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    """Yield title, columns and rows of Fisher spectra, and of what the models differ in."""
    rows = [
        [model.label, group, f"{of.parameters:,}", reading, _bounds(one.entropy), _bounds(one.ratio)]
        for model in found.models for group, of in model.groups.items() for reading, one in of.spectra.items()
    ]  # fmt: skip
    counts = " and ".join(dict.fromkeys(str(len(one.tasks) * one.samples) for one in found.models))
    title = f"Fisher information of {counts} samples: entropy SE and largest eigenvalue's share"
    yield title, ("model", "part", "parameters", "of", "SE [95 %]", "share [95 %]"), rows
    for pair in found.comparisons:
        rows = [
            [group, reading, *_changed(one.entropy), *_changed(one.ratio)]
            for group, of in pair.groups.items() for reading, one in of.items()
        ]  # fmt: skip
        chance = "by chance, 95 %"
        yield f"{pair.other} minus {pair.first}", ("part", "of", "SE", chance, "p", "share", chance, "p"), rows


def _bounds(one: Estimate) -> str:
    return f"{_shown(one.value)} [{_shown(one.low)}, {_shown(one.high)}]"


def _changed(one: Change) -> tuple[str, str, str]:
    chance = "-" if one.p is None else f"{_shown(one.chance_low)} to {_shown(one.chance_high)}"
    return _bounds(one.difference), chance, _shown(one.p)
