"""What a metric is: per-sample sufficient statistics and a function of their sum.

Because a value is always `compute(sum of statistics)`, the same definition shards over workers, re-scores from disk,
and resamples by cluster without touching the texts again. Everything in a metric is a function of a module or a partial
of one, so that it can be pickled and sent to a worker.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from medbench.tasks.sample import Box

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorable:
    """One prediction beside its reference.

    Attributes:
        prediction: Parsed answer text.
        reference: Reference text, whole; a key of `choices` where there are some.
        choices: The closed list that the answer comes from, key to text; empty for open questions.
        choice: The key that the prediction takes, as `medbench.tasks.answers.choice` reads it; empty if it takes none.
        predicted_box: The parsed box in pixels, or None where none could be read.
        reference_box: The reference box in pixels, or None for tasks without boxes.
        labels: The sample's labels; `answer_type` is `OPEN` or `CLOSED` for VQA.
    """

    prediction: str
    reference: str
    choices: Mapping[str, str] = field(default_factory=dict)
    choice: str = ""
    predicted_box: Box | None = None
    reference_box: Box | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def everything(_: Scorable) -> bool:
    """Return True: the metric is for all samples."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A metric with its exact definition.

    Attributes:
        metric_id: The name in files, e.g. `bleu1`.
        signature: The exact definition behind the number, without the sample count.
        statistics: Maps N scorables to an array [N, K] of sufficient statistics.
        compute: Maps summed statistics [..., K] to values [...]; NaN where nothing was counted.
        applies: Which scorables count at all (closed questions only, say).
        tokenised: Gives the two texts whose PTB tokens are compared, for metrics of tokens; so that the texts of many
            tasks can be tokenised at once.
        weights: Maps statistics [N, K] to what hangs on each sample [N], up to a factor, for intervals; None where all
            weigh alike, or where the metric is a mean, whose counts say it.
        adds: Whether statistics of several calls can be added; where columns follow from the references of a call, not.
    """

    metric_id: str
    signature: str
    statistics: Callable[[Sequence[Scorable]], FloatArray]
    compute: Callable[[FloatArray], FloatArray]
    applies: Callable[[Scorable], bool] = everything
    tokenised: Callable[[Scorable], tuple[str, str]] | None = None
    weights: Callable[[FloatArray], FloatArray] | None = None
    adds: bool = True


def mean_of_scores(totals: FloatArray) -> FloatArray:
    """Return the mean score from totals [..., 2] of (sum of scores, count); NaN for an empty count."""
    scores, counts = totals[..., 0], totals[..., 1]
    return np.divide(scores, counts, out=np.full_like(scores, np.nan), where=counts > 0)


def score_statistics(scores: Sequence[float | None]) -> FloatArray:
    """Return the statistics [N, 2] of a mean of per-sample scores; None counts nothing."""
    rows = [(0.0, 0.0) if score is None else (score, 1.0) for score in scores]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 2)
