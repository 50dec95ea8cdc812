"""What the matches do to the scores: on all items, without the cases that have one, on these cases alone."""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.samples import MetricScores, ScoreTable
from medbench.tasks.protocols import PROTOCOLS, Protocol

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A score of some of the items.

    Attributes:
        value: A fraction; None where nothing was scored.
        n: Items that were scored.
        cases: Their cases.
    """

    value: float | None
    n: int
    cases: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """One metric of one protocol."""

    protocol: Protocol
    metric: str
    all: Part
    without: Part
    only: Part


def effects(table: ScoreTable, matched: Container[str]) -> tuple[Effect, ...]:
    """Return the scores of a task with and without some of its cases, from the statistics of its items."""
    return tuple(
        _effect(table, column, protocol, matched)
        for protocol in PROTOCOLS
        for column in table.columns[protocol].values()
    )


def _effect(table: ScoreTable, column: MetricScores, protocol: Protocol, matched: Container[str]) -> Effect:
    groups = table.groups_of(column.sample_ids)
    flagged = np.asarray([group in matched for group in groups], dtype=bool)
    everything = np.ones(len(groups), dtype=bool)
    parts = [_part(column, groups, chosen) for chosen in (everything, ~flagged, flagged)]
    return Effect(
        protocol=protocol, metric=column.metric.metric_id, all=parts[0], without=parts[1], only=parts[2]
    )  # fmt: skip


def _part(column: MetricScores, groups: Sequence[str], chosen: BoolArray) -> Part:
    places = np.flatnonzero(chosen).tolist()
    value = float(column.metric.compute(column.statistics[places].sum(axis=0))) if len(places) else float("nan")
    return Part(value=None if np.isnan(value) else value, n=len(places), cases=len({groups[place] for place in places}))


def beyond_peers(mine: Effect, peers: Sequence[Effect]) -> float | None:
    """Return how much more a model gains on the cases with a match than its peers do; None where nobody can say.

    Such cases may simply be easy; then peers gain on them too.
    """
    gains = [gain for one in (mine, *peers) if (gain := _gain(one)) is not None]
    if len(gains) != len(peers) + 1 or not peers:
        return None
    return gains[0] - sum(gains[1:]) / len(peers)


def _gain(effect: Effect) -> float | None:
    if effect.only.value is None or effect.without.value is None:
        return None
    return effect.only.value - effect.without.value
