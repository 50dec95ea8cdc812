"""Boxes without area: what the wrong coordinate space looks like is said, with the argument that declares it."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from click.testing import CliRunner

from medbench.adapters.catalog import choose_model
from medbench.harness.commands import score_command
from medbench.harness.doubts import doubts_of, doubts_of_run
from medbench.harness.workload import TaskLoad
from medbench.tasks.answers.box_space import BOX_SPACES, degenerate_share, doubt_about_boxes
from medbench.tasks.catalog import get_task
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import Item, State
from medbench.tasks.sample import Box, Sample

SIZE = (640, 480)


@pytest.mark.parametrize(
    ("box", "degenerate"),
    [
        (Box(0, 0, 0, 0), True),
        (Box(10, 10, 5, 20), True),
        (Box(700, 10, 900, 20), True),
        (Box(0.1, 0.1, 0.5, 0.4), True),
        (Box(10, 10, 100, 11), False),
        (Box(64, 96, 320, 240), False),
        (Box(-10, -10, 2000, 2000), False),
    ],
)
def test_a_box_that_covers_nothing_of_its_image(box: Box, degenerate: bool) -> None:
    assert degenerate_share([(box, SIZE)]) == float(degenerate)


@pytest.mark.parametrize(
    ("written", "read"),
    [("fraction", "permille"), ("fraction", "percent"), ("fraction", "pixels"), ("fraction", "loc1024")],
)
def test_boxes_written_in_another_space_are_doubted(written: str, read: str) -> None:
    right = [Box(220 + 9 * step, 160 + 5 * step, 420 + 9 * step, 300 + 5 * step) for step in range(20)]
    texts = [BOX_SPACES[written].write(box, (640, 480)) for box in right]
    found = [(box, (640, 480)) for text in texts if (box := BOX_SPACES[read].read(text, (640, 480)))]
    doubt = doubt_about_boxes("slake-rec", found, space=read, declared_by="--boxes")
    assert f"read as {read}" in doubt
    assert "--boxes" in doubt


def test_few_boxes_without_area_are_no_reason_for_doubt() -> None:
    boxes = [(Box(0, 0, 0, 0), SIZE), (Box(0, 0, 100, 100), SIZE)]
    assert doubt_about_boxes("slake-rec", boxes, space="permille", declared_by="--boxes") == ""
    assert doubt_about_boxes("slake-rec", [], space="permille", declared_by="--boxes") == ""


@pytest.mark.parametrize(("space", "doubted"), [("permille", True), ("fraction", False)])
def test_the_score_command_names_the_argument(tmp_path: Path, space: str, doubted: bool) -> None:
    line = {"prediction": "[0.1, 0.2, 0.5, 0.6]", "reference": "liver", "box": [64, 96, 320, 288], "image_size": SIZE}
    file = tmp_path / "answers.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for _ in range(5)), encoding="utf-8")
    done = CliRunner().invoke(
        score_command, ["--task", "slake-rec", "--predictions", str(file), "--boxes", space], standalone_mode=False
    )
    assert done.exception is None
    assert ("5 of 5 boxes have no area" in done.stderr) == doubted


@pytest.mark.parametrize(
    ("model", "declared_by"), [("hf:x/y", "--model-arg boxes=NAME"), ("uni-med", "adapter uni-med")]
)
def test_a_run_is_told_what_declares_the_space(model: str, declared_by: str) -> None:
    spec = get_task("slake-rec")
    sample = Sample(sample_id="1", task=spec.name, split="test", reference="liver", image_size=SIZE)
    item = Item(state="ok", scorable=Scorable(prediction="x", reference="", predicted_box=Box(0, 0, 0, 0)))
    load = cast("TaskLoad", SimpleNamespace(spec=spec, samples=[sample] * 3))
    [doubt] = doubts_of_run(load, [item] * 3, choose_model(model, {}))
    assert doubt.startswith("slake-rec: 3 of 3 boxes have no area")
    assert declared_by in doubt


def answers(*said: str, state: State = "ok", boxes: Sequence[Box | None] = ()) -> tuple[list[Sample], list[Item]]:
    places = boxes or [None] * len(said)
    samples = [Sample(sample_id=str(n), task="medqa", split="test", reference=f"right {n}") for n in range(len(said))]
    items = [
        Item(state=state, scorable=Scorable(prediction=text, reference="", predicted_box=box))
        for text, box in zip(said, places, strict=True)
    ]
    return samples, items


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (answers(*["yes"] * 12), "all 12 answers are the same"),
        (answers(*[""] * 3, state="empty"), "all 3 answers are empty"),
        (answers(*[""] * 3, state="error"), "all 3 samples failed"),
        (answers(*["yes"] * 9), ""),
        (answers(*["yes"] * 11, "no"), ""),
        (answers(*["liver"] * 12, boxes=[Box(n, 0, 64, 64) for n in range(12)]), ""),
    ],
)
def test_answers_without_a_difference_are_told_in_words(given: tuple[list[Sample], list[Item]], told: str) -> None:
    doubts = doubts_of(get_task("medqa"), *given, None, "")
    assert [told in doubt for doubt in doubts] == [True] * bool(told)


def test_one_answer_for_all_is_no_surprise_of_a_baseline_and_of_right_answers_that_are_all_one() -> None:
    samples, items = answers(*["yes"] * 12)
    load = cast("TaskLoad", SimpleNamespace(spec=get_task("medqa"), samples=samples))
    assert doubts_of_run(load, items, choose_model("blind", {})) == []
    assert len(doubts_of_run(load, items, choose_model("uni-med", {}))) == 1
    assert doubts_of(get_task("medqa"), [replace(one, reference="yes") for one in samples], items, None, "") == []
