"""Tables and reports of many folders: what cannot be shown is left out with a line, and the rest is shown."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import Terminal

from medbench.harness.results import read_results
from medbench.harness.settings import Settings
from medbench.leaderboard import numbers, samples
from medbench.leaderboard.compare import compare_runs
from medbench.leaderboard.runs import gather
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, RunError
from medbench.tasks.protocols import PROTOCOLS


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture(scope="module")
def finished(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two finished runs of one's own data and one of the mini suite."""
    from medbench.harness.run import run

    output = tmp_path_factory.mktemp("runs")
    for model in ("blind", "mock:oracle"):
        run(Settings(model=model, tasks=("cls",), data_dir=small_data, output_dir=output))
    run(Settings(model="blind", tasks=("cls",), limit=2, output_dir=output))
    return output


@pytest.fixture
def runs(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs"


def folder(runs: Path, start: str) -> Path:
    [found] = runs.glob(f"{start}-*")
    return found


def unfinish(runs: Path) -> None:
    (folder(runs, "mock-oracle-custom") / "results.json").unlink()


def tear(runs: Path) -> None:
    (folder(runs, "mock-oracle-custom") / "results.json").write_text('{"run": ')


def edit_settings(runs: Path) -> None:
    path = folder(runs, "mock-oracle-custom")
    (path / "results.json").unlink()
    (path / "run.yaml").write_text("identity: x\n")


def other_definitions(runs: Path) -> None:
    file = folder(runs, "mock-oracle-custom") / "results.json"
    results = json.loads(file.read_text())
    results["tasks"]["dermamnist"]["version"] += 1
    file.write_text(json.dumps(results))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (unfinish, "has no results.json: the run is not finished. Give its command again."),
        (tear, "results.json"),
        (edit_settings, "was changed"),
        (other_definitions, "The runs scored dermamnist by different definitions. Bring them up to date"),
    ],
)
@pytest.mark.parametrize("whole_folder", [True, False])
def test_one_bad_run_does_not_block_the_table(
    spoil: Callable[[Path], None], told: str, whole_folder: bool, runs: Path, terminal: Terminal
) -> None:
    spoil(runs)
    shutil.rmtree(folder(runs, "blind-mini"))
    (runs / "leaderboard.md").write_text("notes")
    (runs / "site").mkdir()
    given = [runs] if whole_folder else sorted(runs.glob("*"))
    said = terminal("leaderboard", *given)
    assert said.code == 0, said.err
    assert "| Task | Metric | Blind baseline |" in said.out
    assert "Oracle" not in said.out
    assert f"Not shown: {folder(runs, 'mock-oracle-custom')}: " in said.err
    assert told in said.err
    assert ("leaderboard.md: is no run" in said.err) != whole_folder
    assert ("site: is no run" in said.err) != whole_folder


def test_the_suite_of_most_runs_is_shown_and_the_other_left_out(runs: Path, terminal: Terminal) -> None:
    said = terminal("leaderboard", *sorted(runs.glob("*"), key=lambda path: ("mini" not in path.name, path.name)))
    assert said.code == 0, said.err
    assert "| Task | Metric | Blind baseline | Mock (oracle) |" in said.out
    assert f"Not shown: {folder(runs, 'blind-mini')}: The runs answered different suites: custom, mini." in said.err
    assert "MINI SUITE" not in said.out


def test_one_odd_run_that_comes_first_does_not_push_the_others_out(runs: Path, terminal: Terminal) -> None:
    def change(results: dict[str, Any], **values: object) -> None:
        file.write_text(json.dumps({**results, **values}))

    file = runs / "aa-odd" / "results.json"
    shutil.copytree(folder(runs, "blind-custom"), file.parent)
    results = json.loads(file.read_text())
    (file.parent / "audit" / "audit.json").unlink()
    older = {name: {**task, "version": task["version"] + 1} for name, task in results["tasks"].items()}
    for values in ({"probe": "no-image"}, {"tasks": older}):
        change(results, run="0" * 12, **values)
        said = terminal("leaderboard", runs)
        assert said.code == 0, said.err
        assert "| Task | Metric | Blind baseline | Mock (oracle) |" in said.out
        assert f"Not shown: {file.parent}: " in said.err


def test_a_probe_that_is_named_is_refused(runs: Path, terminal: Terminal) -> None:
    file = folder(runs, "mock-oracle-custom") / "results.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "probe": "no-image"}))
    said = terminal("leaderboard", folder(runs, "blind-custom"), file.parent)
    assert (said.code, "medbench audit probe" in said.err) == (EXIT_USAGE, True)


def test_a_report_takes_a_folder_and_leaves_out_what_cannot_be_shown(
    runs: Path, terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    unfinish(runs)
    said = terminal("report", runs)
    assert said.code == 0, said.err
    assert (tmp_path / "report.html").is_file()
    assert said.err.count("Not shown: ") == 2


def test_only_where_nothing_is_left_it_is_a_failure(runs: Path, terminal: Terminal, tmp_path: Path) -> None:
    for results in runs.glob("*/results.json"):
        results.unlink()
    for command in ("leaderboard", "report"):
        said = terminal(command, runs)
        assert (said.code, "None of these is a finished run" in said.err) == (EXIT_FAILED, True), said.err
        said = terminal(command, folder(runs, "blind-mini"))
        assert (said.code, "has no results.json: the run is not finished" in said.err) == (EXIT_FAILED, True)
        said = terminal(command, tmp_path / "nowhere")
        assert (said.code, "there is no such folder" in said.err) == (EXIT_FAILED, True)
        (tmp_path / "empty").mkdir(exist_ok=True)
        said = terminal(command, tmp_path / "empty")
        assert (said.code, "is no run" in said.err) == (EXIT_FAILED, True)


def test_a_mistyped_run_among_others_is_no_reason_to_go_on(runs: Path, terminal: Terminal) -> None:
    said = terminal("leaderboard", folder(runs, "blind-custom"), runs / "blnid")
    assert (said.code, "blnid is no run: there is no such folder" in said.err) == (EXIT_FAILED, True)


def test_a_run_is_shown_once(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(folder(runs, "blind-custom"), runs / "older" / "copy")
    found = gather([runs, folder(runs, "blind-custom")])
    assert [path.name.rpartition("-")[0] for path in found.paths] == ["blind-custom", "mock-oracle-custom"]
    assert sum("is there already" in error.problem for _, error in found.skipped) == 2
    with pytest.raises(RunError):
        gather([tmp_path / "nowhere"])


def test_two_runs_that_are_compared_must_both_be_there(runs: Path, terminal: Terminal) -> None:
    unfinish(runs)
    said = terminal("compare", folder(runs, "blind-custom"), folder(runs, "mock-oracle-custom"))
    assert (said.code, "the run is not finished" in said.err) == (EXIT_FAILED, True)


def test_one_run_that_cannot_be_scored_again_does_not_keep_the_others_from_it(runs: Path, terminal: Terminal) -> None:
    unfinish(runs)
    whole = folder(runs, "blind-custom")
    before = (whole / "results.json").read_bytes()
    (whole / "leaderboard.md").unlink()
    said = terminal("score", folder(runs, "mock-oracle-custom"), whole)
    assert said.code == EXIT_FAILED
    assert "the run is not finished" in said.err
    assert (whole / "leaderboard.md").is_file()
    assert (whole / "results.json").read_bytes() == before


def test_the_tables_of_numbers_samples_and_differences_say_what_the_results_say(finished: Path) -> None:
    paths = sorted(finished.glob("[!.]*-custom-*"))
    frame, results = numbers.read(paths), [read_results(path) for path in paths]
    assert list(frame["task"].cat.categories) == ["dermamnist", "organsmnist"]
    told = {(row.source, row.task, row.protocol, row.metric): row.value for row in frame.itertuples()}
    assert told == {
        (run.run, name, protocol, metric): found.value
        for run in results
        for name, task in run.tasks.items()
        for protocol in PROTOCOLS
        for metric, found in task.metrics(protocol).items()
    }
    for path, run in zip(paths, results, strict=True):
        scores = samples.read(path, "dermamnist")
        assert len(scores) == run.tasks["dermamnist"].samples * len(frame.query("task == 'dermamnist'")) / len(paths)
        accuracy = scores.query("metric == 'accuracy' and protocol == 'paper'")["score"].mean()
        assert accuracy == pytest.approx(run.tasks["dermamnist"].paper["accuracy"].value)
    rows = compare_runs(*paths, protocol="paper").rows.set_index(["task", "metric"])
    assert rows["first"]["dermamnist", "accuracy"] == pytest.approx(
        results[0].tasks["dermamnist"].paper["accuracy"].value
    )
    assert (rows["difference"] == rows["first"] - rows["second"]).all()
