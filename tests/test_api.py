"""`import medbench`: what a notebook does with it."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

import medbench
from medbench.tasks.foundation.console import Silent

Run = Callable[..., medbench.Run]


def yes(prompt: str, images: list[object]) -> str:
    assert len(images) == 1, prompt
    return "yes"


def fails(sample: object) -> str:
    assert sample
    raise ValueError("it does not work")


@pytest.fixture(scope="module")
def run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")

    def of(model: object, **more: object) -> medbench.Run:
        words = {"tasks": "slake-vqa", "data_dir": small_data, "output_dir": folder, "progress": False, **more}
        return medbench.run(model, **words)  # type: ignore[arg-type]

    return of


def test_the_import_brings_nothing_heavy() -> None:
    heavy = "{'torch', 'pandas', 'scipy'} & set(sys.modules)"
    code = f"import sys, medbench; medbench.MedbenchError; sys.exit(bool({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(getattr(medbench, name) is not None for name in medbench.__all__)
    assert set(dir(medbench)) == set(medbench.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = medbench.nonsense


def test_a_function_runs_and_its_numbers_are_a_table(run: Run) -> None:
    made = run(yes)
    numbers = made.to_pandas()
    assert (made.model, set(numbers["protocol"])) == ("yes", {"paper", "strict"})
    found = numbers[(numbers["metric"] == "f1") & (numbers["protocol"] == "strict")].iloc[0]
    assert found["value"] == made.results.tasks["slake-vqa"].strict["f1"].value
    assert found["low"] <= found["value"] <= found["high"]


def test_every_sample_is_a_row_and_their_mean_is_the_number(run: Run) -> None:
    made = run(yes)
    rows = made.to_pandas("samples")
    of_f1 = rows[(rows["metric"] == "f1") & (rows["protocol"] == "strict")]
    assert set(of_f1["prediction"]) == {"yes"}
    assert of_f1["score"].mean() == pytest.approx(made.results.tasks["slake-vqa"].strict["f1"].value, abs=1e-6)


def test_a_finished_run_is_read_and_not_made_again(run: Run) -> None:
    calls: list[str] = []

    def counted(sample: medbench.Prepared) -> str:
        calls.append(str(sample))
        return "no"

    first = run(counted)
    there = len(calls)
    assert there > 0
    assert run(counted).results == first.results == medbench.load_run(str(first.path)).results
    assert len(calls) == there
    run(counted, overwrite=True)
    assert len(calls) == 2 * there


def test_pages_in_a_notebook_are_tables(run: Run) -> None:
    made = run(yes)
    for shown in (made, medbench.compare(made, run("blind")), medbench.score("slake-vqa", [PREDICTION])):
        assert "<table>" in shown._repr_html_()
        assert repr(shown).startswith("<")
    assert "Slake-VQA" in made._repr_html_()
    assert made.report.is_file()


def test_nothing_is_printed_where_nobody_wants_it(
    run: Run, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="medbench"):
        run(yes, limit=1)
        run(yes, limit=1)
    assert any("is complete" in record.getMessage() for record in caplog.records)
    run(yes, limit=2, progress=Silent())
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
    run(yes, limit=2, progress=True)
    assert "is complete" in capsys.readouterr().err


PREDICTION = {"prediction": "The liver.", "reference": "liver", "answer_type": "OPEN", "sample_id": "a"}


def test_predictions_are_scored_alike_however_they_come(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        dict(PREDICTION),
        {"prediction": None, "reference": "yes", "answer_type": "CLOSED"},
    ]
    path = tmp_path / "answers.jsonl"
    path.write_text(pd.DataFrame(rows).to_json(orient="records", lines=True))
    as_frame = medbench.score("slake-vqa", pd.DataFrame(rows))
    as_files = [medbench.score("slake-vqa", given) for given in (path, str(path))]
    tables = [one.to_pandas() for one in (medbench.score("slake-vqa", rows), as_frame, *as_files)]
    assert tables[0]["n"].max() > 0
    for table in tables[1:]:
        pd.testing.assert_frame_equal(table, tables[0])


def test_two_runs_are_compared_from_objects_or_folders(run: Run) -> None:
    first, second = run(yes), run("blind")
    rows = medbench.compare(first, second).to_pandas()
    assert set(rows["task"]) == {"slake-vqa"}
    assert (rows["difference"] - (rows["first"] - rows["second"])).abs().max() < 1e-9
    pd.testing.assert_frame_equal(rows, medbench.compare(str(first.path), second.path).to_pandas())


def test_a_run_and_predictions_are_audited(run: Run) -> None:
    assert set(medbench.audit(run(yes)).verdicts) == {"slake-vqa"}
    rows = [{"sample_id": str(place), "group": str(place), "prediction": "no change", "reference": f"finding {place}"}
            for place in range(30)]  # fmt: skip
    assert medbench.audit(pd.DataFrame(rows)).to_dict()["verdict"] == medbench.audit(rows).verdict


def test_a_task_can_be_walked_through(small_data: Path) -> None:
    task = medbench.task("slake-vqa", small_data)
    sample = task.samples("test")[0]
    assert task.spec.instruction(sample)
    assert task.images(sample)[0].mode == "RGB"
    assert len(medbench.task("pubmedqa").samples("test")) > 10


def test_a_function_that_fails_fails_its_samples_only(run: Run) -> None:
    told: list[str] = []

    class Heard(Silent):
        def warn(self, text: str) -> None:
            told.append(text)

    made = run(fails, progress=Heard())
    states = made.results.tasks["slake-vqa"].states
    assert {name for name, count in states.items() if count} == {"error"}
    assert "ValueError: it does not work (test_api.py, line " in " ".join(told)
    assert made.to_pandas()["value"].isna().all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"tasks": "slake-vqq"}, "slake-vqa"),
        ({"tasks": ["slake-vqa", "nothing"]}, "nothing"),
        ({"limit": 0}, "limit"),
        ({"temprature": 1}, "temprature"),
        ({"data_dir": "nowhere"}, "nowhere"),
    ],
)
def test_a_mistake_is_explained(run: Run, more: dict[str, object], said: str) -> None:
    with pytest.raises(medbench.MedbenchError, match=said):
        run(yes, **more)
    with pytest.raises(medbench.MedbenchError, match="no-such-run"):
        medbench.load_run("no-such-run")
