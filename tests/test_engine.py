"""The generation engine on a tiny random decoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image

from medbench.adapters.base import Generation, ImageSlot, LoadOptions, LocalAdapter, Prompt, TextSegment
from medbench.adapters.mock import RandomMock
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Decoding, Outcome, Request, make_request
from medbench.harness.phases import Phases
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import ImageRef, Sample

SPEC = get_task("slake-vqa")


@pytest.fixture(scope="module")
def adapter() -> RandomMock:
    return RandomMock(LoadOptions(seed=3))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 255 - 50 * number, 20)).save(folder / f"{number}.png")
    return folder


def request(adapter: LocalAdapter, source: Path, number: int, *, picture: str | None = None) -> Request:
    sample = Sample(
        sample_id=f"q{number:02d}",
        task=SPEC.name,
        split="test",
        images=(ImageRef(path=picture or f"{number % 4}.png"),),
        inputs={"question": f"What is {'very ' * (number % 5)}odd about picture {number}?"},
        reference="nothing",
    )
    return make_request(adapter, sample, SPEC, source)


def answers(
    adapter: LocalAdapter, requests: Sequence[Request], rows: int, phases: Phases | None = None
) -> list[Outcome]:
    engine = Engine(adapter, Budget(rows=rows, tokens=100_000), phases or Phases())
    return [outcome for batch in engine.generate(requests) for outcome in batch]


def by_id(outcomes: Sequence[Outcome]) -> dict[str, Generation | None]:
    return {outcome.sample_id: outcome.generation for outcome in outcomes}


def test_answers_do_not_depend_on_neighbours_or_order(adapter: RandomMock, source: Path) -> None:
    requests = [request(adapter, source, number) for number in range(12)]
    alone = by_id([outcome for one in requests for outcome in answers(adapter, [one], 1)])
    assert len({generation.text for generation in alone.values() if generation}) > 6
    assert by_id(answers(adapter, requests, 12)) == alone
    assert by_id(answers(adapter, requests[::-1], 5)) == alone


def test_the_engine_writes_what_generate_writes(adapter: RandomMock, source: Path) -> None:
    one = request(adapter, source, 1)
    [outcome] = answers(adapter, [one], 1)
    visual = adapter.project(adapter.encode_images([adapter.pixels(Image.open(source / "1.png"))]), "vqa")[0]
    text = next(segment for segment in one.prompt.segments if isinstance(segment, TextSegment))
    embeddings = torch.cat([visual, adapter.embed_tokens(torch.tensor(text.ids))])[None]
    mask = torch.ones(embeddings.shape[:2], dtype=torch.long)
    written = (
        cast("Any", adapter.decoder)
        .generate(inputs_embeds=embeddings, attention_mask=mask, max_new_tokens=SPEC.max_new_tokens, do_sample=False)[0]
        .tolist()
    )
    assert outcome.generation is not None
    assert outcome.generation.text == adapter.detokenise(written)


def test_each_image_is_encoded_once(adapter: RandomMock, source: Path) -> None:
    phases = Phases()
    answers(adapter, [request(adapter, source, number) for number in range(12)], 3, phases)
    assert phases.counts["images encoded"] == 4


def test_a_broken_image_and_a_prompt_that_is_too_long_cost_only_themselves(adapter: RandomMock, source: Path) -> None:
    (source / "broken.png").write_bytes(b"\x89PNG not a picture")
    sound, broken = request(adapter, source, 0), request(adapter, source, 1, picture="broken.png")
    endless = Request(
        sample=Sample(sample_id="endless", task=SPEC.name, split="test", reference=""),
        spec=SPEC,
        source=source,
        prompt=Prompt(segments=(TextSegment(ids=(1,) * 3000),)),
        length=3000,
        decoding=Decoding(max_new_tokens=100),
    )
    found = {outcome.sample_id: outcome for outcome in answers(adapter, [sound, broken, endless], 8)}
    assert found["q00"].generation is not None
    assert "broken.png" in found["q01"].error
    assert "3000 tokens" in found["endless"].error


def test_a_prompt_counts_its_images() -> None:
    image = ImageRef(path="a")
    tiles = (ImageSlot(image=image, tokens=4), TextSegment(ids=(1, 2)), ImageSlot(image=image, tokens=5, first=4))
    prompt = Prompt(segments=(*tiles, TextSegment(ids=(3,))))
    assert (prompt.images(), prompt.length) == ((image,), 12)
