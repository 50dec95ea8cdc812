"""Any vision-language model: the engine writes what the model's own `generate` writes to its own processor's inputs."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
from engine_helpers import answer, texts
from PIL import Image
from tiny_vlms import FAMILIES

from adapters.base import LoadOptions
from adapters.hf.entry import ENTRY, load
from harness.engine.alone import generate_alone
from harness.engine.budget import Budget
from harness.engine.engine import Engine
from harness.engine.request import make_request
from harness.phases import Phases
from tasks.catalog import get_task
from tasks.sample import ImageRef, Sample

SIZES = ((60, 60), (90, 60), (60, 130), (200, 150))


def write_pictures(folder: Path) -> None:
    draw = random.Random(1)
    for place, (width, height) in enumerate(SIZES):
        Image.frombytes("RGB", (width, height), draw.randbytes(3 * width * height)).save(folder / f"{place}.png")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_engine_writes_what_the_library_writes(family: str, tmp_path: Path) -> None:
    write_pictures(tmp_path)
    folder = FAMILIES[family](tmp_path / "model")
    adapter = load(LoadOptions(variant=str(folder), device="cpu", arguments=ENTRY.settled("", {})))
    spec = get_task("slake-vqa")
    requests = []
    for place in range(12):
        images = 1 if family == "paligemma" else (1, 1, 2, 0)[place % 4]
        sample = Sample(
            sample_id=f"s{place}", task=spec.name, split="test", reference="",
            images=tuple(ImageRef(path=f"{(place + step) % 4}.png") for step in range(images)),
            inputs={"question": f"what is {'x' * (place % 7)}?"},
        )  # fmt: skip
        request = make_request(adapter, sample, spec, tmp_path)
        requests.append(replace(request, decoding=replace(request.decoding, max_new_tokens=6 + place)))
    alone = {request.sample.sample_id: generate_alone(adapter, request).text for request in requests}
    assert len(set(alone.values())) > 8
    budget = Budget(rows=4, tokens=8000, prefill=200)
    phases = Phases()
    assert Engine(adapter, budget, phases).why_whole == ""
    assert texts(answer(adapter, requests, budget, phases)) == alone
    assert phases.counts["images encoded"] == len(SIZES)
    assert texts(answer(adapter, requests, budget, whole="it was asked for")) == alone
