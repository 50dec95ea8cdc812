"""Are the boxes of a task boxes at all? Most of them without area are a sign of the wrong coordinate space."""

from collections.abc import Sequence

from medbench.tasks.sample import Box

_LEAST_SHARE = 0.01
_LEAST_PIXELS = 1.0


def degenerate_share(boxes: Sequence[tuple[Box, tuple[int, int]]]) -> float:
    """Return the share of boxes that cover (nearly) nothing of their image; 0 of no boxes.

    Fractions read as thousandths give boxes of a thousandth of the image at most, thousandths read as pixels give some
    that lie outside.

    Args:
        boxes: In pixels, each with width and height of its image.
    """
    return sum(_is_degenerate(box, size) for box, size in boxes) / len(boxes) if boxes else 0.0


def _is_degenerate(box: Box, image_size: tuple[int, int]) -> bool:
    width, height = image_size
    wide = min(box.right, width) - max(box.left, 0)
    high = min(box.bottom, height) - max(box.top, 0)
    if wide <= 0 or high <= 0:
        return True
    return wide <= max(_LEAST_PIXELS, _LEAST_SHARE * width) and high <= max(_LEAST_PIXELS, _LEAST_SHARE * height)


def doubt_about_boxes(task: str, boxes: Sequence[tuple[Box, tuple[int, int]]], *, space: str, declared_by: str) -> str:
    """Return a warning if most boxes of a task cover nothing of their image, or nothing.

    Args:
        task: Name of the task.
        boxes: The boxes that were read, in pixels, each with width and height of its image.
        space: Name of the space that they were read in.
        declared_by: What declares the space, e.g. `--model-arg boxes=NAME`.
    """
    share = degenerate_share(boxes)
    if 2 * share <= 1:
        return ""
    return (
        f"{task}: {round(share * len(boxes))} of {len(boxes)} boxes have no area inside their image, read as {space}. "
        f"Does the model write boxes that way? The space is declared by {declared_by}."
    )
