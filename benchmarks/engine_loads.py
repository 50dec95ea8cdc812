"""Requests shaped like the real test sets: questions per image, lengths of prompts and of answers."""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.engine_model import VOCABULARY
from medbench.adapters.base import ImageSlot, Prompt, TextSegment
from medbench.harness.engine.requests import Decoding, Request
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample

Lengths = Callable[[random.Random], int]
PICTURE_SIDE = 320
IMAGE_TOKENS = 64
OFFICIAL_CAP = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One workload.

    Attributes:
        name: In the table.
        task: Whose kind it has.
        questions: How many.
        images: How many pictures they are about; 0 for none.
        template: Tokens before the question that all prompts share, the image apart.
        question: Tokens of a question.
        answer: Tokens of an answer, which no engine knows.
        every: One by one is timed on every so manyth request.
    """

    name: str
    task: str
    questions: int
    images: int
    template: int
    question: Lengths
    answer: Lengths
    every: int = 1


def short(draw: random.Random) -> int:
    """Return 2 to 8, 2.9 on average."""
    return draw.choices(range(2, 9), weights=(52, 28, 10, 4, 3, 2, 1))[0]


LOADS = (
    Load(name="slake", task="slake-vqa", questions=121, images=11, template=24, question=lambda d: d.randint(6, 20),
         answer=short, every=6),
    Load(name="path", task="path-vqa", questions=120, images=16, template=24, question=lambda d: d.randint(6, 20),
         answer=short, every=6),
    Load(name="rec", task="sa-med2d-rec", questions=96, images=24, template=14, question=lambda d: d.randint(4, 9),
         answer=lambda d: d.randint(14, 17), every=6),
    Load(name="report", task="mimic-cxr", questions=128, images=128, template=14, question=lambda _: 1,
         answer=lambda d: d.randint(30, 120), every=10),
    Load(name="cls", task="dermamnist", questions=96, images=96, template=40, question=lambda _: 1,
         answer=lambda d: d.randint(3, 6), every=6),
    Load(name="medqa", task="medqa", questions=80, images=0, template=12, question=lambda d: d.randint(60, 410),
         answer=lambda d: d.randint(4, 12), every=5),
)  # fmt: skip
# Questions and images of each load, as in a sweep over all tasks.
SHARES_OF_MIXED = {"slake": (80, 7), "report": (20, 20), "rec": (20, 5), "cls": (20, 20), "medqa": (10, 0)}


def make_requests(load: Load, folder: Path, seed: int = 0) -> list[Request]:
    """Return the requests of a load, questions of one image not together; its pictures are written to `folder`."""
    draw = random.Random(f"{load.name}/{seed}")
    spec = get_task(load.task)
    template = _ids(random.Random(load.name), load.template)
    pictures = [_picture(folder, f"{load.name}-{number}") for number in range(load.images)]
    requests = []
    for number in range(load.questions):
        question = _ids(draw, load.question(draw))
        images = (pictures[number % len(pictures)],) if pictures else ()
        slots = tuple(ImageSlot(image=image, tokens=IMAGE_TOKENS) for image in images)
        prompt = Prompt(segments=(TextSegment(ids=template[:5]), *slots, TextSegment(ids=template[5:] + question)))
        sample = Sample(
            sample_id=f"{load.name}-{number:04d}", task=spec.name, split="test", images=images, reference=""
        )
        decoding = Decoding(max_new_tokens=load.answer(draw))
        requests.append(
            Request(sample=sample, spec=spec, source=folder, prompt=prompt, length=prompt.length, decoding=decoding)
        )
    return requests


def mixed(folder: Path) -> list[Request]:
    """Return the mixed sweep: some of every load, dataset after dataset."""
    loads = {load.name: load for load in LOADS}
    loads["report"] = replace(loads["report"], answer=lambda draw: min(OFFICIAL_CAP, draw.randint(30, 120)))
    return [
        request
        for name, (questions, images) in SHARES_OF_MIXED.items()
        for request in make_requests(replace(loads[name], questions=questions, images=images), folder)
    ]


def _ids(draw: random.Random, number: int) -> tuple[int, ...]:
    return tuple(draw.randrange(3, VOCABULARY) for _ in range(number))


def _picture(folder: Path, name: str) -> ImageRef:
    path = folder / f"{name}.png"
    if not path.exists():
        noise = np.random.default_rng(zlib.crc32(name.encode())).integers(0, 255, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((PICTURE_SIDE, PICTURE_SIDE)).save(path)
    return ImageRef(path=path.name)
