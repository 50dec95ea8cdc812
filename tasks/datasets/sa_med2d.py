"""SA-Med2D: boxes around organs and lesions in CT and MR slices. Both native layouts, and samples: docs/data.md.

Source: Ye et al., SA-Med2D-20M, 2023 (https://github.com/OpenGVLab/SAM-Med2D). Licence: CC BY-NC-SA 4.0, on
top of the licences of the public datasets it collects.
"""

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from medbench.tasks.datasets.native import Found, Native, collect, if_missing, is_litter, rank, ranked_split, sorted_out
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.foundation.files import encoding_of, json_events, readable
from medbench.tasks.images import image_size, locate, open_mask
from medbench.tasks.sample import SPLITS, Box, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import parse_json_file, read_text_bytes

T = TypeVar("T")

_INDEX_FILE = "SAMed2D_v1.json"
_CLASSES_FILE = "SAMed2D_v1_class_mapping_id.json"
_INNER = "SAMed2Dv1"
_PARTS = 6
_DEFAULT_LIMITS, _DEFAULT_MODALITIES = "10000/2000", "ct,mr"
# Masks that turn out unusable are replaced from a reserve of this share, so that a draw can still be full.
_RESERVE = 0.1
_NAME_PARTS, _IN_A_LIST = 4, 2
# By modality and split: rank, mask and image, lowest rank first.
_Draw = dict[tuple[str, Split], list[tuple[int, str, str]]]


@dataclass(frozen=True, slots=True)
class SliceName:
    """What the name of an image says: `ct_00--AbdomenCT1K--Case_00011--x_0040`."""

    modality: str  # With its sub-modality, e.g. `mr_t1`.
    dataset: str  # The public dataset it comes from.
    volume: str  # `dataset--case`, the unit of the split.

    @classmethod
    def parse(cls, name: str) -> "SliceName | None":
        """Return the parts of a name without folder and suffix, or None if it has another form."""
        parts = name.split("--")
        if len(parts) != _NAME_PARTS or not all(parts):
            return None
        return cls(modality=parts[0], dataset=parts[1], volume=f"{parts[1]}--{parts[2]}")


def read_regions(native: Native) -> Reading:
    """Read SA-Med2D-REC or SA-Med2D-REG.

    Raises DataError if the layout is another one or a file is broken; UsageError if an option is malformed or has no
    effect on the layout found.
    """
    source, modalities = native.source, _modalities_option(native.options)
    if any((source / f"regions_small_{split}").is_dir() for split in SPLITS):
        native.refuse_options(["seed", "max_per_modality"], "the authors' bundle is already split and drawn")
        parts = (_bundle_regions(native, split, modalities) for split in SPLITS)
        return collect(chain.from_iterable(parts), "the authors' bundle")
    index = next((path for path in (source / _INDEX_FILE, source / _INNER / _INDEX_FILE) if path.is_file()), None)
    if index is None:
        raise native.other_layout("regions_small_{train,test}", _INDEX_FILE)
    return _read_release(native, index, modalities)


def _bundle_regions(native: Native, split: Split, modalities: tuple[str, ...]) -> Found:
    folder = native.source / f"regions_small_{split}"
    if not folder.is_dir():
        yield Skipped(item=folder.name, reason="folder is missing")
        return
    for path in sorted(path for path in folder.glob("*/*.json") if not is_litter(path.name)):
        modality, image_id = path.parent.name, path.stem
        if any(modality == wanted or modality.startswith(f"{wanted}_") for wanted in modalities):
            image = native.source / f"images_small_{split}" / modality / f"{image_id}.png"
            name = SliceName.parse(image_id)
            yield from native.detections(
                image, path, f"{split}/{modality}/{image_id}", native.relative(image), split,
                labels={"modality": modality}, groups={"image": image_id, "volume": name.volume if name else image_id},
            )  # fmt: skip


def _modalities_option(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the option `modalities` as names; a UsageError if it names none."""
    names = tuple(name.strip() for name in options.get("modalities", _DEFAULT_MODALITIES).split(",") if name.strip())
    if not names:
        raise UsageError("The option modalities names no modality.", "Example: --option modalities=ct,mr")
    return names


def _read_release(native: Native, index: Path, modalities: tuple[str, ...]) -> Reading:
    """Read the drawn regions, by modality and split in the order of their masks' names."""
    source = native.source
    root = next((folder for folder in (source, source / _INNER) if (folder / "images").is_dir()), index.parent)
    seed, form, problem = native.seed(), r"\d+/\d+", "not two whole numbers"
    most = native.option("max_per_modality", _DEFAULT_LIMITS, form, problem, note=" (train/test)")
    limits: dict[Split, int] = dict(zip(SPLITS, map(int, most.split("/")), strict=True))
    region = _opener(native, root, _class_names(index.with_name(_CLASSES_FILE)))
    volumes = {name.volume for name, _, _ in _indexed(index, modalities)}
    draw = _draw(index, modalities, ranked_split(volumes, seed=seed, parts=_PARTS), seed, limits)
    found: list[Sample | Skipped] = []
    for (_, split), drawn in sorted(draw.items()):
        samples, skipped = sorted_out((region(mask, image, split) for _, mask, image in drawn), limits[split])
        found += [*skipped, *sorted(samples, key=lambda sample: sample.sample_id)]
    method = (
        f"ours, not the authors': random {_PARTS - 1}:1 by volume, "
        f"at most {limits['train']}/{limits['test']} masks of each of {','.join(modalities)}, seed {seed}"
    )
    return collect(found, method)


def stream_index(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield image and masks of every entry of the index (`{"<image>": ["<mask>", ...]}`) without holding the file.

    Raises DataError if the file is missing or is something else.
    """
    again = "Download the file again."
    try:
        with readable(path, again), path.open("rb") as stream:
            encoding, mark = encoding_of(stream.read(4))
            stream.seek(mark)
            # The authors' file is UTF-8; one that was saved again as something else is read whole.
            whole = stream if encoding == "utf-8" else BytesIO(read_text_bytes(path))
            yield from _entries(json_events(whole))
    except ValueError as error:
        raise DataError(f"{path} is not one JSON object of lists: {error}.", again) from error


def _entries(events: Iterable[tuple[str, object]]) -> Iterator[tuple[str, list[str]]]:
    """Yield the entries of the one form of document that is expected; everything else is refused where it begins."""
    depth, image, masks = 0, "", list[str]()
    for event, value in events:
        if (depth, event) in {(0, "start_map"), (1, "start_array")}:
            depth += 1
        elif (depth, event) == (1, "map_key"):
            image, masks = str(value), []
        elif (depth, event) == (_IN_A_LIST, "string"):
            masks.append(str(value))
        elif (depth, event) == (_IN_A_LIST, "end_array"):
            depth = 1
            yield image, masks
        elif (depth, event) != (1, "end_map"):
            raise ValueError(f"{event} at {image!r}")


def _indexed(index: Path, modalities: tuple[str, ...]) -> Iterator[tuple[SliceName, str, list[str]]]:
    wanted = tuple(f"{modality}_" for modality in modalities)
    for image, masks in stream_index(index):
        name = SliceName.parse(_stem(image))
        if name is not None and name.modality.startswith(wanted):
            yield name, image, masks


def _draw(
    index: Path, modalities: tuple[str, ...], splits: Mapping[str, Split], seed: int, limits: Mapping[Split, int]
) -> _Draw:
    """Return the masks of lowest rank by modality and split, with a reserve."""
    kept: _Draw = {}
    for name, image, masks in _indexed(index, modalities):
        split = splits[name.volume]
        heap = kept.setdefault((name.modality.partition("_")[0], split), [])
        most = limits[split] + int(limits[split] * _RESERVE)
        for mask in masks:
            # The heap has its smallest on top; negated, that is the highest rank, which is the first to go.
            entry = (-rank(seed, mask), mask, image)
            if len(heap) < most:
                heapq.heappush(heap, entry)
            elif heap and entry > heap[0]:
                heapq.heapreplace(heap, entry)
    return {key: sorted((-place, mask, image) for place, mask, image in heap) for key, heap in kept.items()}


def _opener(
    native: Native, root: Path, names: Mapping[tuple[str, int], str]
) -> Callable[[str, str, Split], Sample | Skipped]:
    """Return what makes a sample of a drawn mask; the header of an image is read once for all its masks."""
    start = native.prefix(root)

    @cache
    def size_of(image: str) -> tuple[int, int] | str:
        return _read(root, image, "image", image_size)

    def unusable(item: str, reason: str, name: str) -> Skipped:
        lost = if_missing(root, name)
        return Skipped(item=item, reason=reason, looked_for=f"{start}{lost}" if lost else "")

    def region(mask: str, image: str, split: Split) -> Sample | Skipped:
        image_id, region_id = _stem(image), _stem(mask)
        name, code = SliceName.parse(image_id), region_id.rpartition("--")[2].partition("_")[0]
        object_name = names.get((name.dataset, int(code))) if name and code.isdecimal() else None
        if name is None or object_name is None:
            return Skipped(item=mask, reason="class is not in the class mapping")
        size = size_of(image)
        if isinstance(size, str):
            return unusable(mask, size, image)
        box = _box(_read(root, mask, "mask", open_mask), size)
        if isinstance(box, str):
            return unusable(mask, box, mask)
        labels = {"modality": name.modality.partition("_")[0], "sequence": name.modality, "dataset": name.dataset}
        groups = {"image": image_id, "volume": name.volume}
        return native.region(region_id, split, f"{start}{image}", size, object_name, box, labels=labels, groups=groups)

    return region


def _read(root: Path, name: str, what: str, read: Callable[[Path], T]) -> T | str:
    try:
        return read(locate(root, name))
    except SampleError:
        return f"{what} is missing, unreadable or outside the folder"


def _box(marked: npt.NDArray[np.bool_] | str, size: tuple[int, int]) -> Box | str:
    """Return the tight box of the marked pixels of a mask, or why there is none."""
    if isinstance(marked, str):
        return marked
    if marked.shape != size[::-1]:
        return "mask and image differ in size"
    box = Image.fromarray(marked.astype(np.uint8)).getbbox()
    return "mask is empty" if box is None else Box(*(float(edge) for edge in box))


def _class_names(path: Path) -> dict[tuple[str, int], str]:
    mapping = parse_json_file(dict[str, dict[str, int]], path)
    codes = ((dataset, name, code) for dataset, classes in mapping.items() for name, code in classes.items())
    return {(dataset, code): name.replace("_", " ") for dataset, name, code in codes}


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".png")
