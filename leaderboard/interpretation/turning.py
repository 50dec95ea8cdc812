"""Maps in three dimensions as SVG in the page: they stand as drawn here, and turn where scripts are on (`turn.js`)."""

from collections.abc import Sequence
from itertools import combinations, cycle, product
from math import ceil, cos, sin
from typing import NamedTuple

import numpy as np

from medbench.harness.interpreted import PLACES, Maps
from medbench.leaderboard.interpretation.figures import MARKS
from medbench.leaderboard.render import render_text

Point = tuple[float, float, float]
_VIEW = (0.6, 0.45)  # yaw and pitch
_UNIT, _FAR = 110, 5  # half an edge of the cube in the picture, and how far away it is seen from, in half edges
_PLACED = "translate({:.2f} {:.2f}) scale({:.2f})"
_MOST = 1500  # points of a picture that turns without a jerk
_CORNERS: Sequence[Point] = [(x, y, z) for x, y, z in product((-1.0, 1.0), repeat=3)]
_EDGES = [(one, two) for one, two in combinations(_CORNERS, 2) if sum(map(float.__ne__, one, two)) == 1]


class Picture(NamedTuple):
    """One space: lines with their ends, and points from back to front with the number of their mark."""

    title: str
    told: str
    edges: Sequence[tuple[str, str]]
    points: Sequence[tuple[int, str, str]]


def turning(maps: Sequence[Maps]) -> str:
    """Return a piece of HTML: a legend, and each model's points before and after its connector (Fig. 5).

    Raises ImportError without matplotlib, whose colours they have, as the flat maps.
    """
    from matplotlib.colors import to_hex

    tasks = list(dict.fromkeys(task for one in maps for task in one.tasks))
    shapes = zip(tasks, cycle(MARKS.values()), strict=False)
    marks = {task: (to_hex(f"C{place}"), shape) for place, (task, shape) in enumerate(shapes)}
    pictures = [_picture(one, place, tasks) for one in maps for place in PLACES]
    return render_text("turning.html", marks=marks, pictures=pictures, view="{} {}".format(*_VIEW))


def _picture(one: Maps, place: str, tasks: Sequence[str]) -> Picture:
    room = (one.before if place == "before" else one.after).room
    step = ceil(len(room) / _MOST)
    points = list(zip(map(tasks.index, one.tasks), in_cube(room), strict=True))[::step]
    points.sort(key=lambda point: seen(point[1], *_VIEW)[2])
    lines = [[seen(end, *_VIEW)[:2] for end in edge] for edge in _EDGES]
    return Picture(
        title=f"{one.label}, {place} the connector",
        told=_told(one, place) + (f" One in {step} is drawn." if step > 1 else ""),
        edges=[
            (",".join(map(_text, edge)), f"M{'L'.join(map(_text, line))}")
            for edge, line in zip(_EDGES, lines, strict=True)
        ],
        points=[(mark, _text(at), _PLACED.format(*seen(at, *_VIEW))) for mark, at in points],
    )


def _told(one: Maps, place: str) -> str:
    apart = (one.before if place == "before" else one.after).apart
    own = f"{100 * (apart.purity or 0):.0f} %"
    text = f"{len(one.tasks):,} points; {own} of ten nearest neighbours are of a point's own task"
    known = sorted((share, task) for task, share in apart.by_task.items() if share is not None)
    if len(known) > 1:
        (least, last), (most, first) = known[0], known[-1]
        text += f", most of {first} ({100 * most:.0f} %), least of {last} ({100 * least:.0f} %)"
    return f"{text}; {100 * apart.chance:.0f} % by chance."


def in_cube(points: Sequence[Point]) -> list[Point]:
    """Return points [N, 3] moved and scaled alike in each direction, so that they fill a cube from -1 to 1."""
    values = np.asarray(points, dtype=np.float64)
    low, high = values.min(axis=0), values.max(axis=0)
    scaled = (values - (low + high) / 2) / (float((high - low).max()) / 2 or 1.0)
    return [(x, y, z) for x, y, z in scaled.round(3).tolist()]


def seen(at: Point, yaw: float, pitch: float) -> Point:
    """Return where a point of the cube lies in the picture, across and down, and how near it is, 1 in the middle."""
    x, y, z = at
    across, back = x * cos(yaw) - y * sin(yaw), x * sin(yaw) + y * cos(yaw)
    near = _FAR / (_FAR + back * cos(pitch) - z * sin(pitch))
    return _UNIT * across * near, -_UNIT * (z * cos(pitch) + back * sin(pitch)) * near, near


def _text(numbers: Sequence[float]) -> str:
    return " ".join(f"{one:.3f}" for one in numbers)
