"""Whole batches: a model's own library answers, and what cannot be answered is a state of its own."""

from dataclasses import replace
from pathlib import Path

import pytest
from engine_helpers import END, Small, answer, make_requests, texts
from whole_models import SmallWithLibrary

from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import UsageError

WHY = "its layers are its own"
WIDE = Budget(rows=8, tokens=4000)


@pytest.fixture
def requests(picture_folder: Path) -> list[Request]:
    return make_requests(picture_folder, 20, 8)


def with_library(requests: list[Request]) -> SmallWithLibrary:
    adapter = SmallWithLibrary(requests)
    adapter.only_whole = WHY
    return adapter


def test_its_answers_are_those_of_the_engine(requests: list[Request]) -> None:
    adapter, phases = with_library(requests), Phases()
    whole = answer(adapter, requests, WIDE, phases)
    assert Engine(adapter, WIDE, Phases()).why_whole == WHY
    assert whole == answer(Small(), requests, WIDE)
    assert len({outcome.generation.stop for outcome in whole.values() if outcome.generation}) > 1
    assert phases.counts["answers"] == len(requests)
    assert phases.seconds["generate"] > 0


@pytest.mark.parametrize(("budget", "most"), [(Budget(rows=3, tokens=4000), 3), (Budget(rows=8, tokens=90), 5)])
def test_a_batch_keeps_to_its_budget(requests: list[Request], budget: Budget, most: int) -> None:
    adapter = with_library(requests)
    answer(adapter, requests, budget)
    longest = {one.sample.sample_id: one.length + one.decoding.max_new_tokens for one in requests}
    sizes = [len(batch) for batch in adapter.batches]
    assert 1 < max(sizes) <= most
    assert all(
        len(batch) == 1 or len(batch) * max(longest[name] for name in batch) <= budget.tokens
        for batch in adapter.batches
    )


def test_when_memory_runs_out_fewer_are_asked_again(requests: list[Request]) -> None:
    adapter = with_library(requests)
    adapter.most = 3
    engine = Engine(adapter, WIDE, phases := Phases())
    outcomes = {one.sample_id: one for some in engine.generate(requests) for one in some}
    assert texts(outcomes) == texts(answer(Small(), requests, WIDE))
    assert engine.budget.rows <= adapter.most
    assert phases.counts["out of memory"] >= 1


def test_what_does_not_fit_alone_is_an_error(requests: list[Request]) -> None:
    adapter = with_library(requests)
    adapter.most = 0
    outcomes = answer(adapter, requests, WIDE)
    assert len(outcomes) == len(requests)
    assert all("Memory ran out on this sample alone" in outcome.error for outcome in outcomes.values())


def test_a_broken_picture_costs_one_answer(requests: list[Request], tmp_path: Path) -> None:
    [broken] = [place for place, one in enumerate(requests) if one.prompt.images()][:1]
    asked = [replace(one, source=tmp_path) if place == broken else one for place, one in enumerate(requests)]
    outcomes = answer(with_library(asked), asked, WIDE)
    errors = {key: outcome.error for key, outcome in outcomes.items() if outcome.error}
    assert list(errors) == [requests[broken].sample.sample_id]
    assert ".png" in next(iter(errors.values()))


def test_only_broken_pictures(requests: list[Request], tmp_path: Path) -> None:
    asked = [replace(one, source=tmp_path) for one in requests if one.prompt.images()]
    adapter = with_library(asked)
    assert all(outcome.error for outcome in answer(adapter, asked, WIDE).values())
    assert adapter.batches == []


@pytest.mark.parametrize(
    ("decoding", "says"),
    [
        ({"temperature": 0.7}, "greedily; leave the sampling out"),
        ({"repetition_penalty": 1.2}, "greedily"),
        ({"beams": 2}, "leave --beams out"),
    ],
)
def test_it_answers_greedily_or_not_at_all(picture_folder: Path, decoding: dict[str, float], says: str) -> None:
    requests = make_requests(picture_folder, 4, 8, **decoding)
    outcomes = answer(with_library(requests), requests, WIDE)
    assert all(says in outcome.error for outcome in outcomes.values())


def test_stop_strings_cut_an_answer(requests: list[Request]) -> None:
    plain = texts(answer(with_library(requests), requests, WIDE))
    name, text = next((key, text) for key, text in plain.items() if len(text) > 4)
    asked = [
        replace(one, decoding=replace(one.decoding, stop_strings=(text[2],)))
        for one in requests
        if one.sample.sample_id == name
    ]
    [outcome] = answer(with_library(asked), asked, WIDE).values()
    assert outcome.generation is not None
    assert outcome.generation.text == text[: text.index(text[2])]
    assert outcome.generation.stop == "stop"


def test_a_model_without_a_library_cannot_be_answered_whole() -> None:
    adapter = Small()
    adapter.only_whole = WHY
    with pytest.raises(UsageError, match=f"Small cannot be driven: {WHY}"):
        Engine(adapter, WIDE, Phases())
    assert END in adapter.end_ids
