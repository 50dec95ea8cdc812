"""Which AAL regions make up which clinically named structure.

Codes are those of the AAL atlas (Tzourio-Mazoyer et al., NeuroImage 2002): even last digit right, odd left.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

LATERAL_CODES: Mapping[str, tuple[int, ...]] = {
    "Frontal Lobe": (
        2001, 2101, 2111, 2201, 2211, 2301, 2311, 2321, 2331, 2401, 2501, 2601, 2611, 2701, 6401,
    ),
    "Temporal Lobe": (5401, 8101, 8111, 8121, 8201, 8211, 8301),
    "Parietal Lobe": (6001, 6101, 6201, 6211, 6221, 6301),
    "Occipital Lobe": (5001, 5011, 5021, 5101, 5201, 5301),
    "Insula": (3001,),
    "Hippocampus": (4101, 4111),
    "Caudate Nucleus": (7001,),
    "Lentiform Nucleus": (7011, 7021),
    "Thalamus": (7101,),
    "Cerebellar Hemisphere": (9001, 9011, 9021, 9031, 9041, 9051, 9061, 9071, 9081),
    "Cingulate Gyrus": (4001, 4011, 4021),
}  # fmt: skip
"""Paired structures by the AAL codes of their left side; each right code is one higher.

The hippocampus includes the parahippocampal gyrus, the lentiform nucleus is putamen and pallidum, the frontal
lobe includes the paracentral lobule.
"""

VERMIS_CODES = (9100, 9110, 9120, 9130, 9140, 9150, 9160, 9170)

SIDES = ("Left", "Right")


def region_indexes(table: str) -> dict[int, int]:
    """Return AAL code to voxel value, from the text of `aal.nii.txt` (`index name code` per line)."""
    rows = (line.split() for line in table.splitlines() if line.strip())
    return {int(code): int(index) for index, _, code in rows}


def structure_masks(
    labels: NDArray[np.uint8], codes: Mapping[int, int], *, sided: bool
) -> dict[str, NDArray[np.bool_]]:
    """Return the masks of the structures in a piece of the atlas.

    Args:
        labels: Voxel values of the atlas, any shape.
        codes: AAL code to voxel value.
        sided: Whether paired structures get one mask per side (`Left Thalamus`) or one for both (`Thalamus`).
    """
    masks: dict[str, NDArray[np.bool_]] = {}
    for name, left in LATERAL_CODES.items():
        by_side = {"Left": left, "Right": tuple(code + 1 for code in left)}
        if sided and name not in {"Cerebellar Hemisphere", "Cingulate Gyrus"}:
            masks |= {f"{side} {name}": _mask(labels, codes, by_side[side]) for side in SIDES}
        else:
            masks[name] = _mask(labels, codes, (*by_side["Left"], *by_side["Right"]))
    cerebellum = masks.pop("Cerebellar Hemisphere")
    masks["Cerebellum"] = cerebellum | _mask(labels, codes, VERMIS_CODES)
    return masks


def _mask(labels: NDArray[np.uint8], codes: Mapping[int, int], wanted: tuple[int, ...]) -> NDArray[np.bool_]:
    return np.isin(labels, [codes[code] for code in wanted])
