"""What a probe is to tell of a sample: the right answer, one of the dataset's own labels, or where a box is."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from medbench.tasks.answers.texts import normalise_strictly
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.prepared import Prepared
from medbench.tasks.sample import Sample

FloatArray = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

ANSWER = "answer"
_VALIDATION = 0.2
_LEAST_OF_A_CLASS = 10  # Samples of the train split; what is rarer cannot be learned from, and is left out.


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One target as the command line names it: `TASK`, or `TASK:LABEL`."""

    task: str
    label: str = ANSWER

    @classmethod
    def of(cls, name: str) -> "Asked":
        """Return what a word asks for."""
        task, _, label = name.partition(":")
        return cls(task=task, label=label or ANSWER)

    @property
    def name(self) -> str:
        """What the command line calls it."""
        return self.task if self.label == ANSWER else f"{self.task}:{self.label}"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parts:
    """Places in the same N samples, without a cluster in two of them."""

    train: Places
    validation: Places
    test: Places


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Target:
    """What is to be told of N samples of a task, of which `parts` names those that count."""

    asked: Asked
    kind: Literal["class", "box"]
    right: FloatArray  # [N] numbers of classes, or [N, 4] corners in shares of width and height.
    classes: tuple[str, ...]  # Empty for boxes.
    clusters: npt.NDArray[np.str_]  # [N], of samples that hang together: one patient, one picture or its twin.
    parts: Parts
    # Whether pictures alone cannot tell: closed questions differ for one picture.
    needs_question: bool
    left_out: Mapping[str, int]  # Samples by the reason for which they are in no part.
    # [N, G]: which object is to be found, told to every probe of boxes: a picture alone does not say whose box it is.
    given: FloatArray | None = None


def target_of(asked: Asked, prepared: Prepared, samples: Sequence[Sample], digests: Sequence[str], seed: int) -> Target:
    """Return a target over samples of both splits, whose pictures have `digests` (empty: could not be read).

    UsageError if there is nothing of that kind in the task, or too little to learn from.
    """
    wanted, kind = _reader(asked, prepared, samples)
    texts = [wanted(one) if digest else None for one, digest in zip(samples, digests, strict=True)]
    left_out = Counter({"could not be read": sum(not one for one in digests)})
    left_out["nothing to tell of it"] = texts.count(None) - left_out["could not be read"]
    needs_question = asked.label == ANSWER and prepared.spec.kind in {"vqa", "qa"}
    once = _first_of_each(digests) if asked.label != ANSWER else np.arange(len(samples))
    there = np.asarray([place for place in once if texts[place] is not None], dtype=np.intp)
    left_out["another question of the same picture"] = len(samples) - len(once)
    clusters = _clusters([one.groups.get(prepared.spec.group_key, one.sample_id) for one in samples], digests)
    classes: tuple[str, ...] = ()
    if kind == "class":
        classes = _classes([str(texts[place]) for place in there if samples[place].split == "train"])
        left_out["class too rare"] = sum(texts[place] not in classes for place in there)
        there = there[[texts[place] in classes for place in there]]
    parts = _parts(samples, clusters, there, left_out, np.random.default_rng(seed))
    right = _numbers(texts, classes) if kind == "class" else _corners(samples)
    target = Target(
        asked=asked, kind=kind, right=right, classes=classes, clusters=clusters, parts=parts,
        needs_question=needs_question, left_out={why: count for why, count in left_out.items() if count},
        given=_objects(samples) if kind == "box" else None,
    )  # fmt: skip
    _refuse_too_little(target)
    return target


def _reader(
    asked: Asked, prepared: Prepared, samples: Sequence[Sample]
) -> tuple[Callable[[Sample], str | None], Literal["class", "box"]]:
    kind = prepared.spec.kind
    if asked.label != ANSWER:
        known = sorted({label for one in samples for label in one.labels})
        if asked.label not in known:
            problem = f"No sample of {asked.task} has a label {asked.label!r}."
            raise UsageError(problem, f"Labels there: {', '.join(known) or 'none'}.")
        return (lambda one: one.labels.get(asked.label)), "class"
    if kind == "rec":
        return (lambda one: "box" if one.box and one.image_size else None), "box"
    if kind in {"cls", "vqa", "qa"}:
        return _closed_answer, "class"
    problem = f"{asked.task} has no closed answers that a probe could tell."
    raise UsageError(problem, f"Name one of its labels: {asked.task}:LABEL.")


def _closed_answer(sample: Sample) -> str | None:
    if sample.choices:
        return sample.reference
    closed = sample.labels.get("answer_type", "").upper() == "CLOSED"
    return normalise_strictly(sample.reference) if closed else None


def _first_of_each(digests: Sequence[str]) -> Places:
    first: dict[str, int] = {}
    for place, digest in enumerate(digests):
        first.setdefault(digest, place)
    return np.asarray(sorted(first.values()), dtype=np.intp)


def _clusters(groups: Sequence[str], digests: Sequence[str]) -> npt.NDArray[np.str_]:
    """Return one name for all samples that share a group or a picture, directly or by others."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    named = [np.unique(np.asarray(of, dtype=str), return_inverse=True) for of in (groups, digests)]
    (first, groups_of), (second, pictures_of) = named
    size = len(first) + len(second)
    links = coo_array((np.ones(len(groups)), (groups_of, len(first) + pictures_of)), shape=(size, size))
    _, component = connected_components(links, directed=False)
    return np.asarray(component[groups_of], dtype=str)


def _classes(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name, count in Counter(texts).items() if count >= _LEAST_OF_A_CLASS))


def _numbers(texts: Sequence[str | None], classes: Sequence[str]) -> FloatArray:
    numbers = {name: number for number, name in enumerate(classes)}
    return np.asarray([numbers.get(one or "", -1) for one in texts], dtype=np.float64)


def _objects(samples: Sequence[Sample]) -> FloatArray:
    """Return for each sample which object it asks for, among those that the train split has often enough."""
    known = _classes([one.reference for one in samples if one.split == "train"])
    return np.asarray([[one.reference == name for name in known] for one in samples], dtype=np.float64)


def _corners(samples: Sequence[Sample]) -> FloatArray:
    rows = np.full((len(samples), 4), np.nan)
    for place, one in enumerate(samples):
        if one.box and one.image_size:
            rows[place] = one.box.scaled(1 / one.image_size[0], 1 / one.image_size[1])
    return rows


def _parts(
    samples: Sequence[Sample], clusters: npt.NDArray[np.str_], there: Places, left_out: Counter[str],
    generator: np.random.Generator,
) -> Parts:  # fmt: skip
    """Return the task's test split, and of the train split what shares no cluster with it, a fifth for validation."""
    is_test = np.asarray([samples[place].split == "test" for place in there], dtype=np.bool_)
    test, rest = there[is_test], there[~is_test]
    # A patient or a picture of both splits would be learned by heart.
    shared = np.isin(clusters[rest], np.unique(clusters[[one.split == "test" for one in samples]]))
    left_out["in both splits, left out of train"] = int(shared.sum())
    rest = rest[~shared]
    names = generator.permutation(np.unique(clusters[rest]))
    held = np.isin(clusters[rest], names[: round(_VALIDATION * len(names))])
    return Parts(train=rest[~held], validation=rest[held], test=test)


def _refuse_too_little(target: Target) -> None:
    asked, parts = target.asked, target.parts
    if target.kind == "class":
        present = [len(np.unique(target.right[part])) for part in (parts.train, parts.validation, parts.test)]
    else:
        present = [len(part) for part in (parts.train, parts.validation, parts.test)]
    # With a single class there is nothing to tell.
    if min(present) <= 1:
        counts = f"{len(parts.train)} train, {len(parts.validation)} validation and {len(parts.test)} test samples"
        hint = "Classes need 10 samples of the train split; give data with a train split, or leave it out."
        raise UsageError(f"{asked.name} has too little to probe: {counts} of {len(target.classes)} classes.", hint)
