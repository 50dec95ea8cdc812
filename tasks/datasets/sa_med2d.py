"""SA-Med2D: boxes around organs and lesions in CT and MR slices.

Source: Ye et al., SA-Med2D-20M, 2023 (https://github.com/OpenGVLab/SAM-Med2D). Licence: CC BY-NC-SA 4.0, on
top of the licences of the public datasets it collects.

Two native layouts are read. The Uni-Med authors' processed bundle, which holds the paper's selection::

    images_small_test/ct/ct_00--AbdomenCT1K--Case_00011--x_0040.png
    regions_small_test/ct/ct_00--AbdomenCT1K--Case_00011--x_0040.json    [{"liver": [7.0, 8.0, 28.0, 37.0]},
    ...]

and the raw release (in `SAMed2Dv1` or in the folder itself)::

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
the bundle, so numbers on ours are not comparable with it. The index of 20 million masks is streamed twice, first for
the volumes, then for the draw, which keeps only as many masks in memory as may be used; images and masks are opened for
the drawn ones alone, each once.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from medbench.tasks.datasets.native import (
    MakeRegion,
    RegionKind,
    collect,
    detections,
    if_missing,
    is_litter,
    prefix,
    rank,
    ranked_split,
    refuse_options,
    region_sample,
    relative,
    seed_option,
    wrong_layout,
)
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.foundation.text import encoding_of
from medbench.tasks.images import image_size, locate, open_mask
from medbench.tasks.sample import SPLITS, Box, Sample, Split
from medbench.tasks.spec import Reading, Skipped
from medbench.tasks.validation import parse_json_file, read_text_bytes

_INDEX_FILE = "SAMed2D_v1.json"
_CLASSES_FILE = "SAMed2D_v1_class_mapping_id.json"
_INNER = "SAMed2Dv1"
_PARTS = 6
_DEFAULT_LIMITS = "10000/2000"
_DEFAULT_MODALITIES = "ct,mr"
# Masks that turn out unusable are replaced from a reserve of this share, so that a draw can still be full.
_RESERVE = 0.1
_NAME_PARTS = 4
_IN_A_LIST = 2
_CLASSES = TypeAdapter(dict[str, dict[str, str | int]])
_Draw = dict[tuple[str, Split], list[tuple[int, str, str]]]
"""By modality and split: rank, mask and image, lowest rank first."""


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


def read_regions(source: Path, options: Mapping[str, str], *, task: str, layout: str, kind: RegionKind) -> Reading:
    """Read SA-Med2D-REC or SA-Med2D-REG; see the module's docstring.

    Raises:
        DataError: If the layout is another one or a file is broken.
        UsageError: If an option is malformed or has no effect on the layout found.
    """
    modalities, make = _modalities_option(options), partial(region_sample, task, kind)
    if any((source / f"regions_small_{split}").is_dir() for split in SPLITS):
        refuse_options(options, ["seed", "max_per_modality"], "the authors' bundle is already split and drawn")
        parts = (_bundle_regions(make, source, split, modalities) for split in SPLITS)
        return collect(chain.from_iterable(parts), "the authors' bundle")
    candidates = (source / _INDEX_FILE, source / _INNER / _INDEX_FILE)
    index = next((path for path in candidates if path.is_file()), None)
    if index is None:
        raise wrong_layout(source, ["regions_small_{train,test}", _INDEX_FILE], layout)
    return _read_release(make, source, index, options)


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


def _modalities_option(options: Mapping[str, str]) -> tuple[str, ...]:
    """Return the option `modalities` as names; a UsageError if it names none."""
    names = tuple(name.strip() for name in options.get("modalities", _DEFAULT_MODALITIES).split(",") if name.strip())
    if not names:
        raise UsageError("The option modalities names no modality.", "Example: --option modalities=ct,mr")
    return names


def _read_release(make: MakeRegion, source: Path, index: Path, options: Mapping[str, str]) -> Reading:
    """Read the drawn regions in the order of their masks' names."""
    root = next((folder for folder in (source, source / _INNER) if (folder / "images").is_dir()), index.parent)
    modalities, seed, limits = _modalities_option(options), seed_option(options), _limits_option(options)
    opener = _Opener(make, root, prefix(source, root), _class_names(index.with_name(_CLASSES_FILE)))
    volumes = {name.volume for name, _, _ in _indexed(index, modalities)}
    splits = ranked_split(volumes, seed=seed, parts=_PARTS)
    draw = _draw(index, modalities, splits, seed, limits)
    method = (
        f"ours, not the authors': random {_PARTS - 1}:1 by volume, "
        f"at most {limits['train']}/{limits['test']} masks of each of {','.join(modalities)}, seed {seed}"
    )
    return collect(_regions(opener, draw, limits), method)


def _limits_option(options: Mapping[str, str]) -> dict[Split, int]:
    text = options.get("max_per_modality", _DEFAULT_LIMITS)
    train, slash, test = text.partition("/")
    if not (slash and train.isdecimal() and test.isdecimal()):
        raise UsageError(
            f"The option max_per_modality={text} is not two whole numbers.",
            f"Example: --option max_per_modality={_DEFAULT_LIMITS} (train/test)",
        )
    return {"train": int(train), "test": int(test)}


def stream_index(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield image and masks of every entry of the index (`{"<image>": ["<mask>", ...]}`) without holding the file.

    Raises:
        DataError: If the file is missing or is something else.
    """
    import ijson

    try:
        with path.open("rb") as stream:
            encoding, mark = encoding_of(stream.read(4))
            stream.seek(mark)
            # The authors' file is UTF-8; one that was saved again as something else is read whole.
            whole = stream if encoding == "utf-8" else BytesIO(read_text_bytes(path))
            yield from _entries(ijson.basic_parse(whole))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Download the file again.") from error
    except (ijson.JSONError, ValueError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"{path} is not one JSON object of lists: {words}.", "Download the file again.") from error


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


def _regions(opener: "_Opener", draw: _Draw, limits: Mapping[Split, int]) -> Iterator[Sample | Skipped]:
    for (_, split), drawn in sorted(draw.items()):
        found: list[Sample] = []
        for _, mask, image in drawn:
            if len(found) == limits[split]:
                break
            item = opener.region(mask, image, split)
            if isinstance(item, Sample):
                found.append(item)
            else:
                yield item
        yield from sorted(found, key=lambda sample: sample.sample_id)


class _Opener:
    """Makes samples of drawn masks; the header of an image is read once for all its masks."""

    def __init__(self, make: MakeRegion, root: Path, start: str, names: Mapping[tuple[str, int], str]) -> None:
        self._make, self._root, self._start, self._names = make, root, start, names
        self._sizes: dict[str, tuple[int, int] | str] = {}

    def region(self, mask: str, image: str, split: Split) -> Sample | Skipped:
        image_id, region_id = _stem(image), _stem(mask)
        name, code = SliceName.parse(image_id), region_id.rpartition("--")[2].partition("_")[0]
        object_name = self._names.get((name.dataset, int(code))) if name and code.isdecimal() else None
        if name is None or object_name is None:
            return Skipped(item=mask, reason="class is not in the class mapping")
        if image not in self._sizes:
            self._sizes[image] = self._size(image)
        size = self._sizes[image]
        if isinstance(size, str):
            return Skipped(item=mask, reason=size, looked_for=self._if_missing(image))
        box = self._box(mask, size)
        if isinstance(box, str):
            return Skipped(item=mask, reason=box, looked_for=self._if_missing(mask))
        modality = name.modality.partition("_")[0]
        return self._make(
            sample_id=region_id,
            split=split,
            image=f"{self._start}{image}",
            size=size,
            name=object_name,
            box=box,
            labels={"modality": modality, "sequence": name.modality, "dataset": name.dataset},
            groups={"image": image_id, "volume": name.volume},
        )

    def _if_missing(self, name: str) -> str:
        lost = if_missing(self._root, name)
        return f"{self._start}{lost}" if lost else ""

    def _size(self, image: str) -> tuple[int, int] | str:
        try:
            return image_size(locate(self._root, image))
        except SampleError:
            return "image is missing, unreadable or outside the folder"

    def _box(self, mask: str, size: tuple[int, int]) -> Box | str:
        """Return the tight box of the marked pixels of a mask, or why there is none."""
        try:
            marked = open_mask(locate(self._root, mask))
        except SampleError:
            return "mask is missing, unreadable or outside the folder"
        if marked.shape != size[::-1]:
            return "mask and image differ in size"
        box = Image.fromarray(marked.astype(np.uint8)).getbbox()
        return "mask is empty" if box is None else Box(*(float(edge) for edge in box))


def _class_names(path: Path) -> dict[tuple[str, int], str]:
    try:
        return {
            (dataset, int(code)): name.replace("_", " ")
            for dataset, classes in parse_json_file(_CLASSES, path).items()
            for name, code in classes.items()
        }
    except ValueError as error:
        raise DataError(f"{path}: a class code is no number.", "Download the file again.") from error


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".png")
