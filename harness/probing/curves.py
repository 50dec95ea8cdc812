"""One target of one model: probes at every place with their controls, and the tests between places."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medbench.harness.probing.document import Health, Named, PlaceScores, Score, TargetFound
from medbench.harness.probing.health import health_of, published_probe
from medbench.harness.probing.modes import Side, Sides, modes_of, refitted
from medbench.harness.probing.places import Module, Place
from medbench.harness.probing.probes import Probe, Scale, narrowed, right_statistics, scale_of
from medbench.harness.probing.states import States
from medbench.harness.probing.targets import ANSWER, Places, Target
from medbench.tasks.foundation.console import meter
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.statistics.intervals import interval

_NARROWEST = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What may be chosen of probing."""

    margin: float = 0.02
    refits: int = 10
    seed: int = 0
    published: bool = False  # Whether the published reading is made too.
    device: str = "cpu"  # Where probes are trained.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answers:
    """How right the model's own answers are to test samples, in [0, 1], and how many failed."""

    scores: FloatArray  # [M]
    there: Places  # [M] ascending, which of the target's test samples these are.
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Network:
    """What a reference network predicts for the target's test samples, once for each training."""

    name: str
    predicted: Sequence[FloatArray] = ()
    validation: float | None = None
    stated: float | None = None  # Its mean accuracy over classes, where a user says no more.


def found_of(
    target: Target, title: str, states: States, random: States | None, networks: Sequence[Network],
    answers: Answers | None, options: Options,
) -> TargetFound:  # fmt: skip
    """Return everything about a target of a model whose states were read; `random` are those of random weights."""
    scale, test = scale_of(target), target.parts.test
    probes, scores = dict[Place, Probe](), list[PlaceScores]()
    with meter(f"Probing {target.asked.name}", len(states.places)) as progress:
        for place in _told_by(target, states.places):
            probes[place] = Probe.chosen(states.at(place), target, scale, options.device)
            scores.append(_scores_at(place, probes[place], states.places, random, options))
            progress.advance()
    health: tuple[Health, ...] = ()
    if options.published and target.kind == "class":
        scores, health = _published(probes, scores, options)
    sides = _sides(probes, scores, scale, target, networks, answers, options)
    said = None
    if answers and sides.answers:
        score = _score(scale, sides.answers.statistics, target, answers.there)
        said = Named(name="answers", score=score, failed=answers.failed)
    return TargetFound(
        name=target.asked.name, title=title, kind=target.kind, classes=target.classes, chance=scale.chance,
        train=len(target.parts.train), validation=len(target.parts.validation), test=len(test),
        clusters=len(np.unique(target.clusters[test])), left_out=target.left_out, needs_question=target.needs_question,
        majority=_majority(target), places=tuple(scores), answers=said,
        references=tuple(_named(one, scale, target) for one in networks),
        modes=modes_of(sides, scale, target, options.margin), health=health,
    )  # fmt: skip


def _published(
    probes: Mapping[Place, Probe], scores: Sequence[PlaceScores], options: Options
) -> tuple[list[PlaceScores], tuple[Health, ...]]:
    """Return the scores with those of the published probe beside, and the health of each module."""
    right: dict[Module, list[FloatArray]] = {}
    told, found = list[PlaceScores](), list[Health]()
    for (place, probe), one in zip(probes.items(), scores, strict=True):
        own = published_probe(probe.states, probe.target, options.seed, options.device).astype(np.float64)
        told.append(replace(one, paper=float(own.mean())))
        if place.readout == "image":
            right.setdefault(place.module, []).append(own)
    # A connector starts with what it is given, which is where vision ends.
    right["connector"] = [*right.get("vision", [])[-1:], *right.get("connector", [])]
    for module, rows in right.items():
        if len(rows) > 1:
            found.append(health_of(module, np.stack(rows), options.seed))
    return told, tuple(found)


def _told_by(target: Target, places: Sequence[Place]) -> list[Place]:
    """Return the places that can tell: where the question is needed, only what has read it."""
    return [one for one in places if one.readout == "last" or not target.needs_question]


def _scores_at(
    place: Place, probe: Probe, places: Sequence[Place], random: States | None, options: Options
) -> PlaceScores:
    target, scale = probe.target, probe.scale
    width = min(_NARROWEST, *(one.width for one in places))
    known = np.concatenate([target.parts.train, target.parts.validation])
    shuffled = np.random.default_rng(options.seed).permutation(target.right[known])
    others = {
        "narrow": Probe.chosen(narrowed(probe.states, width), target, scale, options.device).tested(),
        "permuted": probe.tested(right=shuffled),
        "random": None if random is None else Probe.chosen(random.at(place), target, scale, options.device).tested(),
    }
    values = {name: None if one is None else scale.score(one) for name, one in others.items()}
    return PlaceScores(
        name=place.name, module=place.module, readout=place.readout, width=place.width, strength=probe.strength,
        score=_score(scale, probe.tested(), target), validation=probe.validation, **values,  # type: ignore[arg-type]
    )  # fmt: skip


def _score(scale: Scale, statistics: FloatArray, target: Target, there: Places | None = None) -> Score:
    places = target.parts.test if there is None else target.parts.test[there]
    found = interval(scale.metric, statistics, target.clusters[places].tolist())
    value = scale.score(statistics)
    return (
        Score(value=value)
        if found is None
        else Score(value=value, low=scale.put(found.low), high=scale.put(found.high))
    )


def _majority(target: Target) -> float:
    if target.kind == "box":
        return 0.0
    known = target.right[target.parts.train].astype(np.intp)
    return float((target.right[target.parts.test] == np.bincount(known).argmax()).mean())


def _named(network: Network, scale: Scale, target: Target) -> Named:
    if network.stated is not None:
        return Named(name=network.name, score=Score(value=scale.put(network.stated)))
    statistics = np.mean([scale.statistics(one, target.parts.test) for one in network.predicted], axis=0)
    return Named(name=network.name, score=_score(scale, statistics, target), validation=network.validation)


def _sides(
    probes: Mapping[Place, Probe], scores: Sequence[PlaceScores], scale: Scale, target: Target,
    networks: Sequence[Network], answers: Answers | None, options: Options,
) -> Sides:  # fmt: skip
    def last(module: str, readout: str) -> Side | None:
        return side([place for place in probes if (place.module, place.readout) == (module, readout)][-1:])

    def side(places: Sequence[Place]) -> Side | None:
        return _side(places[0], probes[places[0]], options) if places else None

    readout = "last" if target.needs_question else "image"
    layers = [
        (one.validation, place) for one, place in zip(scores, probes, strict=True)
        if (place.module, place.readout) == ("language", readout)
    ]  # fmt: skip
    best = max(layers, key=lambda pair: pair[0])[1:] if layers else ()
    answering = [one for one in networks if len(one.predicted)]
    network = max(answering, key=lambda one: one.validation or 0.0, default=None)
    none = "the reference has a score and no predictions" if networks else "there is no reference: give --reference"
    return Sides(
        reference=None if network is None else _network_side(network, scale, target),
        vision=last("vision", "image"), connector=last("connector", "image"), best=side(best),
        last=last("language", "last"), answers=_answer_side(answers, scale, target) if answers else None,
        missing={
            "reference": none,
            "vision": "the model shows no state of its vision", "connector": "the model shows no output of a connector",
            "best": "the decoder has no tokens of the image", "last": "the decoder shows no state",
            "answers": "the model is not asked for this" if target.asked.label != ANSWER else "there are no answers",
        },
    )  # fmt: skip


def _side(place: Place, probe: Probe, options: Options) -> Side:
    refits = refitted(probe, probe.target, options.refits, options.seed)
    return Side(name=place.label, statistics=probe.tested(), refits=refits)


def _network_side(network: Network, scale: Scale, target: Target) -> Side:
    trained = tuple(scale.statistics(one, target.parts.test) for one in network.predicted)
    mean = np.mean(trained, axis=0)
    return Side(name=network.name, statistics=mean, refits=trained if len(trained) > 1 else ())


def _answer_side(answers: Answers, scale: Scale, target: Target) -> Side:
    places = target.parts.test[answers.there]
    return Side(name="answers", statistics=right_statistics(scale, target, answers.scores, places), there=answers.there)
