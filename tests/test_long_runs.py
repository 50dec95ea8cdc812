"""Long runs: what they say where nobody watches, what they cost the disk, and that memory does not grow with them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import medbench
from listening import Heard
from pydantic import TypeAdapter, ValidationError

from benchmarks import soak
from benchmarks.soak_data import TASK, prepare
from medbench.leaderboard.report.document import inert_json
from medbench.leaderboard.samples import Scores
from medbench.tasks.foundation.console import Terminal, heard_by
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import write_atomically

WEEK, DAY, HOUR = 7 * 86400, 86400, 3600
LINE = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d path-vqa: \d+/\d+ \| \d+\.\d/s \| (\d+ d )?(\d+ h ?)?(\d+ min ?)?(\d+ s )?left \| "
    r"\d+ answered, \d+ empty"
)


def lines_of(answers: int, seconds: float) -> list[str]:
    heard = Heard()
    with heard_by(heard):
        soak.said_in_a_week(answers, seconds, batch=max(1, answers // 50_000))
    return heard.lines


# What is said


@pytest.mark.parametrize(
    ("seconds", "fewest", "most"), [(60, 5, 7), (HOUR, 100, 400), (DAY, 300, 700), (WEEK, 900, 1500)]
)
def test_a_log_has_as_many_lines_as_somebody_reads(seconds: float, fewest: int, most: int) -> None:
    lines = lines_of(10_000_000, seconds)
    assert fewest <= len(lines) <= most
    assert all(LINE.fullmatch(line) for line in lines)
    assert "10000000/10000000" in lines[-1]


def test_a_line_says_how_long_it_will_take() -> None:
    assert {part for line in lines_of(10_000_000, WEEK) for part in ("6 d 2", "1 h 1", "9 min") if f"| {part}" in line}
    assert "| 10.0/s | 1 d " in next(line for line in lines_of(6_048_000, WEEK) if line.startswith("1970-01-06"))


@pytest.mark.parametrize("asking", ["FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"])
def test_no_line_is_alive_in_a_log(
    asking: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(asking, "1")
    with Terminal().meter("Answering", 1000, 0) as meter:
        for _ in range(1000):
            meter.advance(1, status="all well")
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "1000/1000" in told
    assert not re.search("[\r\x1b]", told)


def test_a_run_says_what_the_safety_of_an_answer_costs(tmp_path: Path) -> None:
    words = ("run", "--model", "mock:oracle", "--tasks", "pubmedqa", "--limit", 4, "--output-dir", tmp_path)
    done = medbench(*words, "--profile")
    assert re.search(r"safe on the disk took [\d,]+ µs, \d+\.\d % of all", done.stderr), done.stderr
    [environment] = tmp_path.glob("*/env.json")
    assert json.loads(environment.read_text())["phases"]["counts"]["answers kept"] == 4


# What is written in pieces


def test_a_text_that_breaks_off_while_it_is_made_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_atomically(file, "old")

    def pieces() -> Iterator[str]:
        yield "new"
        raise RunError("The data are gone.")

    with pytest.raises(RunError, match="gone"):
        write_atomically(file, pieces())
    assert [file.read_text()] == [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_pieces_are_the_json_that_one_piece_would_be() -> None:
    value = {
        "long": list(range(100_000)), "texts": [f"<{place}>" for place in range(5000)], "none": [], "nothing": {},
        "mixed": [None, {"a": [1.5, None]}], "name": "<b>", "pairs": [[1, 2], [3, 4]],
    }  # fmt: skip
    pieces = list(inert_json(value))
    assert json.loads("".join(pieces)) == value
    assert "<" not in "".join(pieces)
    assert max(map(len, pieces)) < 100_000
    assert "".join(pieces).replace("\\u003c", "<").replace("\\u003e", ">") == json.dumps(value, separators=(",", ":"))


def test_equal_scores_are_one_object_and_wrong_ones_are_found_each_time() -> None:
    scores = TypeAdapter(Scores)
    first, second, other = (
        scores.validate_python({"f1": {"statistics": [value, 1.0], "value": value}}) for value in (0.5, 0.5, 1.0)
    )
    assert first is second
    assert first != other
    for _ in range(2):
        with pytest.raises(ValidationError):
            scores.validate_python({"f1": {"statistics": [0.5, 1.0]}})
    assert scores.validate_python({"f1": {"statistics": [1, 1], "value": True}})["f1"].value == 1.0


# Memory


@pytest.mark.slow
def test_memory_does_not_grow_with_samples_beyond_what_they_are(tmp_path: Path) -> None:
    few, many = 10_000, 30_000
    most: dict[int, dict[str, float]] = {}
    for count in (few, many):
        data, output = prepare(tmp_path / str(count), count), tmp_path / f"runs-{count}"
        words = ("--model", "mock:oracle", "--tasks", TASK, "--data-dir", data, "--output-dir", output)
        run = soak.medbench("run", *words)["stages"]
        [made] = output.glob("mock*")
        file = tmp_path / f"{count}.parquet"
        export = soak.medbench("export", made, "--format", "parquet", "--output", file)["stages"]
        most[count] = {stage: took["peak"] for stage, took in {**run, "parquet": export["whole"]}.items()}
    # In kilobytes a sample; a sample itself takes 0.8 as an object, and twice that before all of it was streamed.
    growth = {stage: 1000 * (most[many][stage] - most[few][stage]) / (many - few) for stage in most[few]}
    assert growth["generate"] < 2.5, growth
    assert growth["score"] < 3.5, growth
    assert growth["whole"] < 5.5, growth
    assert growth["parquet"] < 4, growth
