"""The self-test before a run: what it finds, and what follows from it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from engine_helpers import Small, make_requests
from whole_models import Mistaken, MistakenWithLibrary, SmallWithLibrary

from medbench.adapters.base import LocalAdapter
from medbench.harness import local
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Outcome, Request
from medbench.harness.learned import Learned
from medbench.harness.local import Driver, SelfTest, self_test
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.tasks.foundation.errors import RunError, UsageError

BUDGET = Budget(rows=4, tokens=4000)


@pytest.fixture
def requests(picture_folder: Path) -> list[Request]:
    return make_requests(picture_folder, 12, 3)


def test_a_sound_model_passes(requests: list[Request]) -> None:
    tested = self_test(Small(), requests, BUDGET)
    assert tested == SelfTest(equal=2, total=2)
    assert tested.as_json() == {"equal": 2, "of": 2}


def test_a_model_that_the_engine_drives_wrongly_is_left_to_its_library(requests: list[Request]) -> None:
    tested = self_test(MistakenWithLibrary(requests), requests, BUDGET)
    assert tested.equal < tested.total == 2
    assert "wrote other tokens than in its own library" in tested.whole
    assert not tested.one_by_one


def test_without_a_library_the_run_ends(requests: list[Request]) -> None:
    with pytest.raises(RunError, match="no number of it could be trusted") as raised:
        self_test(Mistaken(), requests, BUDGET)
    assert "medbench doctor engine" in str(raised.value)


def test_a_library_that_mixes_its_batches_is_asked_one_by_one(requests: list[Request]) -> None:
    adapter = SmallWithLibrary(requests)
    adapter.affected_by_others = True
    assert self_test(adapter, requests, BUDGET) == SelfTest(equal=2, total=2)
    adapter.only_whole = "its layers are its own"
    tested = self_test(adapter, requests, BUDGET)
    assert (tested.whole, tested.one_by_one) == ("its layers are its own", True)
    assert tested.equal < 2


def test_in_16_bits_a_difference_has_no_consequence(requests: list[Request]) -> None:
    adapter = Mistaken()
    adapter.dtype = "bfloat16"
    tested = self_test(adapter, requests, BUDGET)
    assert tested.equal < tested.total == 2
    assert tested.whole == ""


def test_broken_pictures_and_long_prompts_are_left_to_the_run(requests: list[Request], tmp_path: Path) -> None:
    lost = [replace(request, source=tmp_path) for request in requests]
    without_pictures = self_test(Small(), lost, BUDGET)
    assert (without_pictures.total, "is missing" in without_pictures.skipped) == (0, True)
    assert without_pictures.as_json()["skipped"] == without_pictures.skipped
    assert self_test(Small(max_position_embeddings=8), requests, BUDGET).skipped
    assert self_test(Small(), [], BUDGET) == SelfTest()


@pytest.mark.parametrize("end", [0, -1])
def test_a_broken_picture_does_not_take_the_test_away(
    requests: list[Request], tmp_path: Path, end: int, capsys: pytest.CaptureFixture[str]
) -> None:
    seeing = sorted((one for one in requests if one.prompt.images()), key=lambda one: one.length)
    broken = [replace(one, source=tmp_path) if one is seeing[end] else one for one in requests]
    assert self_test(Small(), broken, BUDGET) == SelfTest(equal=2, total=2)
    driven(Small(), broken)
    assert "Self-test: 2 of 2 answers" in " ".join(capsys.readouterr().err.split())


def test_a_test_that_cannot_be_done_is_said(
    requests: list[Request], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    driven(Small(), [replace(one, source=tmp_path) for one in requests if one.prompt.images()])
    assert "Self-test not done" in capsys.readouterr().err


def test_the_shortest_and_the_longest_with_pictures_are_asked(requests: list[Request]) -> None:
    adapter = SmallWithLibrary(requests)
    self_test(adapter, requests, BUDGET)
    seeing = sorted((one.length, one.sample.sample_id) for one in requests if one.prompt.images())
    assert [[name] for _, name in (seeing[0], seeing[-1])] == adapter.batches


def test_sampling_and_long_answers_are_no_part_of_it(requests: list[Request]) -> None:
    hot = [replace(one, decoding=replace(one.decoding, temperature=2.0, max_new_tokens=300)) for one in requests]
    assert self_test(Small(), hot, BUDGET) == SelfTest(equal=2, total=2)


def driven(adapter: LocalAdapter, requests: list[Request], **more: float) -> tuple[dict[str, Outcome], Phases]:
    phases = Phases()
    settings = replace(Settings(model="small", batch_size=4), **cast("Any", more))
    outcomes = [one for some in Driver(adapter, phases, settings, Learned()).answer(iter(requests)) for one in some]
    return {one.sample_id: one for one in outcomes}, phases


def test_a_run_says_why_its_library_answers(requests: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    adapter = MistakenWithLibrary(requests)
    outcomes, phases = driven(adapter, requests)
    said = " ".join(capsys.readouterr().err.split())
    assert "of 2 answers are those of one-by-one generation in float32" in said
    assert "The model's own library answers, batch by batch: in the engine it wrote other tokens" in said
    assert str(phases.notes["batching"]).startswith("whole: in the engine it wrote other tokens")
    sound = driven(SmallWithLibrary(requests), requests)[0]
    assert {key: one.generation for key, one in outcomes.items()} == {key: one.generation for key, one in sound.items()}
    assert max(map(len, adapter.batches)) > 1


def test_one_by_one_is_said_and_done(requests: list[Request], capsys: pytest.CaptureFixture[str]) -> None:
    adapter = SmallWithLibrary(requests)
    adapter.only_whole, adapter.affected_by_others = "its layers are its own", True
    outcomes, _ = driven(adapter, requests)
    tested, asked = adapter.batches[:3], adapter.batches[3:]
    assert [len(batch) for batch in tested] == [1, 1, 2]
    # Then the test's second try, as whole batches, and the run itself.
    assert [len(batch) for batch in asked if len(batch) > 1] == [2]
    assert len(outcomes) == len(requests)
    assert "every sample is asked alone" in " ".join(capsys.readouterr().err.split())


def test_a_run_without_a_test_says_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def nothing(_: Engine, __: object) -> Iterator[list[Outcome]]:
        yield []

    monkeypatch.setattr(Engine, "generate", nothing)
    monkeypatch.setattr(local, "self_test", lambda *_: SelfTest())
    driven(Small(), [])
    assert "Self-test" not in capsys.readouterr().err


def test_a_library_whose_batches_do_not_fit_is_still_tested(requests: list[Request]) -> None:
    adapter = MistakenWithLibrary(requests)
    adapter.most = 1
    tested = self_test(adapter, requests, BUDGET)
    assert tested.equal < tested.total
    assert "wrote other tokens" in tested.whole
    assert not tested.one_by_one


@pytest.mark.parametrize("more", [{"temperature": 0.5}, {"repetition_penalty": 1.1}, {"beams": 2}])
def test_a_model_that_is_left_whole_does_not_sample(requests: list[Request], more: dict[str, float]) -> None:
    adapter = SmallWithLibrary(requests)
    adapter.only_whole = "its layers are its own"
    with pytest.raises(UsageError, match="takes the likeliest token") as raised:
        driven(adapter, requests, **more)
    assert "Leave out --temperature" in str(raised.value)
