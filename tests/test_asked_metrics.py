"""Metrics that are asked for by name: what a plug-in gives, what a run makes of it, and what its readers see."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from command_line import medbench
from hypothesis import given
from hypothesis import strategies as st

from medbench.harness.results import read_results
from medbench.leaderboard.compare import standings_of
from medbench.leaderboard.runs import gather, mixture
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.metrics.answers import micro_f1, micro_f1_weights
from medbench.tasks.metrics.asked import ASKED, MetricEntry, MetricOptions, as_read, asked_metric, wanted_metrics
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable, score_statistics

TASKS = "slake-vqa,mimic-cxr"


def words(scorables: Sequence[Scorable]) -> FloatArray:
    return score_statistics([min(50, len(one.prediction.split())) for one in scorables])


def first_words(scorables: Sequence[Scorable]) -> FloatArray:
    """Count first words that are right, wrong, and missing; some cannot be scored."""
    rows = [_first_word(one) for one in scorables]
    return np.asarray(rows, dtype=np.float64).reshape(len(rows), 3)


def _first_word(one: Scorable) -> tuple[float, float, float]:
    said, wanted = (text.lower().split()[:1] for text in (one.prediction, one.reference))
    if wanted == ["no"]:
        return (float("nan"),) * 3
    return float(said == wanted), float(said != wanted and bool(said)), float(said != wanted)


def fails(scorables: Sequence[Scorable]) -> FloatArray:
    raise OverflowError(f"no \x1b[31mroom for {len(scorables)}")


def entry(*metrics: Metric, kinds: frozenset[str] = frozenset({"vqa", "report"})) -> MetricEntry:
    return MetricEntry(
        summary="For a test.", kinds=kinds, cost="nothing", build=lambda _: metrics, arguments={"size": "no matter"},  # type: ignore[arg-type]
        refuses=lambda spec, _: "" if spec.kind != "report" else "it reads no reports",
    )  # fmt: skip


BRIEF = entry(
    asked_metric("words", "blanks", words, high=50, higher_is_better=False),
    asked_metric("first", "lower-case", first_words, aggregate="micro_f1"),
)
BROKEN = entry(asked_metric("broken", "any", fails))


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ASKED, "_builtin", {"brief": BRIEF, "broken": BROKEN})


def run(output: Path, *words: object, model: str = "blind") -> CompletedProcess[str]:
    told = medbench("run", "--model", model, "--tasks", TASKS, "--limit", 30, "--output-dir", output, *words)
    assert "Traceback" not in told.stderr
    return told


def only_run(output: Path) -> Path:
    [found] = output.glob("*/run.yaml")
    return found.parent


def test_a_score_of_another_range_is_shown_as_the_part_of_its_way() -> None:
    metric = asked_metric("shift", "x", lambda some: score_statistics([-0.5] * len(some)), low=-1, high=1)
    found = metric.statistics([Scorable(prediction="", reference="a")] * 2)
    assert found.tolist() == [[0.25, 1.0]] * 2
    assert metric.signature == "shift|x|of=-1..1|mean|strict"


@pytest.mark.parametrize(
    ("given", "aggregate", "told"),
    [
        ([[2.0, 1.0]], "mean", "a score outside of 0 to 1"),
        ([[0.5]], "mean", r"shape \[1, 1\] for 1 samples; mean has 2 columns"),
        ([[1.0, 0.0, np.inf]], "micro_f1", "micro_f1 has 3 columns"),
        ([[1.0, -1.0, 0.0]], "micro_f1", "micro_f1 has 3 columns"),
        ([[1.0, 0.0, 0.0, 1.0]], "macro_f1", "macro_f1 has 3 columns"),
        ("words", "mean", "The metric odd failed: ValueError"),
    ],
)  # fmt: skip
def test_what_is_no_statistics_is_an_error_with_the_metrics_name(given: object, aggregate: str, told: str) -> None:
    metric = asked_metric("odd", "x", lambda _: given, aggregate=aggregate)  # type: ignore[arg-type, return-value]
    with pytest.raises(MedbenchError, match=told):
        metric.statistics([Scorable(prediction="a", reference="a")])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_micro_f1_is_that_of_all_decisions_and_of_the_samples_that_decide(pairs: list[tuple[bool, bool]]) -> None:
    rows = np.asarray([(s and w, s and not w, w and not s) for s, w in pairs], dtype=np.float64)
    said, wanted, both = (sum(some) for some in (*zip(*pairs, strict=True), [s and w for s, w in pairs]))
    value = float(micro_f1(rows.sum(axis=0)))
    assert np.isnan(value) if said + wanted == 0 else value == pytest.approx(2 * both / (said + wanted))
    assert micro_f1_weights(rows).sum() == said + wanted


def test_a_reader_without_the_plug_in_gets_the_same_number_of_the_same_statistics() -> None:
    [_, first] = BRIEF.build(MetricOptions())
    assert first.traits is not None
    totals = first.statistics([Scorable(prediction="a b", reference="a"), Scorable(prediction="c", reference="d")])
    read = as_read("first", first.traits)
    assert read.compute(totals.sum(axis=0)) == first.compute(totals.sum(axis=0))
    assert read.statistics(()).shape == (0, 3)


@pytest.mark.usefixtures("plugins")
@pytest.mark.slow
def test_a_run_scores_by_what_is_asked_for_and_its_readers_see_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = run(tmp_path / "runs", "--metric", "brief")
    assert told.returncode == 0, told.stderr
    assert "MIMIC-CXR has no brief: it reads no reports." in told.stderr
    assert "words (strict)" in told.stdout
    path = only_run(tmp_path / "runs")
    task = read_results(path).tasks["slake-vqa"]
    number, first = task.strict["words"], task.strict["first"]
    assert number.value is not None
    assert number.ci is not None
    assert number.ci[0] < number.value < number.ci[1]
    assert "lower-is-better" in number.signature
    # What it could not score is left out, counted, and bounded.
    assert (first.errors > 0, first.bounds is not None, first.n + first.errors) == (True, True, number.n)
    assert "words" not in task.paper
    assert not read_results(path).tasks["mimic-cxr"].strict.keys() & {"words", "first"}
    # Those who read the run need no plug-in.
    monkeypatch.setattr(ASKED, "_builtin", {})
    other = run(tmp_path / "runs", model="mock:oracle")
    assert other.returncode == 0, other.stderr
    board = medbench("leaderboard", tmp_path / "runs", "--protocol", "strict")
    assert board.returncode == 0, board.stderr
    assert "Slake-VQA, words: lower is better." in board.stdout
    assert "| words |" in board.stdout
    for command in (["breakdown", path, "--by", "modality", "--every-metric", "--protocol", "strict"],
                    ["export", path, "--format", "every-eval-ever", "--output", tmp_path / "exported"],
                    ["report", path, "--output", tmp_path / "report.html"]):  # fmt: skip
        told = medbench(*command)
        assert told.returncode == 0, told.stderr
    assert '"words"' in (tmp_path / "report.html").read_text()


@pytest.mark.usefixtures("plugins")
@pytest.mark.slow
def test_a_finished_run_is_scored_by_one_more_without_a_question(tmp_path: Path) -> None:
    assert run(tmp_path / "runs").returncode == 0
    path = only_run(tmp_path / "runs")
    answers = {file.name: file.read_bytes() for file in (path / "generations").iterdir()}
    before = read_results(path)
    told = run(tmp_path / "runs", "--metric", "brief", "--metric-arg", "brief:size=2")
    assert told.returncode == 0, told.stderr
    assert "is complete; scored now by brief." in told.stderr
    after = read_results(path)
    assert after.metrics == {"brief": {"size": "2"}}
    assert after.run == before.run
    assert {file.name: file.read_bytes() for file in (path / "generations").iterdir()} == answers
    assert "nothing to do" in run(tmp_path / "runs", "--metric", "brief", "--metric-arg", "brief:size=2").stderr
    assert "nothing to do" in run(tmp_path / "runs").stderr
    assert medbench("score", path).returncode == 0
    assert "words" in read_results(path).tasks["slake-vqa"].strict
    assert medbench("score", path, "--metric", "none").returncode == 0
    assert read_results(path).tasks == before.tasks


@pytest.mark.usefixtures("plugins")
def test_a_metric_that_fails_costs_no_other_its_number(tmp_path: Path) -> None:
    told = run(tmp_path / "runs", "--metric", "broken", "--metric", "brief")
    assert told.returncode == 1
    assert "slake-vqa by broken could not be scored: The metric broken failed: OverflowError: no \\x1b" in told.stderr
    path = only_run(tmp_path / "runs")
    assert {"words", "bleu1"} <= read_results(path).tasks["slake-vqa"].strict.keys()
    assert not (path / "done").exists()


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--metric", "breif"], "Did you mean brief"),
        (["--metric", "brief", "--metric", "brief"], "was given twice"),
        (["--metric", "brief:large"], "Write --metric brief."),
        (["--metric", "brief", "--metric-arg", "brief:colour=red"], "Allowed: size"),
        (["--metric", "brief", "--metric-arg", "size=2"], "METRIC:NAME=VALUE"),
        (["--metric-arg", "brief:size=2"], "no metric of this command (none)"),
        (["--metric", "brief", "--metric-arg", "brief:size=sk-abcdefghijklmnopqrstuvwxyz0123456789"], "--metrics"),
        (["--metric", "broken", "--metric-arg", "broken=1"], "METRIC:NAME=VALUE"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_a_question(words: list[str], told: str, tmp_path: Path) -> None:
    found = medbench("run", "--model", "blind", "--tasks", TASKS, "--output-dir", tmp_path / "runs", *words)
    assert found.returncode == 2, found.stderr
    assert told in found.stderr
    assert not list((tmp_path / "runs").glob("*/generations/*.jsonl"))


def test_a_plug_in_that_cannot_make_its_metric_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ASKED, "_builtin", {"odd": replace(BRIEF, build=lambda _: [*range(1 // 0)])})
    told = run(tmp_path, "--metric", "odd")
    assert told.returncode == 1
    assert "The metric odd cannot be made: ZeroDivisionError: integer division" in told.stderr


@pytest.mark.usefixtures("plugins")
def test_a_metric_that_is_for_none_of_the_tasks_is_refused(tmp_path: Path) -> None:
    told = medbench("run", "--model", "blind", "--tasks", "cls", "--metric", "brief", "--output-dir", tmp_path)
    assert told.returncode == 2
    assert "is for none of the tasks (DermaMNIST: it is for tasks of the kind report or vqa; " in told.stderr


@pytest.mark.usefixtures("plugins")
@pytest.mark.slow
def test_runs_with_other_definitions_never_share_a_table_and_one_without_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(tmp_path / "runs", "--metric", "brief").returncode == 0
    assert run(tmp_path / "runs", model="mock:oracle").returncode == 0
    assert len(gather([tmp_path / "runs"]).runs) == 2
    other = entry(asked_metric("words", "letters", words, high=50, higher_is_better=False))
    monkeypatch.setattr(ASKED, "_builtin", {"brief": other})
    assert run(tmp_path / "runs", "--metric", "brief", model="mock:constant").returncode == 0
    runs = [read_results(path.parent) for path in (tmp_path / "runs").glob("*/results.json")]
    problem = mixture(runs)
    assert isinstance(problem, UsageError)
    assert "by different definitions of words" in problem.problem
    assert len(gather([tmp_path / "runs"]).runs) == 2


@pytest.mark.usefixtures("plugins")
@pytest.mark.slow
def test_a_sweep_asks_for_metrics_of_each_run(tmp_path: Path) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text("models: [blind, 'mock:oracle']\ntasks: [slake-vqa]\nlimit: 5\nmetrics: [brief]\n")
    told = medbench("run", "--config", config, "--output-dir", tmp_path / "runs", "--save-config", tmp_path / "as.yaml")
    assert told.returncode == 0, told.stderr
    assert [read_results(one.parent).metrics for one in (tmp_path / "runs").glob("*/results.json")] == [
        {"brief": {}}
    ] * 2
    assert "brief" in (tmp_path / "as.yaml").read_text()


@pytest.mark.usefixtures("plugins")
def test_a_file_of_predictions_becomes_a_run_first(tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps({"prediction": "yes", "reference": "yes"}) + "\n")
    told = medbench("score", "--task", "slake-vqa", "--predictions", file, "--metric", "brief")
    assert told.returncode == 2
    assert "medbench import" in told.stderr


def test_what_is_better_lower_leads_lower() -> None:
    assert standings_of([0.2, 0.1, 1.0, None], lower_is_better=True) == ("second", "best", "none", "none")
    assert standings_of([0.0, 0.1]) == ("none", "best")


def test_arguments_go_to_every_metric_of_the_name() -> None:
    found = wanted_metrics(["judge:a@b", "judge:c@d", "brief"], {"judge:key": "X"})
    assert found == {"judge:a@b": {"key": "X"}, "judge:c@d": {"key": "X"}, "brief": {}}


def test_the_catalogue_lists_what_may_be_asked_for(plugins: None) -> None:
    del plugins
    assert {"brief", "broken"} <= {row["metric"] for row in json.loads(medbench("metrics", "--json").stdout)["metrics"]}
    assert "--metric-arg brief:size=" in medbench("metrics", "brief").stdout
    assert "Did you mean brief" in medbench("metrics", "breif").stderr
