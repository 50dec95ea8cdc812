"""What the harness offers to Python: a model that is a function, settings, silence, and scores of predictions."""

import functools
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from medbench.adapters.base import Adapter, DirectAdapter, Generation, LoadOptions
from medbench.adapters.function import card_of, hash_of_source, name_of
from medbench.adapters.mock import RandomMock
from medbench.harness.commands import _FORMATS
from medbench.harness.finish import RunOutcome
from medbench.harness.predictions.formats import FORMATS
from medbench.harness.predictions.scoring import score
from medbench.harness.run import run
from medbench.harness.score import rescore
from medbench.harness.settings import Settings
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.foundation.console import Logged, Silent
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


def oracle(sample: Sample, spec: TaskSpec) -> str:
    if spec.kind == "rec" and sample.box is not None and sample.image_size is not None:
        return BOX_SPACES["pixels"].write(sample.box, sample.image_size)
    return sample.reference


@pytest.fixture
def quickly(small_data: Path, tmp_path: Path) -> Callable[..., RunOutcome]:
    def quick(model: Adapter | Callable[..., str], *tasks: str, **more: Any) -> RunOutcome:
        name, limit = more.pop("name", "") or name_of(model), more.pop("limit", None)
        settings = Settings(
            model=name, tasks=tasks or ("slake-vqa",), limit=limit, data_dir=small_data, output_dir=tmp_path / "runs"
        )
        return run(settings, lambda path: (path / "leaderboard.md").touch(), adapter=model, **more)

    return quick


def test_settings_take_plain_texts() -> None:
    given: dict[str, Any] = {"model": "blind", "tasks": "pubmedqa,cls", "output_dir": "runs", "data_dir": "data"}
    settings = Settings(**given)
    assert (settings.tasks, settings.output_dir, settings.data_dir) == (("pubmedqa,cls",), Path("runs"), Path("data"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"limit": 0}, "limit"), ({"limti": 1}, "limti"), ({"tasks": 3}, "tasks"), ({"dtype": "float8"}, "dtype"),
        ({"probe": "none"}, "probe"), ({"top_k": 5}, "--temperature"), ({"beams": 2, "temperature": 1}, "beam search"),
        ({"max_new_tokens": {"all": 3}, "model_args": {"max_tokens": "3"}}, "max_tokens"),
    ],
)  # fmt: skip
def test_what_settings_may_not_be_is_said_where_they_are_made(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError) as caught:
        Settings(model="blind", **given)
    assert told in str(caught.value)


def test_a_function_is_a_model_on_every_kind_of_task(quickly: Callable[..., RunOutcome]) -> None:
    outcome = quickly(oracle, "slake-vqa", "slake-rec", "slake-reg", "pubmedqa", "dermamnist")
    assert outcome.results.model.title == "oracle"
    values = {name: task.strict for name, task in outcome.results.tasks.items()}
    assert values["slake-rec"]["iou"].value == pytest.approx(1, abs=0.05)
    for name, metric in (
        ("slake-vqa", "f1"),
        ("slake-reg", "f1"),
        ("pubmedqa", "accuracy"),
        ("dermamnist", "accuracy"),
    ):
        assert values[name][metric].value == 1


def test_a_function_is_given_what_it_names(quickly: Callable[..., RunOutcome]) -> None:
    seen: list[tuple[Any, ...]] = []

    def by_name(images: list[Image.Image], prompt: str) -> str:
        seen.append((prompt, images))
        return "yes"

    def by_place(question: str, pictures: list[Image.Image]) -> str:
        seen.append((question, pictures))
        return "yes"

    def all_of_it(spec: TaskSpec, sample: Sample, *, tone: str = "calm") -> str:
        assert (sample.task, tone) == (spec.name, "calm")
        return "yes"

    for function in (by_name, by_place, all_of_it):
        assert quickly(function, limit=2).results.tasks["slake-vqa"].states["error"] == 0
    assert len(seen) == 2
    assert all(isinstance(prompt, str) and prompt and images[0].mode == "RGB" for prompt, images in seen)
    with pytest.raises(UsageError, match="takes a, b, c"):
        quickly(lambda a, b, c: f"{a}{b}{c}")
    with pytest.raises(UsageError, match="is no model"):
        quickly(3, name="x")


def test_a_function_that_fails_or_returns_no_text_costs_a_sample(quickly: Callable[..., RunOutcome]) -> None:
    def fails(sample: Sample) -> str:
        return None if sample.reference == "Yes" else 1 / 0  # type: ignore[return-value]

    outcome = quickly(fails)
    states = outcome.results.tasks["slake-vqa"].states
    assert states["error"] == sum(states.values())
    records = (outcome.path / "generations" / "slake-vqa.jsonl").read_text()
    assert "division by zero" in records


def made(word: str) -> Callable[[Sample], str]:
    def answer(sample: Sample) -> str:
        del sample
        return word

    return answer


@pytest.mark.slow
def test_another_function_is_another_run_and_the_same_one_is_complete(quickly: Callable[..., RunOutcome]) -> None:
    first = quickly(made("yes"))
    assert quickly(made("yes")).phases is None
    assert quickly(made("yes"), overwrite="always").phases is not None
    others = [
        quickly(made("no")),
        quickly(oracle, name="answer"),
        quickly(functools.partial(lambda x, sample: f"{x}{sample.task}", "y")),
    ]
    assert len({first.path, *(other.path for other in others)}) == 4


def test_what_a_function_is_made_of() -> None:
    class Answerer:
        def __call__(self, sample: Sample) -> str:
            return sample.reference

    assert hash_of_source(made("a")) == hash_of_source(made("a")) != hash_of_source(made("b"))
    assert hash_of_source(Answerer())
    assert hash_of_source(functools.partial(made, "a")) != hash_of_source(functools.partial(made, "b"))
    assert (name_of(made("a")), name_of(Answerer()), name_of(functools.partial(oracle))) == (
        "answer", "Answerer", "oracle",
    )  # fmt: skip
    compiled: dict[str, Any] = {}
    source = "def f(sample): return 'x'\ndef g(sample): return 'y'"
    exec(source, compiled)  # noqa: S102 - as a notebook would
    assert hash_of_source(compiled["f"]) != hash_of_source(compiled["g"])


class Constant(DirectAdapter):
    card = card_of("constant")
    weights_fingerprint = "none"

    def answer(self, sample: Sample, spec: TaskSpec) -> Generation:
        del sample, spec
        return Generation(text="{<10><10><50><50>}")


def test_an_adapter_that_is_loaded_runs_and_its_boxes_are_read_as_declared(
    quickly: Callable[..., RunOutcome],
) -> None:
    outcome = quickly(Constant(), "slake-rec", boxes="uni-med")
    in_pixels = quickly(Constant(), "slake-rec")
    boxes = {
        path: json.loads((path / "scores/slake-rec.jsonl").read_text().splitlines()[0])["box"]
        for path in (outcome.path, in_pixels.path)
    }
    assert boxes[in_pixels.path] == [10, 10, 50, 50] != boxes[outcome.path]
    with pytest.raises(UsageError, match="boxes=nowhere"):
        quickly(Constant(), "slake-rec", boxes="nowhere")
    local = quickly(RandomMock(LoadOptions(seed=1)), limit=2)
    assert local.results.model.title == "Mock"


def test_a_run_of_a_function_is_scored_again_without_it(quickly: Callable[..., RunOutcome]) -> None:
    outcome = quickly(oracle, "slake-vqa", "slake-rec")
    before = (outcome.path / "results.json").read_bytes()
    assert rescore(outcome.path) == outcome.results
    assert (outcome.path / "results.json").read_bytes() == before
    adapter = quickly(Constant(), "slake-rec", boxes="uni-med")
    assert rescore(adapter.path) == adapter.results


def test_without_a_word_the_pages_are_written(small_data: Path, tmp_path: Path) -> None:
    outcome = run(Settings(model="blind", tasks=("dermamnist",), data_dir=small_data, output_dir=tmp_path))
    assert {"leaderboard.md", "report.html", "done"} <= {path.name for path in outcome.path.iterdir()}


def test_a_run_may_be_silent_or_logged(
    quickly: Callable[..., RunOutcome], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    quickly(oracle, listener=Silent())
    assert capfd.readouterr() == ("", "")
    with caplog.at_level(logging.INFO, logger="medbench"):
        quickly(oracle, listener=Logged())
    assert "is complete; nothing to do" in caplog.text
    assert capfd.readouterr() == ("", "")
    quickly(oracle)
    assert "is complete; nothing to do" in capfd.readouterr().err


def test_objects_are_scored_like_lines_of_a_file(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"prediction": "Yes, it is.", "reference": "Yes", "answer_type": "CLOSED", "group": "a"},
        {"prediction": None, "reference": "liver", "answer_type": "OPEN", "group": "b"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    of_rows, of_file = score("slake-vqa", rows), score("slake-vqa", str(tmp_path / "p.jsonl"))
    assert of_rows == of_file
    assert of_rows.protocols["strict"]["closed_accuracy"].value == 1


def test_a_table_of_pandas_is_scored_by_its_records() -> None:
    import pandas as pd

    table = pd.DataFrame(
        {"prediction": ["MRI", float("nan")], "reference": ["MRI", "CT"], "answer_type": [float("nan"), "OPEN"]}
    )
    found = score("slake-vqa", cast("list[dict[str, object]]", table.to_dict("records")))
    assert (found.states["ok"], found.states["error"]) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "boxes", "told"),
    [
        ([], "", "no predictions"), ([{"prediction": "x"}], "", "prediction 0 has no reference"),
        ([{"prediction": "x", "reference": object()}], "", "no object of plain values"),
        ([{"prediction": "x", "reference": "y"}], "pixels", "no effect"),
    ],
)  # fmt: skip
def test_predictions_that_cannot_be_scored_are_explained(rows: list[dict[str, object]], boxes: str, told: str) -> None:
    with pytest.raises((DataError, UsageError)) as caught:
        score("slake-vqa", rows, boxes=boxes)
    assert told in str(caught.value)


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == _FORMATS


@pytest.mark.parametrize(
    "words",
    ["--help", "run --help", "score --help", "train --help", "doctor --help", "doctor scorers --help",
     "run --model openai:m@http://127.0.0.1:9/v1 --tasks slake-vqa --limit 1 --dry-run"],
)  # fmt: skip
def test_what_needs_no_model_imports_no_heavy_library(words: str) -> None:
    code = (
        "import sys; from medbench.harness.cli import answer; answer(sys.argv[1:]);"
        "print([name for name in ('torch', 'scipy', 'pandas', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
