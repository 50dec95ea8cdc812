"""What probing a model found, as plain data: `probing.json`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from medbench.harness.probing.places import Module, Readout
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.validation import parse_json_file

FILE = "probing.json"
ModeName = Literal["vision", "connector", "comprehension", "utilisation", "answer"]
Verdict = Literal["shown", "not shown", "cannot be tested"]

MODES: Mapping[ModeName, str] = {
    "vision": "the vision tower holds less than a network that was trained for it",
    "connector": "the connector hands on less than it is given",
    "comprehension": "no layer of the decoder holds at the image's tokens what the connector hands on",
    "utilisation": "the last token holds less than the image's tokens did",
    "answer": "the answer says something else than the last token holds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A score between chance (0) and all right (1), with its 95 % interval over clusters of test samples."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceScores:
    """What probes tell at one place."""

    name: str
    module: Module
    readout: Readout
    width: int
    score: Score
    validation: float  # Of the same probe before validation samples joined its training; chooses between places.
    permuted: float  # Trained on answers in a random order.
    random: float | None  # On states of the same model with random weights; None where it was not asked for.
    narrow: float  # On states in a width that all places share.
    strength: float  # Of the regularisation, as chosen.
    paper: float | None = None  # Plain accuracy of the published two-layer probe, where it was asked for.


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The published health score of a module, transcribed from a secondary source; see docs/probing.md."""

    module: Module
    score: float  # P(end) * (1 + gain) * smoothness.
    gain: float
    smoothness: float
    floor: float  # The smoothness that a truly flat curve of so many places would have on these test samples.


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A score with whose it is: a reference network, or the answers."""

    name: str
    score: Score
    validation: float | None = None
    failed: int = 0  # Answers that a machine's failure left out.


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One failure mode: how much `first` has over `second` on the same test samples."""

    name: ModeName
    verdict: Verdict
    first: str = ""
    second: str = ""
    difference: Score | None = None  # First minus second.
    p: float | None = None  # Of a difference no larger than the margin, adjusted for the number of modes (Holm).
    would_show: float | None = None  # The smallest true difference that is shown 8 times of 10.
    why: str = ""  # Why it cannot be tested.


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetFound:
    """One target: its data, its curve, and its modes."""

    name: str  # `dermamnist`, `slake-vqa:modality`.
    title: str
    kind: Literal["class", "box"]
    classes: tuple[str, ...]
    chance: float  # Mean accuracy over classes, or mean IoU, of 0.
    train: int
    validation: int
    test: int
    clusters: int  # Of the test samples.
    left_out: Mapping[str, int]
    needs_question: bool
    majority: float  # Plain accuracy of always naming the largest class; of boxes 0.
    places: tuple[PlaceScores, ...]
    references: tuple[Named, ...]
    answers: Named | None  # None where the model is not asked for that.
    modes: tuple[Mode, ...]
    health: tuple[Health, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Everything about one model."""

    label: str
    title: str
    weights: str
    dtype: str
    margin: float  # A loss up to this is none worth a name.
    refits: int  # Trainings of each probe of a mode on resampled clusters.
    seed: int
    targets: tuple[TargetFound, ...]
    notices: tuple[str, ...] = ()
    medbench: str = ""


_PROBED = TypeAdapter(Probed)


def write_probed(folder: Path, found: Probed) -> None:
    """Write `probing.json` of a model's folder."""
    write_atomically(folder / FILE, canonical_json(_PROBED.dump_python(found, mode="json"), indent=2) + "\n")


def read_probed(folder: Path) -> Probed:
    """Read it; DataError if it is missing or malformed."""
    return parse_json_file(Probed, folder / FILE)
