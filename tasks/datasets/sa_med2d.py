"""SA-Med2D: boxes around organs and lesions in CT and MR slices.

Source: Ye et al., SA-Med2D-20M, 2023 (https://github.com/OpenGVLab/SAM-Med2D). Licence: CC BY-NC-SA 4.0, on
top of the licences of the public datasets it collects.

Two native layouts are read. The Uni-Med authors' processed bundle, which holds the paper's selection::

    images_small_test/ct/ct_00--AbdomenCT1K--Case_00011--x_0040.png
    regions_small_test/ct/ct_00--AbdomenCT1K--Case_00011--x_0040.json    [{"liver": [7.0, 8.0, 28.0, 37.0]},
    ...]

and the raw release (in `SAMed2Dv1` or in the folder itself), see `medbench.tasks.datasets.sa_med2d_raw`::

    images/mr_t1--BraTS2021--BraTS2021_00218--z_0141.png
    masks/mr_t1--BraTS2021--BraTS2021_00218--z_0141--0011_000.png        class 0011, instance 000
    SAMed2D_v1.json                     {"images/<name>.png": ["masks/<name>--0011_000.png", ...], ...}
    SAMed2D_v1_class_mapping_id.json    {"BraTS2021": {"necrotic_tumor_core": "0011", ...}, ...}

Samples: one per region of a CT or MR image, REC and REG alike (20000 / 4000 in the paper). The object is the
class name with underscores as spaces; the box is left, top, width, height in pixels, of a mask the tight box
of its marked pixels, which are seen and not black (`medbench.tasks.pixels`).

Split: the bundle's folders, walked in sorted order (the official code walks them in directory order). For
the raw release, volumes (`dataset--case`: slices of one volume look alike) are split 5:1 by a seeded hash,
and per modality at most 10000 / 2000 masks are drawn. The paper's own selection is not published outside
the bundle, so numbers on ours are not comparable with it.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from medbench.tasks.datasets.native import (
    SPLITS,
    MakeRegion,
    RegionKind,
    collect,
    detections,
    is_litter,
    refuse_options,
    region_sample,
    relative,
    wrong_layout,
)
from medbench.tasks.datasets.sa_med2d_raw import INDEX_FILE, SliceName, find_release, modalities_option, read_release
from medbench.tasks.sample import Sample, Split
from medbench.tasks.spec import Reading, Skipped


def read_regions(source: Path, options: Mapping[str, str], *, task: str, layout: str, kind: RegionKind) -> Reading:
    """Read SA-Med2D-REC or SA-Med2D-REG; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a file is broken.
        UsageError: If an option is malformed or has no effect on the layout found.
    """
    modalities, make = modalities_option(options), partial(region_sample, task, kind)
    if any((source / f"regions_small_{split}").is_dir() for split in SPLITS):
        refuse_options(options, ["seed", "max_per_modality"], "the authors' bundle is already split and drawn")
        parts = (_bundle_regions(make, source, split, modalities) for split in SPLITS)
        return collect(chain.from_iterable(parts), "the authors' bundle")
    release = find_release(source)
    if release is None:
        raise wrong_layout(source, ["regions_small_{train,test}", INDEX_FILE], layout)
    return read_release(make, source, *release, options)


def _bundle_regions(
    make: MakeRegion, source: Path, split: Split, modalities: tuple[str, ...]
) -> Iterator[Sample | Skipped]:
    folder = source / f"regions_small_{split}"
    if not folder.is_dir():
        yield Skipped(item=folder.name, reason="folder is missing")
        return
    for path in sorted(path for path in folder.glob("*/*.json") if not is_litter(path.name)):
        modality, image_id = path.parent.name, path.stem
        if not any(modality == wanted or modality.startswith(f"{wanted}_") for wanted in modalities):
            continue
        image = source / f"images_small_{split}" / modality / f"{image_id}.png"
        name = SliceName.parse(image_id)
        yield from detections(
            make, source, image, path, f"{split}/{modality}/{image_id}", relative(source, image),
            split=split,
            labels={"modality": modality},
            groups={"image": image_id, "volume": name.volume if name else image_id},
        )  # fmt: skip
