"""Colin27 with the AAL atlas: slices with named structures, seen through changing fields of view.

Sources: Holmes et al., J Comput Assist Tomogr 1998 (Colin27); Tzourio-Mazoyer et al., NeuroImage 2002 (AAL).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medbench.tasks.foundation.errors import DataError
from tools.mini_suite.anatomy import region_indexes, structure_masks
from tools.mini_suite.nifti import read_volume
from tools.mini_suite.part import Source

Plane = Literal["axial", "coronal", "sagittal"]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

_WINDOW = {"ch2": 135.0, "ch2bet": 125.0}
_LEAST_SHARE_IN_VIEW = 0.7
_LEAST_SIDE = 6
_LEAST_PIXELS = 40
# Longest side of all AAL regions in the plane, in mm: one scale for all slices, so that small slices stay small.
_EXTENT: dict[Plane, float] = {"axial": 180.0, "coronal": 146.0, "sagittal": 180.0}
_FRAMES = ((112, 112), (112, 128), (128, 112), (120, 120))

SOURCE = Source(
    name="colin27",
    title="Colin27 T1 MRI of one volunteer with the AAL atlas, 1 mm",
    origin="stand-in",
    licence="BSD-3-Clause",
    attribution=(
        "(c) 2006-2010 Chris Rorden (MRIcron). Colin27: Holmes et al. 1998, McConnell Brain Imaging Centre, "
        "Montreal Neurological Institute, McGill University; AAL: Tzourio-Mazoyer et al. 2002"
    ),
    retrieved_from="Debian package mricron-data 1.2.20211006+dfsg-4, /usr/share/mricron/templates (debian/copyright)",
    changes=(
        "2D slices resampled to random fields of view with mild changes of intensity; AAL regions merged into named "
        "structures; boxes and masks derived from them"
    ),
)


class Region(NamedTuple):
    """A named structure in a view: its mask [height, width] and its box, left, top, width, height in pixels."""

    name: str
    mask: Mask
    box: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A slice as it is shown.

    Attributes:
        image: Intensities between 0 and 1, [height, width].
        regions: The structures that are in view, in order of name.
        absent: Names of the structures that the slice does not cut at all.
        middle: Where the middle of the brain is, as shares of width and height.
    """

    image: Floats
    regions: tuple[Region, ...]
    absent: tuple[str, ...]
    middle: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Atlas:
    """Volumes [x, y, z] on one grid, x to the patient's right, y to the front, z to the top.

    Attributes:
        head: The MRI.
        labels: Voxel values of AAL.
        codes: AAL code to voxel value.
        window: Intensity that is shown white.
    """

    head: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    codes: dict[int, int]
    window: float


@lru_cache(maxsize=2)
def read_atlas(realdata: Path, *, volume: Literal["ch2", "ch2bet"]) -> Atlas:
    """Read the head (`ch2`) or the brain alone (`ch2bet`) with the labels.

    Args:
        realdata: Folder that holds `colin27_aal`.
        volume: Which of the two.

    Raises:
        DataError: If a file is missing or the grids differ.
    """
    folder = realdata / "colin27_aal"
    head, labels = read_volume(folder / f"{volume}.nii.gz"), read_volume(folder / "aal.nii.gz")
    if head.shape != labels.shape:
        raise DataError(f"{folder} has volumes on two grids.", "Use ch2 and AAL of the same package.")
    codes = region_indexes((folder / "aal.nii.txt").read_text(encoding="utf-8"))
    return Atlas(head, labels, codes, _WINDOW[volume])


def _shown(volume: NDArray[np.uint8], plane: Plane, index: int) -> NDArray[np.uint8]:
    """Return a slice as radiologists show it: patient's right on the left, front or top upwards; face to the left."""
    if plane == "axial":
        return volume[::-1, ::-1, index].T
    if plane == "coronal":
        return volume[::-1, index, ::-1].T
    return volume[index, ::-1, ::-1].T


def draw_view(atlas: Atlas, plane: Plane, index: int, random: np.random.Generator, *, noise: float) -> View:
    """Show one slice through a random field of view.

    The brain's longest side takes between 0.6 and 1.3 times the frame, at a random place and with up to 12 degrees
    of tilt, so that a box follows from the picture and not from the name alone.

    Args:
        atlas: The volumes.
        plane: Orientation; sagittal structures carry no side, because a sagittal picture does not show it.
        index: Slice in voxels.
        random: Source of all choices.
        noise: Standard deviation of the added noise, in intensities.
    """
    picture = _shown(atlas.head, plane, index).astype(np.float64) / atlas.window
    labels = _shown(atlas.labels, plane, index)
    height, width = _FRAMES[int(random.integers(len(_FRAMES)))]
    rows, columns = _source_grid(labels > 0, _EXTENT[plane], (height, width), random)
    gain, gamma = random.uniform(0.85, 1.1), random.uniform(0.8, 1.25)
    image = np.clip(gain * np.clip(_bilinear(picture, rows, columns), 0.0, 1.0) ** gamma, 0.0, 1.0)
    image = np.clip(image + random.normal(0.0, noise, image.shape), 0.0, 1.0) if noise else image
    masks = structure_masks(labels, atlas.codes, sided=plane != "sagittal")
    scale = _pixels_per_millimetre(rows, columns)
    regions = [_region(name, masks[name], rows, columns, scale) for name in sorted(masks)]
    ys, xs = np.nonzero(_nearest(labels > 0, rows, columns))
    return View(
        image=image,
        regions=tuple(region for region in regions if region is not None),
        absent=tuple(name for name in sorted(masks) if not masks[name].any()),
        middle=(float(xs.mean()) / width, float(ys.mean()) / height),
    )


def _source_grid(
    brain: Mask, extent: float, frame: tuple[int, int], random: np.random.Generator
) -> tuple[Floats, Floats]:
    """Return for every pixel of the frame the row and column of the slice that it shows."""
    height, width = frame
    ys, xs = np.nonzero(brain)
    scale = random.uniform(0.6, 1.3) * min(height, width) / extent
    angle = np.deg2rad(random.uniform(-12.0, 12.0))
    room_y, room_x = ((size - scale * extent) / 2.0 for size in (height, width))
    middle_y = height / 2.0 + random.uniform(-1.0, 1.0) * abs(room_y)
    middle_x = width / 2.0 + random.uniform(-1.0, 1.0) * abs(room_x)
    dy, dx = np.mgrid[0:height, 0:width].astype(np.float64)
    dy, dx = (dy + 0.5 - middle_y) / scale, (dx + 0.5 - middle_x) / scale
    rows = (ys.min() + ys.max()) / 2.0 + np.cos(angle) * dy - np.sin(angle) * dx
    columns = (xs.min() + xs.max()) / 2.0 + np.sin(angle) * dy + np.cos(angle) * dx
    return rows, columns


def _pixels_per_millimetre(rows: Floats, columns: Floats) -> float:
    step = np.hypot(rows[0, 1] - rows[0, 0], columns[0, 1] - columns[0, 0])
    return float(1.0 / step)


def _bilinear(picture: Floats, rows: Floats, columns: Floats) -> Floats:
    padded = np.pad(picture, 1)
    height, width = picture.shape
    ys, xs = np.clip(rows, -1.0, height - 1e-6) + 1.0, np.clip(columns, -1.0, width - 1e-6) + 1.0
    top, left = np.floor(ys).astype(int), np.floor(xs).astype(int)
    fy, fx = ys - top, xs - left
    upper = padded[top, left] * (1 - fx) + padded[top, left + 1] * fx
    lower = padded[top + 1, left] * (1 - fx) + padded[top + 1, left + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def _nearest(mask: Mask, rows: Floats, columns: Floats) -> Mask:
    ys, xs = np.rint(rows).astype(int), np.rint(columns).astype(int)
    inside = (ys >= 0) & (ys < mask.shape[0]) & (xs >= 0) & (xs < mask.shape[1])
    seen = mask[np.clip(ys, 0, mask.shape[0] - 1), np.clip(xs, 0, mask.shape[1] - 1)]
    return np.asarray(seen & inside)


def _region(name: str, mask: Mask, rows: Floats, columns: Floats, scale: float) -> Region | None:
    """Return the structure as the view shows it, or None if too little of it is in view."""
    shown = _nearest(mask, rows, columns)
    pixels = int(shown.sum())
    if pixels < _LEAST_PIXELS or pixels < _LEAST_SHARE_IN_VIEW * scale**2 * int(mask.sum()):
        return None
    ys, xs = np.nonzero(shown)
    left, top = int(xs.min()), int(ys.min())
    width, height = int(xs.max()) - left + 1, int(ys.max()) - top + 1
    if min(width, height) < _LEAST_SIDE:
        return None
    return Region(name, shown, (left, top, width, height))
