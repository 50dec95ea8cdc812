"""From what the passes kept to the record of a model."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from medbench.unimed.interpret import document
from medbench.unimed.interpret import interference as maths
from medbench.unimed.interpret.document import (
    ALL,
    Interference,
    Matrix,
    MatrixBounds,
    Number,
    Scored,
    Vector,
    VectorBounds,
)
from medbench.unimed.interpret.interference import Array, Bins, Interval
from medbench.unimed.interpret.streaming import FirstPass, Measuring, SecondPass, scores_of


def groups_of(measuring: Measuring) -> dict[str, Interference]:
    """Return Eqs. 2 to 4 for all parameters and each group of them."""
    source = measuring.source
    first, second = [measuring.first(one) for one in source.tasks], [measuring.second(one) for one in source.tasks]
    sizes = {ALL: source.layout.size, **{name: of.stop - of.start for name, of in source.layout.groups.items()}}
    return {group: _interference(group, size, first, second, measuring.seed) for group, size in sizes.items()}


def _interference(
    group: str, parameters: int, first: Sequence[FirstPass], second: Sequence[SecondPass], seed: int
) -> Interference:  # fmt: skip
    norms = np.sqrt([one.squares[ALL] for one in first])
    squares = np.array([one.squares[group] for one in first])
    pulls = np.stack([one.pulls[group] for one in second], axis=1)
    lengths = np.sqrt(squares)
    deltas = maths.without_own_pairs(pulls, squares, norms)
    strict = maths.strict(deltas, norms, lengths, seed=seed)
    paper = maths.paper_direction(deltas)
    index = maths.tug_of_war(paper, maths.magnitude(lengths))
    halves = [
        maths.halves_direction(pulls[place, place], np.array(one.half[group]), squares[place], norms[place])
        for place, one in enumerate(second)
    ]
    return Interference(
        parameters=parameters, paper_direction=_matrix(paper), paper_index=_vector(index),
        paper_normalised=_vector(maths.normalised(index)), non_positive=_vector(maths.non_positive(deltas)),
        direction=_matrices(strict.direction), magnitude=_matrices(strict.size), index=_vectors(strict.index),
        normalised=_vectors(strict.normalised), flipped=_matrix(maths.flipped_band(deltas, seed=seed)),
        halves=_vector(halves),
    )  # fmt: skip


def scored_groups(measuring: Measuring) -> dict[str, document.Scores]:
    """Return Eq. 5 for all parameters and each group of them."""
    tasks, copies = scores_of(measuring.scores_file), scores_of(measuring.copies_file)
    halves = {task: measuring.first(task).halves for task in measuring.source.tasks}
    return {
        group: document.Scores(
            tasks=scored(count.bins()), flipped=scored(tasks.flipped[group].bins()),
            copies=scored(copies.tasks[group].bins()),
            halves={task: scored(of[group].bins()) for task, of in halves.items()},
        )
        for group, count in tasks.tasks.items()
    }  # fmt: skip


def scored(bins: Bins) -> Scored:
    """Return the record of bins."""
    return Scored(
        shared=bins.shared, single=bins.single, silent=bins.silent, mean=_number(bins.mean), paper=bins.paper,
        paper_mean=_number(bins.paper_mean),
    )  # fmt: skip


def losses_of(measuring: Measuring) -> dict[str, float]:
    """Return the mean loss of each task."""
    return {task: float(np.mean(measuring.first(task).losses)) for task in measuring.source.tasks}


def routing_of(measuring: Measuring) -> dict[str, Vector]:
    """Return the mean weight of each expert by task; nothing for a connector without experts."""
    return means_of({task: measuring.first(task).routing for task in measuring.source.tasks})


def means_of(weights: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Vector]:
    """Return the mean over batches of experts' weights, by task, of those that have any."""
    found = {task: tuple(map(float, np.mean(rows, axis=0))) for task, rows in weights.items() if any(map(len, rows))}
    return dict(found)


def _number(value: float) -> Number:
    return float(value) if math.isfinite(value) else None


def _vector(values: Array | Sequence[float]) -> Vector:
    return tuple(_number(value) for value in values)


def _matrix(rows: Array) -> Matrix:
    return tuple(map(_vector, rows))


def _vectors(found: Interval) -> VectorBounds:
    return VectorBounds(value=_vector(found.value), low=_vector(found.low), high=_vector(found.high))


def _matrices(found: Interval) -> MatrixBounds:
    return MatrixBounds(value=_matrix(found.value), low=_matrix(found.low), high=_matrix(found.high))
