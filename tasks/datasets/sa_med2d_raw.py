"""The raw SA-Med2D release: 20 million masks become a seeded draw of boxes, and only the drawn ones are read.

The index is streamed twice, first for the volumes, then for the draw, which keeps only as many masks in
memory as may be used. Images and masks are opened for the drawn ones alone: each image's header once, each
mask once.
"""

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from medbench.tasks.datasets.json_stream import stream_object
from medbench.tasks.datasets.native import prefix, rank, ranked_split, seed_option
from medbench.tasks.datasets.regions import Region
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.images import image_size, locate, open_mask
from medbench.tasks.missing import if_missing
from medbench.tasks.sample import Box, ImageRef, Split
from medbench.tasks.spec import Skipped
from medbench.tasks.validation import parse_json_file

INDEX_FILE = "SAMed2D_v1.json"
_CLASSES_FILE = "SAMed2D_v1_class_mapping_id.json"
_INNER = "SAMed2Dv1"
_PARTS = 6
_DEFAULT_LIMITS = "10000/2000"
_DEFAULT_MODALITIES = "ct,mr"

# Masks that turn out unusable are replaced from a reserve of this share, so that a draw can still be full.
_RESERVE = 0.1
_NAME_PARTS = 4

_CLASSES = TypeAdapter(dict[str, dict[str, str | int]])


@dataclass(frozen=True, slots=True)
class SliceName:
    """What the name of an image says: `ct_00--AbdomenCT1K--Case_00011--x_0040`.

    Attributes:
        modality: With its sub-modality, e.g. `mr_t1`.
        dataset: The public dataset it comes from.
        volume: `dataset--case`, the unit of the split.
    """

    modality: str
    dataset: str
    volume: str

    @classmethod
    def parse(cls, name: str) -> "SliceName | None":
        """Return the parts of a name without folder and suffix, or None if it has another form."""
        parts = name.split("--")
        if len(parts) != _NAME_PARTS or not all(parts):
            return None
        return cls(modality=parts[0], dataset=parts[1], volume=f"{parts[1]}--{parts[2]}")


@dataclass(frozen=True, slots=True)
class Release:
    """Where the parts of the raw release are."""

    index: Path
    classes: Path
    root: Path


@dataclass(frozen=True, slots=True, order=True)
class _Drawn:
    """A mask in the draw; the lowest ranks are taken first."""

    place: int
    mask: str
    image: str


def find_release(source: Path) -> Release | None:
    """Return the raw release in `source`, or None if there is no index."""
    folders = (source, source / _INNER)
    index = next((folder / INDEX_FILE for folder in folders if (folder / INDEX_FILE).is_file()), None)
    if index is None:
        return None
    root = next((folder for folder in folders if (folder / "images").is_dir()), index.parent)
    return Release(index=index, classes=index.with_name(_CLASSES_FILE), root=root)


def modalities_option(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the option `modalities` as names.

    Raises:
        UsageError: If it names none.
    """
    names = tuple(name.strip() for name in options.get("modalities", _DEFAULT_MODALITIES).split(",") if name.strip())
    if not names:
        raise UsageError("The option modalities names no modality.", "Example: --option modalities=ct,mr")
    return names


def read_release(source: Path, release: Release, options: Mapping[str, str]) -> tuple[Iterator[Region | Skipped], str]:
    """Return the drawn regions in the order of their masks' names, and how they were drawn.

    Raises:
        DataError: If the index or the classes are broken.
        UsageError: If an option is malformed.
    """
    modalities, seed, limits = modalities_option(options), seed_option(options), _limits_option(options)
    names = _class_names(release.classes)
    volumes = {name.volume for name, _, _ in _indexed(release.index, modalities)}
    splits = ranked_split(volumes, seed=seed, parts=_PARTS)
    draw = _draw(release.index, modalities, splits, seed, limits)
    method = (
        f"ours, not the authors': random {_PARTS - 1}:1 by volume, "
        f"at most {limits['train']}/{limits['test']} masks of each of {','.join(modalities)}, seed {seed}"
    )
    return _regions(source, release, names, draw, limits), method


def _limits_option(options: Mapping[str, str]) -> dict[Split, int]:
    text = options.get("max_per_modality", _DEFAULT_LIMITS)
    train, slash, test = text.partition("/")
    if not (slash and train.isdecimal() and test.isdecimal()):
        raise UsageError(
            f"The option max_per_modality={text} is not two whole numbers.",
            f"Example: --option max_per_modality={_DEFAULT_LIMITS} (train/test)",
        )
    return {"train": int(train), "test": int(test)}


def _class_names(path: Path) -> dict[tuple[str, int], str]:
    try:
        return {
            (dataset, int(code)): name.replace("_", " ")
            for dataset, classes in parse_json_file(_CLASSES, path).items()
            for name, code in classes.items()
        }
    except ValueError as error:
        raise DataError(f"{path}: a class code is no number.", "Download the file again.") from error


def _indexed(index: Path, modalities: tuple[str, ...]) -> Iterator[tuple[SliceName, str, list[Any]]]:
    wanted = tuple(f"{modality}_" for modality in modalities)
    for image, masks in stream_object(index):
        name = SliceName.parse(_stem(image))
        if name is not None and name.modality.startswith(wanted):
            if not isinstance(masks, list):
                raise DataError(f"{index}: the masks of {image!r} are no list.", "Download the file again.")
            yield name, image, masks


def _draw(
    index: Path,
    modalities: tuple[str, ...],
    splits: Mapping[str, Split],
    seed: int,
    limits: Mapping[Split, int],
) -> dict[tuple[str, Split], list[_Drawn]]:
    """Return the masks of lowest rank by modality and split, with a reserve, lowest first."""
    kept: dict[tuple[str, Split], list[tuple[int, str, str]]] = {}
    for name, image, masks in _indexed(index, modalities):
        split = splits[name.volume]
        heap = kept.setdefault((name.modality.partition("_")[0], split), [])
        most = limits[split] + int(limits[split] * _RESERVE)
        for mask in masks:
            # The heap has its smallest on top; negated, that is the highest rank, which is the first to go.
            entry = (-rank(seed, str(mask)), str(mask), image)
            if len(heap) < most:
                heapq.heappush(heap, entry)
            elif heap and entry > heap[0]:
                heapq.heapreplace(heap, entry)
    return {key: sorted(_Drawn(-place, mask, image) for place, mask, image in heap) for key, heap in kept.items()}


def _regions(
    source: Path,
    release: Release,
    names: Mapping[tuple[str, int], str],
    draw: Mapping[tuple[str, Split], list[_Drawn]],
    limits: Mapping[Split, int],
) -> Iterator[Region | Skipped]:
    opener = _Opener(release.root, prefix(source, release.root), names)
    for (_, split), drawn in sorted(draw.items()):
        found: list[Region] = []
        for item in drawn:
            if len(found) == limits[split]:
                break
            region = opener.region(item, split)
            if isinstance(region, Region):
                found.append(region)
            else:
                yield region
        yield from sorted(found, key=lambda region: region.region_id)


class _Opener:
    """Opens drawn masks, each once, and the headers of their images, each once."""

    def __init__(self, root: Path, start: str, names: Mapping[tuple[str, int], str]) -> None:
        self._root = root
        self._start = start
        self._names = names
        self._sizes: dict[str, tuple[int, int] | str] = {}

    def region(self, item: _Drawn, split: Split) -> Region | Skipped:
        image_id = _stem(item.image)
        name = SliceName.parse(image_id)
        object_name = self._object_name(name, item.mask)
        if name is None or object_name is None:
            return Skipped(item=item.mask, reason="class is not in the class mapping")
        size = self._size(item.image)
        if isinstance(size, str):
            return Skipped(item=item.mask, reason=size, looked_for=self._if_missing(item.image))
        box = _mask_box(self._root, item.mask, size)
        if isinstance(box, str):
            return Skipped(item=item.mask, reason=box, looked_for=self._if_missing(item.mask))
        modality = name.modality.partition("_")[0]
        return Region(
            region_id=_stem(item.mask),
            split=split,
            image=ImageRef(path=f"{self._start}{item.image}"),
            image_size=size,
            name=object_name,
            box=box,
            labels={"modality": modality, "sequence": name.modality, "dataset": name.dataset},
            groups={"image": image_id, "volume": name.volume},
        )

    def _if_missing(self, name: str) -> str:
        lost = if_missing(self._root, name)
        return f"{self._start}{lost}" if lost else ""

    def _object_name(self, name: SliceName | None, mask: str) -> str | None:
        code = _stem(mask).rpartition("--")[2].partition("_")[0]
        return self._names.get((name.dataset, int(code))) if name and code.isdecimal() else None

    def _size(self, image: str) -> tuple[int, int] | str:
        if image not in self._sizes:
            self._sizes[image] = _size(self._root, image)
        return self._sizes[image]


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".png")


def _size(root: Path, image: str) -> tuple[int, int] | str:
    try:
        return image_size(locate(root, image))
    except SampleError:
        return "image is missing, unreadable or outside the folder"


def _mask_box(root: Path, mask: str, size: tuple[int, int]) -> Box | str:
    """Return the tight box of the marked pixels of a mask, or why there is none."""
    try:
        marked = open_mask(locate(root, mask))
    except SampleError:
        return "mask is missing, unreadable or outside the folder"
    if marked.shape != size[::-1]:
        return "mask and image differ in size"
    box = Image.fromarray(marked.astype(np.uint8)).getbbox()
    return "mask is empty" if box is None else Box(*(float(edge) for edge in box))
