"""The SA-Med2D folder: Colin27 slabs and the SAM-Med2D demo in the layout of SA-Med2D-20M.

Layout: Ye et al., SA-Med2D-20M, arXiv 2311.11969: `{modality}--{dataset}--{case}--{dim}_{slice:04d}.png`, masks with
`--{class:04d}_{instance:03d}` added.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.mini_suite import colin27, sam_med2d_demo
from tools.mini_suite.colin27 import Plane
from tools.mini_suite.encoding import compact_json, grey_image, png
from tools.mini_suite.part import Part, TaskRecord
from tools.mini_suite.seeds import generator, shuffled

REGIONS_PER_SLAB = 42
"""Cap that keeps any sixth of the cases between 40 and 260 regions."""

_SLAB, _PERIOD = 6, 10
_RANGES: dict[Plane, tuple[int, int]] = {"coronal": (25, 190), "sagittal": (25, 160)}
_AXES: dict[Plane, str] = {"coronal": "y", "sagittal": "x"}
_MIDLINE = range(83, 98)
_GREY_LEVELS = 32


@dataclass(slots=True)
class _Tree:
    """What has been written so far; class numbers are handed out per dataset in order of first use."""

    files: dict[str, bytes] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=dict)
    classes: dict[str, dict[str, str]] = field(default_factory=dict)

    def add_image(self, name: str, image: Image.Image) -> None:
        self.files[f"SAMed2Dv1/images/{name}.png"] = png(_posterised(image))
        self.masks[f"images/{name}.png"] = []

    def add_mask(self, name: str, structure: str, instance: int, mask: NDArray[np.bool_]) -> None:
        classes = self.classes.setdefault(name.split("--")[1], {})
        number = classes.setdefault(structure, f"{len(classes) + 1:04d}")
        path = f"masks/{name}--{number}_{instance:03d}.png"
        self.files[f"SAMed2Dv1/{path}"] = png(Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))))
        self.masks[f"images/{name}.png"].append(path)


def _posterised(image: Image.Image) -> Image.Image:
    step = 255 / (_GREY_LEVELS - 1)
    return image.point([round(round(level / step) * step) for level in range(256)])


def build(realdata: Path) -> Part:
    """Return `SAMed2Dv1/{images,masks}/*.png` and its two JSON files.

    Args:
        realdata: Folder that holds `colin27_aal` and `sam_med2d_demo`.

    Raises:
        DataError: If a source is missing or broken.
    """
    tree = _Tree()
    items = {"mr_t1--Colin27--*": "colin27:slabs of one volume"}
    for item in sam_med2d_demo.slices(realdata):
        if not item.masks:
            continue
        name = f"{item.modality}--{item.dataset}--{item.case}--{item.position}"
        tree.add_image(name, item.image)
        for structure, instance, mask in item.masks:
            tree.add_mask(name, structure, instance, mask)
        items[name] = f"sam-med2d-demo:{item.name}"
    for plane in _RANGES:
        for start in _slabs(plane):
            _add_slab(tree, realdata, plane, start)
    tree.files["SAMed2Dv1/SAMed2D_v1.json"] = compact_json(tree.masks)
    tree.files["SAMed2Dv1/SAMed2D_v1_class_mapping_id.json"] = compact_json(tree.classes)
    return Part(
        files=tree.files,
        tasks=tuple(_record(task, tree, items) for task in ("sa-med2d-rec", "sa-med2d-reg")),
        sources=(colin27.SOURCE, sam_med2d_demo.SOURCE),
        notes=(_NOTE,),
    )


_NOTE = (
    "SA-Med2D: the Colin27 cases are slabs of one volume, 6 mm thick and 4 mm apart, coronal and sagittal; slabs of "
    "different planes cross, so a split by case parts the slices but not the person. A case name such as "
    "coronal-slab-095 has the first slice in it. Coronal pictures show the patient's right on the left and their "
    "structures carry the side; sagittal pictures face left and theirs do not. Axial slices of the same head are in "
    "Slake-REC/REG. The demo's amos_0507_31.png has no masks and is left out."
)


def _record(task: str, tree: _Tree, items: dict[str, str]) -> TaskRecord:
    regions = sum(len(paths) for paths in tree.masks.values())
    return TaskRecord(
        task=task,
        folder="SAMed2Dv1",
        split="by the reader: seeded, one sixth of the cases (dataset--case) to test",
        counts={"total": regions},
        items=items,
    )


def _slabs(plane: Plane) -> Iterator[int]:
    first, last = _RANGES[plane]
    for start in range(first, last, _PERIOD):
        # Sagittal slices at the midline cut the thin gap between the hemispheres, where the atlas is ragged.
        if plane == "coronal" or start not in _MIDLINE:
            yield start


def _add_slab(tree: _Tree, realdata: Path, plane: Plane, start: int) -> None:
    atlas = colin27.read_atlas(realdata, volume="ch2bet")
    drawn = []
    for index in range(start, start + _SLAB):
        view = colin27.draw_view(atlas, plane, index, generator("sa-med2d", plane, index), noise=0.0)
        name = f"mr_t1--Colin27--{plane}-slab-{start:03d}--{_AXES[plane]}_{index:04d}"
        drawn.append((name, view))
    everything = [(name, region) for name, view in drawn for region in view.regions]
    kept = shuffled(everything, "sa-med2d", plane, start)[:REGIONS_PER_SLAB]
    chosen = {(name, region.name) for name, region in kept}
    for name, view in drawn:
        regions = [region for region in view.regions if (name, region.name) in chosen]
        if regions:
            tree.add_image(name, grey_image(view.image))
        for region in regions:
            tree.add_mask(name, region.name.lower().replace(" ", "_"), 0, region.mask)
