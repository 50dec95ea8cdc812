"""Intersection over union of two boxes, by pixels counted inclusively (paper) or by area (strict)."""

import math
from collections.abc import Callable
from functools import partial

from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.sample import Box

_THRESHOLD = 0.5


def inclusive_iou(first: Box, second: Box) -> float:
    """Return IoU with one pixel added to every side, as if both edges of a box belonged to it.

    Boxes that merely touch overlap. An inverted box overlaps nothing; where the official code divides by zero this is
    0. Source: `computeIoU` of the official Uni-Med evaluation of REC.
    """
    return _overlap_over_union(first, second, 1.0)


def exact_iou(first: Box, second: Box) -> float:
    """Return the area of the intersection over that of the union; 0 if one is inverted, empty or infinite.

    A box without area, which some datasets hold, overlaps only itself.
    """
    if first == second and _area(first, 0.0) == 0:
        return float(first.left <= first.right and first.top <= first.bottom)
    return _overlap_over_union(first, second, 0.0)


def _overlap_over_union(first: Box, second: Box, edge: float) -> float:
    width = min(first.right, second.right) - max(first.left, second.left) + edge
    height = min(first.bottom, second.bottom) - max(first.top, second.top) + edge
    if not (width > 0 and height > 0):
        return 0.0
    common = width * height
    union = _area(first, edge) + _area(second, edge) - common
    return common / union if math.isfinite(common) and math.isfinite(union) and union > 0 else 0.0


def _area(box: Box, edge: float) -> float:
    return (box.right - box.left + edge) * (box.bottom - box.top + edge)


def _iou(measure: Callable[[Box, Box], float], scorable: Scorable) -> float:
    predicted, reference = scorable.predicted_box, scorable.reference_box
    return 0.0 if predicted is None or reference is None else measure(predicted, reference)


# The IoU of a scorable; 0 where no box could be read.
paper_iou, strict_iou = partial(_iou, inclusive_iou), partial(_iou, exact_iou)


def paper_hit(scorable: Scorable) -> float:
    """Return 1 if the official IoU is above 0.5."""
    return float(paper_iou(scorable) > _THRESHOLD)


def strict_hit(scorable: Scorable) -> float:
    """Return 1 if the exact IoU is at least 0.5, as the paper's text has it."""
    return float(strict_iou(scorable) >= _THRESHOLD)
