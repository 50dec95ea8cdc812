"""What a metric is: per-sample sufficient statistics and a function of their sum.

Because a value is always `compute(sum of statistics)`, the same definition shards over workers, re-scores from disk,
and resamples by cluster without touching the texts again. Everything in a metric is a function of a module or a partial
of one, so that it can be pickled and sent to a worker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from medbench.tasks.sample import Box

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorable:
    """One prediction, the parsed answer text, beside its whole reference, a key of `choices` where there are some."""

    prediction: str
    reference: str
    choices: Mapping[str, str] = field(default_factory=dict)  # The closed list that the answer is of, key to text.
    choice: str = ""  # The key that the prediction takes (`medbench.tasks.answers.choice`); empty if it takes none.
    predicted_box: Box | None = None  # In pixels; None where none could be read.
    reference_box: Box | None = None  # None for tasks without boxes.
    labels: Mapping[str, str] = field(default_factory=dict)  # `answer_type` is `OPEN` or `CLOSED` for VQA.
    question: str = ""  # What was asked, where the task asks a question in words of its own.


Aggregate = Literal["mean", "micro_f1", "macro_f1"]
"""How a number is made of the sum of statistics; the names are those of `medbench.tasks.metrics.asked.AGGREGATES`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """How the statistics of a metric that was asked for are read, also by those who do not have what scored it."""

    aggregate: Aggregate
    higher_is_better: bool = True


def everything(_: Scorable) -> bool:
    """Return True: the metric is for all samples."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric with its exact definition: statistics [N, K] of N scorables, and the value of their sum [..., K]."""

    metric_id: str  # The name in files, e.g. `bleu1`.
    signature: str  # The exact definition behind the number, without the sample count.
    statistics: Callable[[Sequence[Scorable]], FloatArray]
    compute: Callable[[FloatArray], FloatArray]  # NaN where nothing was counted.
    applies: Callable[[Scorable], bool] = everything  # Which scorables count at all (closed questions only, say).
    # The two texts whose PTB tokens are compared, so that the texts of many tasks can be tokenised at once.
    tokenised: Callable[[Scorable], tuple[str, str]] | None = None
    # From statistics what hangs on each sample [N], up to a factor; None where all weigh alike, and for a mean.
    weights: Callable[[FloatArray], FloatArray] | None = None
    adds: bool = True  # Not where the columns of statistics follow from the references of one call.
    traits: Traits | None = None  # Of a metric that was asked for by name; None for those that a task always has.


def mean_of_scores(totals: FloatArray) -> FloatArray:
    """Return the mean score from totals [..., 2] of (sum of scores, count); NaN for an empty count."""
    scores, counts = totals[..., 0], totals[..., 1]
    return np.divide(scores, counts, out=np.full_like(scores, np.nan), where=counts > 0)


def score_statistics(scores: Sequence[float | None]) -> FloatArray:
    """Return the statistics [N, 2] of a mean of per-sample scores; None counts nothing."""
    rows = [(0.0, 0.0) if score is None else (score, 1.0) for score in scores]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2)
