"""`medbench compare` and `medbench gate`: on invented scores, and through the real command line."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import medbench

from medbench.harness.results import ModelInfo, Results, TaskResult
from medbench.leaderboard.compare import Comparison, Side, compare, decide, pairs_among, shared_tasks
from medbench.leaderboard.pages import compared_rows, compared_summary, comparison_as_markdown
from medbench.leaderboard.render import OVERLAP_TEXT, p_text
from medbench.leaderboard.samples import ItemScore, ScoreRecord, ScoreTable, score_table
from medbench.tasks.foundation.errors import EXIT_USAGE, UsageError
from medbench.tasks.metrics.metric import FloatArray
from medbench.tasks.protocols import STATES, State


def results(title: str, tasks: Sequence[str], *, suite: str = "custom") -> Results:
    none: dict[State, int] = dict.fromkeys(STATES, 0)
    return Results(
        run=title.ljust(12, "0"), suite=suite, limit=None, seed=0, notices=(), unsupported=(),  # type: ignore[arg-type]
        model=ModelInfo(name="m", title=title, weights="w", device="cpu", dtype="float32", trained_on=()),
        tasks={
            name: TaskResult(title=name, kind="cls", version=1, data="d", samples=1, states=none, paper={}, strict={})
            for name in tasks
        },
    )  # fmt: skip


def table(task: str, right: FloatArray, *, saying: str = "a", first: int = 0) -> ScoreTable:
    """Return a classification's scores [C, size], a cluster for each row."""
    records = [
        ScoreRecord(
            sample_id=f"s{first + place}", group=f"g{place // right.shape[1]}", state="ok", prediction=saying, box=None,
            paper=item, strict=item, labels={},
        )
        for place, one in enumerate(right.ravel())
        for item in [{"accuracy": ItemScore(statistics=(float(one), 1.0), value=float(one))}]
    ]  # fmt: skip
    return score_table(task, "cls", records)


def verdicts(found: Comparison) -> list[str]:
    return list(found.decisive["verdict"])


def compared(pairs: dict[str, tuple[FloatArray, FloatArray]], suite: str = "custom") -> Comparison:
    sides = [
        Side(
            results=results(title, list(pairs), suite=suite),
            tables={name: table(name, pair[place], saying=title) for name, pair in pairs.items()},
        )
        for place, title in enumerate(("one", "other"))
    ]
    return compare(sides[0], sides[1], "strict")


def answers(seed: int, share: float, clusters: int = 60, size: int = 5) -> FloatArray:
    return (np.random.default_rng(seed).random((clusters, size)) < share).astype(np.float64)


def test_a_clear_gain_is_better_and_noise_is_not() -> None:
    found = compared({
        "dermamnist": (answers(1, 0.9), answers(2, 0.6)), "organsmnist": (answers(3, 0.7), answers(3, 0.7)[::-1]),
    })  # fmt: skip
    assert verdicts(found) == ["better", "not distinguishable"]
    assert found.rows["low"][0] > 0.2
    assert "better on 1, worse on 0, not distinguishable on 1 of 2 tasks" in compared_summary(found)
    swapped = compared({"dermamnist": (answers(2, 0.6), answers(1, 0.9))})
    assert verdicts(swapped) == ["worse"]
    assert swapped.rows["difference"][0] == pytest.approx(-found.rows["difference"][0])


def test_holm_accounts_for_the_number_of_tasks() -> None:
    close = (answers(5, 0.72), answers(6, 0.61))
    alone = compared({"dermamnist": close}).rows.iloc[0]
    beside = compared({"dermamnist": close, "organsmnist": (answers(7, 0.5), answers(8, 0.5))}).rows.iloc[0]
    assert alone.p_adjusted == alone.p
    assert beside.p_adjusted == pytest.approx(min(1, 2 * alone.p))


def test_only_samples_that_both_scored_are_paired() -> None:
    one, other = answers(1, 0.8, clusters=10), answers(2, 0.8, clusters=10)
    sides = [
        Side(results=results(title, ["dermamnist"]), tables={"dermamnist": table("dermamnist", right, first=first)})
        for title, right, first in (("one", one, 0), ("other", other, 7))
    ]
    found = compare(sides[0], sides[1], "strict")
    assert found.rows["samples"][0] == 43
    assert found.unpaired == {"dermamnist": (7, 7)}
    assert "dermamnist: 7 by the first, 7 by the second" in comparison_as_markdown(found)
    assert set(found.changed["sample_id"]) <= {f"s{place}" for place in range(7, 50)}


def test_what_cannot_be_compared_is_told() -> None:
    one = results("one", ["dermamnist"])
    with pytest.raises(UsageError, match="One run was given twice"):
        shared_tasks(one, one)
    with pytest.raises(UsageError, match="different suites: custom, mini"):
        shared_tasks(one, results("other", ["dermamnist"], suite="mini"))
    with pytest.raises(UsageError, match="share no task"):
        shared_tasks(one, results("other", ["organsmnist"]))
    other = results("other", ["dermamnist"])
    changed = {"dermamnist": replace(other.tasks["dermamnist"], data="e")}
    with pytest.raises(UsageError, match="different data of dermamnist"):
        shared_tasks(one, replace(other, tasks=changed))


def test_of_very_many_runs_the_best_are_compared() -> None:
    assert pairs_among([2, 0, 1]) == [(0, 1), (0, 2), (1, 2)]
    assert len(pairs_among(range(12))) == 66
    best = [199, 3, 50, 7, 120, 1]
    of_all = pairs_among([*best, *(run for run in range(200) if run not in best)])
    assert {run for pair in of_all for run in pair} == set(best)
    assert len(of_all) == 15


def test_texts_of_credentialed_data_are_withheld() -> None:
    pair = (answers(1, 0.9), answers(2, 0.5))
    found = compared({"dermamnist": pair})
    page = comparison_as_markdown(found)
    assert "| one | other |" in page
    closed = comparison_as_markdown(replace(found, withheld=frozenset({"dermamnist"})))
    assert "withheld: data under a signed agreement" in closed
    assert closed.count("| one | other |") < page.count("| one | other |")


def test_hostile_answers_stay_text() -> None:
    one = answers(1, 0.9, clusters=3)
    sides = [
        Side(results=results(title, ["dermamnist"]), tables={"dermamnist": table("dermamnist", right, saying=saying)})
        for title, right, saying in (("one", one, "<script>x</script> | a"), ("other", 1 - one, "b"))
    ]
    page = comparison_as_markdown(compare(sides[0], sides[1], "strict"))
    assert "<script>" not in page
    assert "\\<script\\>x\\</script\\> \\| a" in page


def test_the_gate_has_three_answers() -> None:
    equal = answers(1, 0.8, clusters=400)
    assert decide(compared({"dermamnist": (equal, equal)}), 0.01).decision == "pass"
    assert decide(compared({"dermamnist": (answers(2, 0.5), answers(3, 0.9))}), 0.01).decision == "worse"
    few = compared({"dermamnist": (answers(4, 0.7, clusters=12), answers(5, 0.7, clusters=12))})
    assert decide(few, 0.01).decision == "undecidable"
    assert decide(few, 0.9).decision == "pass"
    unread = replace(compared({"dermamnist": (equal, equal)}), unpaired={"dermamnist": (0, 40)})
    assert decide(unread, 0.01).decision == "undecidable"
    assert decide(unread, 0.01).reasons
    slightly = compared({"dermamnist": (answers(2, 0.5), answers(3, 0.9))})
    assert decide(slightly, 0.6).decision == "pass"


@pytest.mark.parametrize("right", [0.0, 1.0])
@pytest.mark.parametrize(("clusters", "size"), [(1, 1), (2, 1), (5, 1), (1, 5), (12, 1), (6, 20), (100, 1)])
def test_the_gate_cannot_tell_from_few_samples_that_no_model_gets_right_or_wrong(
    right: float, clusters: int, size: int
) -> None:
    same = np.full((clusters, size), right)
    assert decide(compared({"dermamnist": (same, same)}), 0.01).decision == "undecidable"


def test_the_gate_is_not_moved_by_the_first_pair_that_differs() -> None:
    same, better = np.ones((20, 10)), np.ones((20, 10))
    same[3, 3] = 0
    for pair in ((better, same), (same, better), (better, better)):
        found = compared({"dermamnist": pair})
        assert found.rows["low"][0] < -0.09
        assert decide(found, 0.05).decision == "undecidable"


def test_too_few_clusters_for_any_verdict_are_told() -> None:
    """SA-Med2D's expressions come from six pictures: five favour the one model, one is a tie."""
    one, other = np.full((6, 7), 0.6), np.full((6, 7), 0.2)
    other[2] = one[2]
    alone = compared({"sa-med2d-reg": (one, other)})
    assert (alone.rows["p"][0], alone.rows["p_adjusted"][0], verdicts(alone)) == (0.0625, 0.0625, ["too few clusters"])
    page = comparison_as_markdown(alone)
    assert "| 0.0625 | 0.0625 | too few clusters (6) | nothing |" in page
    assert "better on 0, worse on 0, not distinguishable on 0, too few clusters on 1 of 1 tasks" in page
    # Six without a tie reach 0.03125: enough alone, too little beside another task.
    whole = (np.full((6, 7), 0.6), np.full((6, 7), 0.2))
    assert verdicts(compared({"sa-med2d-reg": whole})) == ["better"]
    beside = compared({"sa-med2d-reg": whole, "dermamnist": (answers(1, 0.7), answers(1, 0.7))})
    assert (compared_rows(beside)[0][-2], np.isnan(beside.rows["detectable"][0])) == ("too few clusters (6)", True)
    # What is settled without them no longer counts.
    clear = {"sa-med2d-reg": whole, "dermamnist": (answers(1, 0.9), answers(2, 0.3))}
    assert verdicts(compared(clear)) == ["better", "better"]


def test_many_clusters_that_are_mostly_tied_are_not_too_few() -> None:
    one, other = answers(1, 0.7), answers(1, 0.7)
    other[:3] = 1 - other[:3]
    found = compared({"dermamnist": (one, other)})
    assert verdicts(found) == ["not distinguishable"]
    assert found.rows["detectable"][0] > 0


def test_the_p_of_each_metric_is_printed_as_it_is() -> None:
    close = (answers(5, 0.72), answers(6, 0.61))
    found = compared({"dermamnist": close, "organsmnist": (answers(7, 0.5), answers(8, 0.5))})
    row = found.rows.iloc[0]
    assert f"| {p_text(row.p)} | {p_text(row.p_adjusted)} |" in comparison_as_markdown(found)
    assert row.p < row.p_adjusted


def test_no_text_takes_overlapping_intervals_for_no_difference() -> None:
    root = Path(__file__).parents[1]
    files = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "leaderboard").rglob("*.[hjmpty]*")]
    texts = {file: " ".join(file.read_text(encoding="utf-8").split()) for file in files if file.suffix != ".pyc"}
    assert len(texts) > 80
    assert [file for file, text in texts.items() if "is no difference" in text or "overlap the order" in text] == []
    assert "decide nothing about a difference: medbench compare does" in OVERLAP_TEXT


@pytest.mark.parametrize(("p", "text"), [(0.5, "0.5000"), (0.00001, "< 0.0001")])
def test_p_values_are_for_people(p: float, text: str) -> None:
    assert p_text(p) == text


def test_the_command_line_compares_and_decides(tmp_path: Path) -> None:
    runs = {}
    for model in ("mock:oracle", "mock:constant"):
        folder = tmp_path / model.partition(":")[2]
        done = medbench("run", "--model", model, "--tasks", "vqa,cls", "--output-dir", folder)
        assert done.returncode == 0, done.stderr
        [runs[model]] = folder.glob("mock*")
    page = tmp_path / "page.md"
    done = medbench("compare", runs["mock:oracle"], runs["mock:constant"], "--protocol", "paper", "--output", page)
    assert done.returncode == 0, done.stderr
    assert "Mock (oracle) against Mock (constant): better on 4" in done.stdout
    assert "MINI SUITE" in page.read_text(encoding="utf-8")
    assert medbench("gate", runs["mock:oracle"], "--baseline", runs["mock:constant"]).returncode == 0
    for tasks in ("cls", "vqa"):
        worse = medbench("gate", runs["mock:constant"], "--baseline", runs["mock:oracle"], "--tasks", tasks)
        assert (worse.returncode, worse.stdout.strip().splitlines()[-1]) == (3, "worse")
    none = medbench("compare", runs["mock:oracle"], runs["mock:constant"], "--tasks", "medqa")
    assert (none.returncode, "There is none of medqa" in none.stderr) == (EXIT_USAGE, True)
    for command in (("compare", tmp_path, tmp_path), ("gate", tmp_path, "--baseline", tmp_path)):
        refused = medbench(*command)
        assert refused.returncode != 0
        assert "is no run" in refused.stderr
        assert "Traceback" not in refused.stderr
