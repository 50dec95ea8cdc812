"""The most that a model can score on REC, given how it writes boxes: the quantisation ceiling."""

from collections.abc import Iterable

from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import Item, Protocol, evaluate
from medbench.tasks.sample import Box


def rec_ceilings(
    task: str, boxes: Iterable[tuple[Box, tuple[int, int]]], space: BoxSpace, protocol: Protocol
) -> dict[str, float]:
    """Return, by metric, what a perfect model scores that must write its boxes in `space`.

    Uni-Med truncates to whole hundredths of the image, which costs small boxes most.

    Args:
        task: Name of the task.
        boxes: The right boxes in pixels, each with width and height of its image.
        space: How the model writes boxes.
        protocol: Whose definitions.
    """
    items = [
        Item(
            state="ok",
            scorable=Scorable(
                prediction="", reference="", predicted_box=space.as_written(box, size), reference_box=box
            ),
        )
        for box, size in boxes
    ]
    return {found.metric.metric_id: found.value for found in evaluate(task, "rec", protocol, items)}
