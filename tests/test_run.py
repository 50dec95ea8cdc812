"""The whole pipeline through the real command line, on tiny data with mock models."""

import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import yaml
from command_line import medbench, start_medbench
from PIL import Image

from medbench.tasks.catalog import benchmark_names
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from medbench.tasks.protocols import STATES, metric_ids
from medbench.tasks.suite import DATA


def run_folder(output: Path) -> Path:
    [folder] = [path for path in output.iterdir() if path.is_dir()]
    return folder


def results_of(output: Path) -> dict[str, object]:
    results: dict[str, object] = json.loads((run_folder(output) / "results.json").read_text())
    return results


def run_mock(data: Path, output: Path, *words: object, model: str = "mock") -> int:
    return medbench("run", "--model", model, "--data-dir", data, "--output-dir", output, *words).returncode


@pytest.fixture(scope="module")
def oracle_run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("oracle")
    assert run_mock(small_data, output, model="mock:oracle") == 0
    return run_folder(output)


@pytest.fixture(scope="module")
def quick_run(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose scoring needs no Java."""
    output = tmp_path_factory.mktemp("quick")
    assert run_mock(small_data, output, "--tasks", "slake-*,dermamnist", model="mock:oracle") == 0
    return run_folder(output)


@pytest.mark.xdist_group("java")
def test_an_oracle_is_perfect_on_all_tasks_under_both_protocols(oracle_run: Path) -> None:
    results = json.loads((oracle_run / "results.json").read_text())
    assert sorted(results["tasks"]) == sorted(benchmark_names())
    for name, task in results["tasks"].items():
        for protocol in ("paper", "strict"):
            assert set(task[protocol]) == set(metric_ids(name, task["kind"], protocol))
            for metric, result in task[protocol].items():
                split_by_answer = metric.startswith(("closed", "open"))
                assert result["n"] > 0 or split_by_answer
                if result["n"]:
                    assert result["value"] == pytest.approx(1.0, abs=1e-6), (name, protocol, metric)


def test_every_metric_says_what_it_counted(quick_run: Path) -> None:
    for task in json.loads((quick_run / "results.json").read_text())["tasks"].values():
        assert set(task["states"]) == set(STATES)
        for result in task["paper"].values():
            counted = {
                "n",
                "errors",
                "unparsed",
                "truncated",
                "empty",
                "refused",
                "answered",
                "among_answered",
                "traits",
            }
            assert set(result) == counted | {"value", "ci", "interval", "ceiling", "bounds", "signature"}
            assert result["signature"].endswith(f"n={result['n']}")


def test_a_run_holds_what_the_design_promises(quick_run: Path) -> None:
    names = {path.name for path in quick_run.iterdir()}
    assert names == {
        "run.yaml",
        "env.json",
        "generations",
        "scores",
        "results.json",
        "leaderboard.md",
        "report.html",
        "audit",
        "done",
    }
    assert "sample_id" in (quick_run / "generations" / "slake-vqa.jsonl").read_text()


def test_an_empty_model_scores_zero_and_is_counted(small_data: Path, tmp_path: Path) -> None:
    assert run_mock(small_data, tmp_path, "--tasks", "slake-vqa,cls", model="mock:empty") == 0
    for task in json.loads((run_folder(tmp_path) / "results.json").read_text())["tasks"].values():
        assert task["states"]["empty"] == task["samples"]
        assert {result["value"] for result in task["strict"].values() if result["n"]} == {0.0}


def test_truncated_answers_are_a_state_and_wrong_under_strict(small_data: Path, tmp_path: Path) -> None:
    assert run_mock(small_data, tmp_path, "--tasks", "slake-vqa", model="mock:rambling") == 0
    results = json.loads((run_folder(tmp_path) / "results.json").read_text())
    task = results["tasks"]["slake-vqa"]
    assert task["states"]["truncated"] == task["samples"]
    assert task["strict"]["f1"]["value"] == 0
    assert task["strict"]["f1"]["truncated"] == task["samples"]
    assert task["written"]["at_limit"] == task["samples"]
    assert any("cut off by the limit" in notice for notice in results["notices"])


def test_failed_samples_are_errors_and_the_rest_is_scored(small_data: Path, tmp_path: Path) -> None:
    assert run_mock(small_data, tmp_path, "--tasks", "dermamnist", model="mock:failing") == 0
    task = json.loads((run_folder(tmp_path) / "results.json").read_text())["tasks"]["dermamnist"]
    assert 0 < task["states"]["error"] < task["samples"]
    assert task["paper"]["accuracy"]["value"] == 1.0
    assert task["paper"]["accuracy"]["n"] == task["samples"] - task["states"]["error"]
    assert task["paper"]["accuracy"]["errors"] == task["states"]["error"]
    for protocol in ("paper", "strict"):
        low, high = task[protocol]["accuracy"]["bounds"]
        assert (low, high) == (pytest.approx(1 - task["states"]["error"] / task["samples"]), 1)
    assert not (run_folder(tmp_path) / "done").exists()
    again = medbench(
        "run", "--model", "mock:failing", "--tasks", "dermamnist", "--data-dir", small_data, "--output-dir", tmp_path
    )
    assert "Continuing:" in again.stderr
    told = " ".join(again.stderr.split())
    assert re.search(
        r"samples failed and are counted as errors: \d+ sample, first dermamnist/\S+: The mock refuses", told
    )


def test_a_broken_image_costs_one_sample_and_a_run_of_broken_images_fails(small_data: Path, tmp_path: Path) -> None:
    data, source = tmp_path / "data", tmp_path / "source"
    manifest = json.loads((small_data / "slake-vqa" / "manifest.json").read_text())
    shutil.copytree(manifest["source"], source)
    assert medbench("data", "prepare", "slake-vqa", "--source", source, "--data-dir", data).returncode == 0
    for picture in source.rglob("source.jpg"):
        picture.write_bytes(picture.read_bytes()[:100])
    result = medbench(
        "run", "--model", "mock", "--tasks", "slake-vqa", "--data-dir", data, "--output-dir", tmp_path / "out"
    )
    assert result.returncode == EXIT_FAILED
    assert "Nothing could be scored" in result.stderr
    records = (run_folder(tmp_path / "out") / "generations" / "slake-vqa.jsonl").read_text().splitlines()
    assert all("source.jpg" in json.loads(record)["error"] for record in records)
    for picture in source.rglob("source.jpg"):
        Image.new("RGB", (33, 77)).save(picture)
    again = medbench(
        "run", "--model", "mock", "--tasks", "slake-vqa", "--data-dir", data, "--output-dir", tmp_path / "out"
    )
    assert again.returncode == 0
    assert (run_folder(tmp_path / "out") / "done").exists()


@pytest.mark.parametrize("loss", ["a line", "the tail", "the file"])
def test_lost_answers_are_never_scored_around(quick_run: Path, tmp_path: Path, loss: str) -> None:
    copy = tmp_path / quick_run.name
    shutil.copytree(quick_run, copy)
    records = copy / "generations" / "dermamnist.jsonl"
    whole = records.read_bytes()
    records.write_bytes({"a line": whole.split(b"\n", 1)[1], "the tail": whole[:-5], "the file": b""}[loss])
    before = (copy / "results.json").read_bytes()
    result = medbench("score", copy)
    assert result.returncode == EXIT_FAILED
    assert "have no record" in result.stderr
    assert (copy / "results.json").read_bytes() == before


@pytest.mark.parametrize("damage", ["missing", "broken", "foreign"])
def test_a_done_run_without_its_results_is_scored_again(quick_run: Path, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / quick_run.name
    shutil.copytree(quick_run, copy)
    results = copy / "results.json"
    whole = results.read_bytes()
    if damage == "missing":
        results.unlink()
    else:
        results.write_bytes(b"{" if damage == "broken" else whole.replace(quick_run.name[-12:].encode(), b"0" * 12))
    again = medbench("run", "--config", copy / "run.yaml", "--output-dir", tmp_path)
    assert again.returncode == 0, again.stderr
    assert results.read_bytes() == whole


@pytest.mark.slow
def test_two_processes_do_not_write_to_one_run(small_data: Path, tmp_path: Path) -> None:
    words = ["run", "--model", "mock", "--tasks", "all", "--data-dir", small_data, "--output-dir", tmp_path]
    first = start_medbench(*words, "--batch-size", 1)
    _wait_for_records(tmp_path)
    second = medbench(*words)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.returncode == EXIT_FAILED
    assert "Another process is writing to" in second.stderr


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"limti": 5}, "limti"),
        ({"limit": -390}, "limit"),
        ({"batch_size": -1}, "batch_size"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_edited_run_file_is_checked(quick_run: Path, tmp_path: Path, change: dict[str, object], says: str) -> None:
    document = yaml.safe_load((quick_run / "run.yaml").read_text())
    document["settings"] |= change
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    result = medbench("run", "--config", tmp_path / "run.yaml", "--output-dir", tmp_path)
    assert result.returncode == EXIT_USAGE
    assert says in result.stderr


def test_a_run_file_of_another_model_does_not_lend_its_parser(quick_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / quick_run.name
    shutil.copytree(quick_run, copy)
    text = (copy / "run.yaml").read_text()
    (copy / "run.yaml").write_text(text.replace("model: mock:oracle", "model: blind"))
    result = medbench("score", copy)
    assert result.returncode == EXIT_FAILED
    assert "was changed" in result.stderr


def test_options_that_a_model_ignores_are_refused(small_data: Path, tmp_path: Path) -> None:
    result = medbench(
        "run", "--model", "blind", "--checkpoint", tmp_path, "--data-dir", small_data, "--output-dir", tmp_path
    )
    assert result.returncode == EXIT_USAGE
    assert "does not take --checkpoint" in result.stderr


def test_a_copy_of_the_mini_suite_is_still_the_mini_suite(tmp_path: Path) -> None:
    shutil.copytree(DATA / "MedMNIST", tmp_path / "mine")
    prepared = medbench(
        "data", "prepare", "organsmnist", "--source", tmp_path / "mine", "--data-dir", tmp_path / "data",
        "--option", "flag=breastmnist",
    )  # fmt: skip
    assert prepared.returncode == 0, prepared.stderr
    result = medbench(
        "run",
        "--model",
        "blind",
        "--tasks",
        "organsmnist",
        "--data-dir",
        tmp_path / "data",
        "--output-dir",
        tmp_path / "runs",
    )
    assert "MINI SUITE" in result.stderr
    assert run_folder(tmp_path / "runs").name.startswith("blind-mini-")


def test_the_answers_do_not_depend_on_the_batch_size(small_data: Path, tmp_path: Path) -> None:
    for size in (1, 7):
        assert run_mock(small_data, tmp_path / str(size), "--batch-size", size, "--tasks", "slake-*,medqa") == 0
    one, seven = run_folder(tmp_path / "1"), run_folder(tmp_path / "7")
    assert one.name == seven.name
    for path in sorted(one.rglob("*.json*")):
        if path.name != "env.json":
            assert path.read_bytes() == (seven / path.relative_to(one)).read_bytes(), path.name


@pytest.mark.slow
def test_a_killed_run_continues_and_ends_byte_for_byte_the_same(small_data: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_mock(small_data, whole, "--tasks", "slake-*,dermamnist") == 0
    words = [
        "run",
        "--model",
        "mock",
        "--data-dir",
        small_data,
        "--output-dir",
        killed,
        "--tasks",
        "slake-*,dermamnist",
    ]
    process = start_medbench(*words, "--batch-size", 1)
    _wait_for_records(killed)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = run_folder(killed)
    assert not (folder / "done").exists()
    torn = folder / "generations" / "slake-vqa.jsonl"
    torn.write_bytes(torn.read_bytes() + b'{"run":"half a rec')
    result = medbench(*words)
    assert result.returncode == 0
    assert "Continuing:" in result.stderr
    expected = run_folder(whole)
    for name in ("results.json", "leaderboard.md", "generations/slake-vqa.jsonl", "scores/dermamnist.jsonl", "done"):
        assert (folder / name).read_bytes() == (expected / name).read_bytes(), name


def _wait_for_records(output: Path) -> None:
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in output.rglob("generations/*.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_an_interrupt_ends_with_130_and_says_how_to_go_on(small_data: Path, tmp_path: Path) -> None:
    process = start_medbench(
        "run", "--model", "mock", "--data-dir", small_data, "--output-dir", tmp_path, "--batch-size", 1
    )
    _wait_for_records(tmp_path)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == EXIT_INTERRUPTED
    assert "the same command continues" in errors
    assert "Traceback" not in errors


def test_a_finished_run_is_not_made_again(small_data: Path, tmp_path: Path) -> None:
    words = ["run", "--model", "mock:oracle", "--tasks", "cls", "--data-dir", small_data, "--output-dir", tmp_path]
    assert medbench(*words).returncode == 0
    before = (run_folder(tmp_path) / "results.json").stat().st_mtime_ns
    again = medbench(*words)
    assert again.returncode == 0
    assert "is complete" in again.stderr
    assert (run_folder(tmp_path) / "results.json").stat().st_mtime_ns == before


def test_a_run_is_made_again_from_its_own_file(quick_run: Path, tmp_path: Path) -> None:
    result = medbench("run", "--config", quick_run / "run.yaml", "--output-dir", tmp_path)
    assert result.returncode == 0
    assert run_folder(tmp_path).name == quick_run.name
    assert (run_folder(tmp_path) / "results.json").read_bytes() == (quick_run / "results.json").read_bytes()


def test_scores_are_made_again_without_the_model(quick_run: Path, tmp_path: Path) -> None:
    copy = tmp_path / quick_run.name
    shutil.copytree(quick_run, copy)
    before = {path.name: path.read_bytes() for path in copy.glob("scores/*")}
    shutil.rmtree(copy / "scores")
    assert medbench("score", copy).returncode == 0
    assert {path.name: path.read_bytes() for path in copy.glob("scores/*")} == before
    assert (copy / "results.json").read_bytes() == (quick_run / "results.json").read_bytes()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (b'{"run": "x", broken\n', "line 1 is not JSON"),
        (b'{"run": "someone-elses", "sample_id": "q"}\n', "was made by run someone-elses"),
        (b'{"sample_id": "q", "answer": 1}\n', "is no generation record"),
    ],
)
def test_records_of_others_are_refused_and_nothing_is_lost(
    quick_run: Path, small_data: Path, tmp_path: Path, damage: bytes, says: str
) -> None:
    copy = tmp_path / quick_run.name
    shutil.copytree(quick_run, copy)
    (copy / "done").unlink()
    records = copy / "generations" / "slake-vqa.jsonl"
    records.write_bytes(damage + records.read_bytes())
    result = medbench("run", "--config", copy / "run.yaml", "--output-dir", tmp_path, "--data-dir", small_data)
    assert result.returncode == EXIT_FAILED
    assert says in result.stderr
    assert "slake-vqa.jsonl, line 1" in result.stderr
    assert records.read_bytes().startswith(damage)


def test_a_folder_that_cannot_be_written_to(small_data: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    result = medbench("run", "--model", "mock:oracle", "--data-dir", small_data, "--output-dir", blocked)
    assert result.returncode == EXIT_FAILED
    assert "cannot be written to" in result.stderr
    assert "--output-dir" in result.stderr


def test_a_missing_data_folder_and_an_unprepared_task(tmp_path: Path) -> None:
    missing = medbench("run", "--model", "mock", "--data-dir", tmp_path / "nowhere", "--output-dir", tmp_path)
    assert (missing.returncode, "does not exist" in missing.stderr) == (EXIT_FAILED, True)
    (tmp_path / "empty").mkdir()
    unprepared = medbench("run", "--model", "mock", "--data-dir", tmp_path / "empty", "--output-dir", tmp_path)
    assert unprepared.returncode == EXIT_FAILED
    assert "medbench data prepare medqa" in unprepared.stderr


def test_the_limit_cuts_every_task_alike(small_data: Path, tmp_path: Path) -> None:
    assert run_mock(small_data, tmp_path, "--limit", 1, "--tasks", "slake-vqa,dermamnist", model="mock:oracle") == 0
    tasks = json.loads((run_folder(tmp_path) / "results.json").read_text())["tasks"]
    assert {name: task["samples"] for name, task in tasks.items()} == {"slake-vqa": 1, "dermamnist": 1}


def test_the_settings_are_kept(quick_run: Path, small_data: Path) -> None:
    document = yaml.safe_load((quick_run / "run.yaml").read_text())
    assert document["settings"]["model"] == "mock:oracle"
    assert document["settings"]["data_dir"] == str(small_data)
    assert document["identity"] in quick_run.name
