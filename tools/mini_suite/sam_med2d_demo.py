"""The demo pictures of SAM-Med2D, renamed to the convention of SA-Med2D-20M.

Source: Cheng et al., SAM-Med2D, arXiv 2308.16184; the slices are from AMOS 2022 and TotalSegmentator.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medbench.tasks.foundation.errors import DataError
from tools.mini_suite.part import Source

_LONGEST_SIDE = 144

# AMOS cases from 500 on are MR, those below are CT (AMOS 2022, dataset description).
_FIRST_MR_CASE = 500

SOURCE = Source(
    name="sam-med2d-demo",
    title="SAM-Med2D demo: CT slices of AMOS 2022 and TotalSegmentator with masks",
    origin="stand-in",
    licence="Apache-2.0 AND CC-BY-4.0",
    attribution=(
        "Cheng et al., SAM-Med2D (Apache-2.0); slices: Ji et al., AMOS 2022 (CC BY 4.0), "
        "Wasserthal et al., TotalSegmentator 2023 (CC BY 4.0)"
    ),
    retrieved_from="github.com/OpenGVLab/SAM-Med2D@bfd2b93b, data_demo",
    changes="renamed to the SA-Med2D-20M convention, made grey, longest side 144 px; masks by nearest neighbour",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoSlice:
    """One demo picture.

    Attributes:
        name: File name in the source.
        modality: Tag of SA-Med2D, e.g. `ct_00`.
        dataset: Where the slice is from.
        case: Case in that dataset.
        position: `z_0075`.
        image: Grey picture.
        masks: Class name, instance and mask [height, width], in order of file name.
    """

    name: str
    modality: str
    dataset: str
    case: str
    position: str
    image: Image.Image
    masks: tuple[tuple[str, int, NDArray[np.bool_]], ...]


def slices(realdata: Path) -> Iterator[DemoSlice]:
    """Yield the five pictures in order of name.

    Args:
        realdata: Folder that holds `sam_med2d_demo`.

    Raises:
        DataError: If a picture cannot be read or its name is not known.
    """
    folder = realdata / "sam_med2d_demo/data_demo"
    for path in sorted((folder / "images").glob("*.png")):
        known = re.fullmatch(r"(amos)_(\d+)_(\d+)|(s)(\d+)_(\d+)", path.stem)
        if known is None:
            raise DataError(f"{path} is no picture of the SAM-Med2D demo.", "Give the folder with the original files.")
        dataset, case, number = (part for part in known.groups() if part is not None)
        yield DemoSlice(
            name=path.name,
            modality="mr_00" if dataset == "amos" and int(case) >= _FIRST_MR_CASE else "ct_00",
            dataset="AMOS2022" if dataset == "amos" else "TotalSegmentator",
            case=f"{dataset}_{case}" if dataset == "amos" else f"s{case}",
            position=f"z_{int(number):04d}",
            image=_small(path),
            masks=tuple(_masks(folder / "masks", path.stem)),
        )


def _small(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            grey = image.convert("L")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.", "Give the folder with the original files.") from error
    return grey.resize(_small_size(grey), Image.Resampling.LANCZOS)


def _small_size(image: Image.Image) -> tuple[int, int]:
    factor = _LONGEST_SIDE / max(image.size)
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def _masks(folder: Path, stem: str) -> Iterator[tuple[str, int, NDArray[np.bool_]]]:
    for path in sorted(folder.glob(f"{stem}_*.png")):
        name, _, instance = path.stem.removeprefix(f"{stem}_").rpartition("_")
        with Image.open(path) as image:
            small = image.convert("L").resize(_small_size(image), Image.Resampling.NEAREST)
        mask = np.asarray(small) > 0
        if mask.any():
            yield name, int(instance), mask
