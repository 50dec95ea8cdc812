"""Which sample of a prepared task each prediction answers: by name, by question and image, or by order."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath
from typing import NamedTuple

from medbench.harness.predictions.rows import Prediction
from medbench.tasks.answers.texts import normalise_strictly
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.sample import Sample

_SAME_WORDS = 40  # of a long reference, which some formats cut or write anew
_SAME_EDGES = 1.0  # pixels
_MOST_OTHERS = 0.05
_ASKING = re.compile(r"^(question|q|human|user)\s*:\s*|<image>", re.IGNORECASE)
_OWN_IDS, _BY_ORDER = "the dataset's own ids", "their order, since their references are those of the samples"
_HOW_TO_MATCH = (
    "Give a column with the samples' ids (--column sample_id=NAME), or the question and, where several images are "
    "asked the same, the image (--column question=NAME --column image=NAME), and references, by which it is checked. "
    "By order rows are taken only if they are as many as the samples and their references are the same."
)
Names = Iterator[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """The predictions of samples, by place of the sample, and how they were found."""

    way: str
    answers: Mapping[int, Prediction]
    nowhere: Sequence[Prediction]  # That answer no sample.
    others: Sequence[Prediction] = ()  # Whose reference is another than the sample's.


def match(found: Sequence[Prediction], samples: Sequence[Sample], what: str, *, worded: bool = False) -> Matched:
    """Return which sample each prediction answers, by the way that places most of them.

    DataError, with `what` they are of, if none is placed, two answer one sample, or so many references differ that the
    data are others, unless they are `worded` in several ways.
    """
    ways = [_placed(found, samples, way) for way in _WAYS]
    way, places = max(ways, key=lambda one: len(one[1]))
    if len(places) < len(found) == len(samples) and all(map(_is_right, found, samples)):
        way, places = _BY_ORDER, dict(enumerate(range(len(found))))
    if not places:
        raise DataError(f"No prediction of {what} could be matched with a sample.", _HOW_TO_MATCH)
    if way == _OWN_IDS and len(places) < len(found) and not all(found[row].reference for row in places):
        # Numbers of rows, which begin elsewhere, look like the dataset's.
        problem = f"{len(found) - len(places)} of {len(found)} ids of {what} are none of the dataset's, so that the"
        raise DataError(f"{problem} others may mean other samples.", _HOW_TO_MATCH)
    answers: dict[int, Prediction] = {}
    for row, place in places.items():
        if (other := answers.setdefault(place, found[row])) is not found[row]:
            problem = f"{other.where} and {found[row].where} answer one sample, {samples[place].sample_id!r}."
            raise DataError(problem, "Keep one answer to each, or name the column of ids: --column sample_id=NAME.")
    others = [one for place, one in answers.items() if _is_right(one, samples[place]) is False]
    if not worded and len(others) > _MOST_OTHERS * len(answers):
        raise DataError(
            f"{len(others)} of {len(answers)} predictions of {what}, matched by {way}, have another reference than "
            f"their sample; the first is {others[0].where}.",
            "They answer other data, or name them in another way: give the data with --data-dir, or the right columns.",
        )
    nowhere = [one for row, one in enumerate(found) if row not in places]
    return Matched(way=way, answers=answers, nowhere=nowhere, others=others)


def _is_right(one: Prediction, sample: Sample) -> bool | None:
    """Return whether a prediction's reference is that of a sample; None if it has none."""
    if one.box is not None and sample.box is not None:
        return all(abs(ours - theirs) <= _SAME_EDGES for ours, theirs in zip(sample.box, one.box, strict=True))
    if not one.reference:
        return None
    theirs = one.choices.get(one.reference, one.reference)
    ours = (sample.reference, sample.choices.get(sample.reference, ""))
    return any(_is_same(*pair) for pair in product(filter(None, ours), {theirs, one.reference}))


def _is_same(one: str, other: str) -> bool:
    first, second = normalise_strictly(one).split(), normalise_strictly(other).split()
    if min(len(first), len(second)) >= _SAME_WORDS:
        return first[:_SAME_WORDS] == second[:_SAME_WORDS]
    return first == second


class _Way(NamedTuple):
    """How predictions find their samples: by names that both have."""

    told: str
    of_a_sample: Callable[[Sample], Iterable[str]]
    of_a_row: Callable[[Prediction, bool], Iterable[str]]  # Gets whether samples have questions of their own.


def _placed(found: Sequence[Prediction], samples: Sequence[Sample], way: _Way) -> tuple[str, dict[int, int]]:
    """Return the place of the sample of each prediction that has a name which is one sample's alone."""
    places: dict[str, int] = {}
    shared: set[str] = set()
    for place, sample in enumerate(samples):
        for name in set(way.of_a_sample(sample)):
            if places.setdefault(name, place) != place:
                shared.add(name)
    asks = any(map(_question, samples))
    own = {name: place for name, place in places.items() if name not in shared}
    hits = (
        (row, next((own[name] for name in way.of_a_row(one, asks) if name in own), None))
        for row, one in enumerate(found)
    )
    told = {row: place for row, place in hits if place is not None}
    return way.told, told


def _own_names(sample: Sample) -> Names:
    """Yield what datasets call a sample: parts of its id, what ties it to others if that is its alone, its image."""
    for name in (sample.sample_id, *sample.groups.values()):
        for part in (name, *name.split("/")):
            yield part
            yield part.lstrip("abcdefghijklmnopqrstuvwxyz")
    yield from _images(sample)


def _images(sample: Sample) -> Names:
    for image in sample.images:
        if not image.member:
            yield from _paths(image.path)
    yield sample.groups.get("image", "")


def _paths(path: str) -> Names:
    """Yield a path, and what is left of it without its first folders; last the file's name without its suffix."""
    parts = path.replace("\\", "/").split("/")
    yield from ("/".join(parts[first:]) for first in range(len(parts)))
    yield PurePosixPath(parts[-1]).stem


def _plain(question: str) -> str:
    return " ".join(_ASKING.sub("", question.strip()).lower().split())


def _question(sample: Sample) -> str:
    return _plain(sample.inputs.get("question") or sample.inputs.get("object", ""))


def _questions(one: Prediction, asks: bool) -> Names:
    """Yield what may be the question of a row: all that was asked, and each line of it."""
    if not asks:
        yield ""
    for text in (one.question, *one.question.splitlines(), one.reference if one.box else None):
        if text and (plain := _plain(text)):
            yield plain


def _asked(one: Prediction, asks: bool) -> Names:
    images = list(filter(None, _paths(one.image)))
    return (f"{question}\n{image}" for question in _questions(one, asks) for image in images)


_WAYS = (
    _Way("the ids of the samples", lambda sample: [sample.sample_id], lambda one, _: [one.sample_id]),
    _Way(_OWN_IDS, _own_names, lambda one, _: filter(None, [one.sample_id])),
    _Way(
        "question and image",
        lambda sample: [f"{_question(sample)}\n{image}" for image in _images(sample) if image],
        _asked,
    ),
    _Way("the question", lambda sample: filter(None, [_question(sample)]), _questions),
)
