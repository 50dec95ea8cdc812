"""The samples of a task as columns: what was asked, what is right, what each run said and scored, and the images.

Every text and every image is in a report once; samples refer to them by number.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from PIL import Image

from medbench.leaderboard.report.sources import RunSource, TaskSource
from medbench.leaderboard.samples import ScoreRecord
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import JsonObject
from medbench.tasks.images import open_image, size_of_image
from medbench.tasks.protocols import PROTOCOLS, STATES, Protocol
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec

MEGABYTE = 1_000_000
_CORPUS_METRICS = frozenset({"macro_f1"})
"""Whose value of a single sample says nothing."""
_SCORE_DIGITS = 4
_BOX_DIGITS = 1
_LONGEST_SIDE = 320
_TINY = 72
_QUALITY = 72
Columns = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBudget:
    """How much may be embedded: characters of all data URIs together, and pixels to decode; None for any number."""

    size: int
    pixels: int | None = None


BY_COMMAND = ImageBudget(size=24 * MEGABYTE)
AT_THE_END_OF_A_RUN = ImageBudget(size=4 * MEGABYTE, pixels=100 * MEGABYTE)
"""Seconds at most; `medbench report` embeds more."""


@dataclass(slots=True)
class Shelves:
    """Where the texts and images of all tasks go, each once; which images are embedded is decided by `embed`."""

    _texts: dict[str, int] = field(default_factory=dict)
    _images: dict[tuple[Path, ImageRef], int] = field(default_factory=dict)
    _wanted: dict[str, list[int]] = field(default_factory=dict)

    @property
    def texts(self) -> list[str]:
        """The texts in the order in which they came."""
        return list(self._texts)

    @property
    def image_names(self) -> list[str]:
        """What the images are called in their datasets."""
        refs = [ref for _, ref in self._images]
        return [f"{ref.path}: {ref.member}[{ref.index}]" if ref.member else ref.path for ref in refs]

    def text(self, text: str | None) -> int:
        """Return the number of a text, -1 for None or an empty one."""
        return self._texts.setdefault(text, len(self._texts)) if text else -1

    def image(self, task: str, source: Path, ref: ImageRef) -> int:
        """Return the number of an image of a task's sample."""
        number = self._images.setdefault((source, ref), len(self._images))
        self._wanted.setdefault(task, []).append(number)
        return number

    def embed(self, budget: ImageBudget) -> tuple[list[str], dict[int, tuple[int, int, int]], list[int]]:
        """Return small copies of as many as fit, the first of every task before the second of any.

        These are data URIs, each once; by image the place of its URI and its own width and height in pixels; and the
        images that could not be read.
        """
        keys = list(self._images)
        uris: dict[str, int] = {}
        shown: dict[int, tuple[int, int, int]] = {}
        broken: list[int] = []
        size = pixels = 0
        turns = zip_longest(*self._wanted.values())
        for number in dict.fromkeys(number for turn in turns for number in turn if number is not None):
            try:
                width, height = size_of_image(*keys[number])
                pixels += width * height
                if budget.pixels is not None and pixels > budget.pixels:
                    break
                uri = thumbnail(open_image(*keys[number]))
            except SampleError:
                broken.append(number)
                continue
            size += 0 if uri in uris else len(uri)
            if size > budget.size:
                break
            shown[number] = (uris.setdefault(uri, len(uris)), width, height)
        return list(uris), shown, broken


def thumbnail(image: Image.Image) -> str:
    """Return an RGB image, at most 320 pixels long, as a data URI: tiny ones as PNG, others as JPEG."""
    small = image.copy()
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    stream = io.BytesIO()
    tiny = max(small.size) <= _TINY
    small.save(stream, "PNG" if tiny else "JPEG", optimize=True, **({} if tiny else {"quality": _QUALITY}))
    return f"data:image/{'png' if tiny else 'jpeg'};base64,{base64.b64encode(stream.getvalue()).decode()}"


def sample_columns(task: str, runs: Sequence[RunSource], source: TaskSource, shelves: Shelves) -> Columns:
    """Return the columns of a task's samples, in the order of the first run's.

    Texts and images are numbers, states numbers into `STATES`; -1 stands for nothing. Of a task that is withheld only
    ids, states and scores remain.
    """
    by_run = [run.tables[task].by_id if task in run.tables else None for run in runs]
    ids = list(dict.fromkeys(sample_id for records in by_run for sample_id in records or ()))
    answers = [
        None if records is None else _answers(ids, records, run.generations.get(task, {}), source, shelves)
        for run, records in zip(runs, by_run, strict=True)
    ]
    columns: Columns = {"ids": ids, "answers": answers}
    if source.withheld:
        return columns
    anywhere = [next(records[sample_id] for records in by_run if records and sample_id in records) for sample_id in ids]
    return columns | {"labels": _labels(anywhere)} | _asked(task, ids, source, shelves)


def _answers(
    ids: Sequence[str], records: Mapping[str, ScoreRecord], generations: Mapping[str, JsonObject], source: TaskSource,
    shelves: Shelves,
) -> Columns:  # fmt: skip
    found = [records.get(sample_id) for sample_id in ids]
    columns: Columns = {"state": [STATES.index(record.state) if record else -1 for record in found]}
    columns |= {protocol: _scores(found, protocol) for protocol in PROTOCOLS}
    if source.withheld:
        return columns
    lines = [generations.get(sample_id, {}) for sample_id in ids]
    raw = [str(line.get("text", "")) for line in lines]
    tokens = [line.get("output_tokens") for line in lines]
    failed = [str(line.get("error", "")) or (one.error if one else "") for line, one in zip(lines, found, strict=True)]
    # Why a sample failed is told without the way to the data on the machine that ran it.
    folder = None if source.folder is None else f"{source.folder}/"
    return columns | {
        "text": [shelves.text(record.prediction if record else None) for record in found],
        "raw": [
            shelves.text(text if record and text.strip() != record.prediction.strip() else None)
            for record, text in zip(found, raw, strict=True)
        ],
        "error": [shelves.text(error if folder is None else error.replace(folder, "")) for error in failed],
        "stop": [shelves.text(str(line.get("stop", ""))) for line in lines],
        "tokens": [count if isinstance(count, int) else 0 for count in tokens],
        "box": _boxes(record.box if record else None for record in found),
    }


def _scores(records: Sequence[ScoreRecord | None], protocol: Protocol) -> dict[str, list[float | None]]:
    rows = [record.scores(protocol) if record else {} for record in records]
    metrics = dict.fromkeys(metric for row in rows for metric in row if metric not in _CORPUS_METRICS)
    return {
        metric: [None if (one := row.get(metric)) is None else _rounded(one.value, _SCORE_DIGITS) for row in rows]
        for metric in metrics
    }


def _rounded(value: float | None, digits: int) -> float | None:
    if value is None:
        return None
    rounded = round(value, digits)
    return int(rounded) if rounded == int(rounded) else rounded


def _boxes(boxes: Iterable[Sequence[float] | None]) -> list[list[float | None] | int]:
    """Return the boxes, 0 where there is none; an empty list if there are none at all."""
    column = [0 if box is None else [_rounded(edge, _BOX_DIGITS) for edge in box] for box in boxes]
    return column if any(column) else []


def _labels(records: Sequence[ScoreRecord]) -> list[Columns]:
    columns = []
    for key in dict.fromkeys(key for record in records for key in record.labels):
        values = sorted({record.labels[key] for record in records if key in record.labels})
        places = {value: place for place, value in enumerate(values)}
        of = [places[record.labels[key]] if key in record.labels else -1 for record in records]
        columns.append({"key": key, "values": values, "of": of})
    return columns


def _asked(task: str, ids: Sequence[str], source: TaskSource, shelves: Shelves) -> Columns:
    folder, text = source.folder, shelves.text
    if folder is None:
        return {}
    samples = [source.samples.get(sample_id) for sample_id in ids]
    return {
        "prompt": [text(_prompt(sample, source.spec)) for sample in samples],
        "reference": [text(sample.reference if sample else None) for sample in samples],
        "choices": [text(_choices(sample.choices) if sample else None) for sample in samples],
        "images": [[shelves.image(task, folder, ref) for ref in sample.images] if sample else [] for sample in samples],
        "rightBox": _boxes(sample.box if sample else None for sample in samples),
        "size": [list(sample.image_size) if sample and sample.image_size else 0 for sample in samples],
    }


def _prompt(sample: Sample | None, spec: TaskSpec | None) -> str | None:
    if sample is None or spec is None:
        return None
    box = f"[{', '.join(f'{edge:g}' for edge in sample.box)}]" if sample.box else ""
    try:
        return spec.instruction(sample, box=box)
    except DataError:
        return None


def _choices(choices: Mapping[str, str]) -> str:
    return "\n".join(key if key == text else f"{key}. {text}" for key, text in choices.items())


def metrics_shown(columns: Columns, protocol: Protocol) -> list[str]:
    """Return the metrics that samples have a score of under a protocol, in order."""
    answered = [answers for answers in columns["answers"] if answers]
    return list(dict.fromkeys(metric for answers in answered for metric in answers[protocol]))
