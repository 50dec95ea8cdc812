"""What must stand beside a number besides its interval: who did not answer, whose machine failed, what was cut off."""

from medbench.harness.results import MetricResult, Results, TaskResult

_WHOLE = 0.99995
"""A share that two decimals of a percentage show as less than all."""


NOT_OK = ("errors", "unparsed", "refused", "truncated", "empty")
"""Why a sample has no answer; fields of `MetricResult`."""


def not_ok(metric: MetricResult) -> dict[str, int]:
    """Return how many samples of a metric have no answer, by why; the same names in the same order everywhere."""
    return {name: getattr(metric, name) for name in NOT_OK}


def is_partly_answered(answered: float | None) -> bool:
    """Return whether the share of answers is so small that it must be shown."""
    return answered is not None and answered < _WHOLE


def beside(answered: float | None, bounds: tuple[float, float] | None) -> list[str]:
    """Return what must be read with a number, as short texts.

    Args:
        answered: Share of the samples whose answer could be read; told if it is not all.
        bounds: The value had all failures of machines been wrong answers, and had all been right; None if none failed.
    """
    texts = [f"{100 * answered:.1f} % answered"] if answered is not None and is_partly_answered(answered) else []
    if bounds is not None:
        texts.append(f"failures wrong {100 * bounds[0]:.2f}, right {100 * bounds[1]:.2f}")
    return texts


def writes_to_tell(results: Results) -> list[TaskResult]:
    """Return the tasks on which a model thought, or met the limit of tokens."""
    return [
        task
        for task in results.tasks.values()
        if task.written is not None and (task.written.thinking or task.written.at_limit)
    ]


WRITTEN_HEADS = ("Thinks first", "Thought tokens", "Thoughts cut off", "At the limit of tokens")


def written_cells(task: TaskResult) -> list[str]:
    """Return what a model wrote on a task, under `WRITTEN_HEADS`."""
    written = task.written
    if written is None:
        return [""] * len(WRITTEN_HEADS)
    share = "" if written.thought_share is None else f"{100 * written.thought_share:.1f} %"
    return [
        f"{written.thinking} of {written.answers}",
        share,
        str(written.cut_thoughts),
        f"{written.at_limit}{_percent(written.at_limit, written.answers)}",
    ]


def _percent(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.1f} %)" if whole else ""
