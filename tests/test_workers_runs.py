"""`medbench run --workers` for real: processes that answer, die and are replaced; bytes are those of one process."""

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
from command_line import medbench, medbench_process, start_medbench

import medbench as api
from medbench.adapters.uni_med import MINI_WEIGHTS
from medbench.harness.workers import processes
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, UsageError

QUICK = ("--tasks", "slake-*,dermamnist,pubmedqa")


def run_folder(output: Path) -> Path:
    [folder] = [path for path in output.iterdir() if path.is_dir()]
    return folder


def assert_same_bytes(one: Path, other: Path) -> None:
    first, second = run_folder(one), run_folder(other)
    assert first.name == second.name
    files = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    # Where the time went, and who was asked.
    files -= {Path("env.json"), Path("run.yaml"), Path("report.html")}
    assert Path("done") in files
    assert len([path for path in files if path.parts[0] == "generations"]) > 1
    for path in files:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def workers_of(driver: int | None = None) -> list[psutil.Process]:
    found = psutil.Process(driver).children(recursive=True)
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE and processes.__name__ in one.cmdline()]


def all_gone(found: list[psutil.Process], seconds: float = 10.0) -> bool:
    return not psutil.wait_procs(found, timeout=seconds)[1]


@pytest.fixture(scope="module")
def doomed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The plugin, installed for processes that the test starts."""
    folder = tmp_path_factory.mktemp("plugin")
    info = folder / "doomed_plugin-1.0.dist-info"
    info.mkdir()
    shutil.copy(Path(__file__).with_name("doomed_plugin.py"), folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: doomed-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medbench.adapters]\ndoomed = doomed_plugin:ENTRY\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(scope="module")
def whole(doomed: None, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the doomed model says, while it lives, in one process."""
    del doomed
    output = tmp_path_factory.mktemp("whole")
    assert medbench_process(*words_of("doomed", small_data, output)).returncode == 0
    return output


def words_of(model: str, data: Path, output: Path, *more: object) -> tuple[object, ...]:
    return ("run", "--model", model, "--data-dir", data, "--output-dir", output, *QUICK, *more)


@pytest.mark.slow
def test_two_workers_write_the_bytes_of_one_process(small_data: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert medbench(*words_of("mock:oracle", small_data, one)).returncode == 0
    ran = medbench(*words_of("mock:oracle", small_data, two, "--workers", 2, "--profile"))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("Workers: 2 processes.") == 1
    assert "Where the time of 2 workers went" in " ".join(ran.stdout.split())
    assert_same_bytes(one, two)
    noted = json.loads((run_folder(two) / "env.json").read_text())["engine"]["workers"]
    assert noted == {"are": "2 processes", "count": 2, "deaths": 0, "samples asked again": 0}
    assert workers_of() == []
    again = medbench(*words_of("mock:oracle", small_data, two))
    assert "is complete; nothing to do" in again.stderr
    assert medbench(*words_of("mock:oracle", small_data, one, "--workers", 1)).stderr.count("is complete") == 1
    assert workers_of() == []


@pytest.mark.slow
def test_a_shard_may_have_workers(small_data: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    assert medbench(*words_of("mock:oracle", small_data, one)).returncode == 0
    for shard, more in (("1/2", ["--workers", 2]), ("2/2", [])):
        ran = medbench(*words_of("mock:oracle", small_data, many, "--shard", shard, *more))
        assert ran.returncode == 0, ran.stderr
        assert ("Workers: 2 processes." in ran.stderr) == bool(more)
    assert_same_bytes(one, many)
    assert workers_of() == []


@pytest.mark.parametrize(
    ("model", "more", "told"),
    [
        ("openai:name@http://127.0.0.1:9/v1", [], "is for models that run here; 'openai' is asked over a network"),
        ("mock:oracle", ["--device", "cuda:0"], "--device cuda:0 is one device"),
        ("mock:oracle", ["--device", "cuda"], "does not take --device"),
        ("mock:oracle", ["--checkpoint", "nowhere"], "does not take --checkpoint"),
    ],
)
def test_what_no_workers_can_do_is_a_sentence(
    model: str, more: list[str], told: str, small_data: Path, tmp_path: Path
) -> None:
    ran = medbench(*words_of(model, small_data, tmp_path / "runs", "--workers", 2, *more))
    assert ran.returncode == EXIT_USAGE
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
    assert workers_of() == []


def test_more_workers_than_gpus_are_refused(small_data: Path, tmp_path: Path) -> None:
    ran = medbench(*words_of("uni-med", small_data, tmp_path / "runs", "--workers", 2, "--device", "cuda"))
    assert ran.returncode == EXIT_USAGE
    assert "--workers 2 needs 2 GPUs; there are 0." in ran.stderr


def test_an_object_cannot_be_sent_to_workers(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be sent to workers"):
        api.run(lambda _: "yes", "slake-vqa", data_dir=small_data, output_dir=tmp_path, workers=2, progress=False)


@pytest.mark.slow
def test_a_sample_that_kills_is_its_own_error(
    whole: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hurt = tmp_path / "hurt"
    lines = (run_folder(whole) / "generations" / "slake-vqa.jsonl").read_text().splitlines()
    poison = json.loads(lines[0])["sample_id"]
    with monkeypatch.context() as patch:
        patch.setenv("DOOMED_SAMPLE", poison)
        ran = medbench_process(*words_of("doomed", small_data, hurt, "--workers", 2))
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr.count("died (SIGKILL, as when memory runs out)") == 3
    assert "1 samples failed and are counted as errors" in ran.stderr
    records = [json.loads(line) for path in run_folder(hurt).glob("generations/*.jsonl") for line in path.open()]
    [failed] = [one for one in records if one["error"]]
    assert failed["sample_id"] == poison
    assert "Its worker died three times" in failed["error"]
    assert medbench_process(*words_of("doomed", small_data, hurt)).returncode == 0
    assert_same_bytes(whole, hurt)


@pytest.mark.usefixtures("doomed")
@pytest.mark.slow
def test_workers_that_cannot_load_end_the_run_with_their_last_words(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOMED_LOAD", "1")
    ran = medbench_process(*words_of("doomed", small_data, tmp_path / "runs", "--workers", 2))
    assert ran.returncode == EXIT_FAILED
    assert "died while they loaded the model; the last: exit code 1: no weights on this disk." in ran.stderr
    assert "Traceback" not in ran.stderr


def answering(output: Path, driver: "Popen[str]") -> list[psutil.Process]:
    """Wait for the first records of a run, and return its workers."""
    until = time.monotonic() + 60
    while time.monotonic() < until and driver.poll() is None:
        if any(path.stat().st_size for path in output.rglob("generations/*.jsonl")):
            return workers_of(driver.pid)
        time.sleep(0.05)
    raise AssertionError(driver.communicate()[1])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["driver", "worker", "ctrl-c"])
def test_who_is_killed_loses_nothing(
    how: str, whole: Path, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"
    with monkeypatch.context() as patch:
        patch.setenv("DOOMED_SECONDS", "0.1")
        driver = start_medbench(*words_of("doomed", small_data, killed, "--workers", 2))
        found = answering(killed, driver)
        assert found
        if how == "worker":
            found[0].kill()
        else:
            os.kill(driver.pid, signal.SIGKILL if how == "driver" else signal.SIGINT)
        said = driver.communicate(timeout=120)[1]
    assert all_gone(found)
    assert driver.returncode == {"worker": 0, "driver": -signal.SIGKILL, "ctrl-c": EXIT_INTERRUPTED}[how]
    assert ("Worker" in said and "died (SIGKILL" in said) == (how == "worker")
    again = medbench_process(*words_of("doomed", small_data, killed, *(["--workers", "2"] if how == "ctrl-c" else [])))
    assert again.returncode == 0
    assert ("Continuing: " in again.stderr) == (how != "worker")
    assert_same_bytes(whole, killed)


@pytest.mark.slow
def test_checkpoints_of_tasks_are_answered_by_workers_too(small_data: Path, tmp_path: Path) -> None:
    """A model with an engine, in 16 bits for the note; its two shares come one after the other."""
    mini, copy = MINI_WEIGHTS, tmp_path / "copy"
    shutil.copytree(mini, copy)
    one, two, rounded = tmp_path / "one", tmp_path / "two", tmp_path / "rounded"
    own = ("--checkpoint", mini, "--checkpoint-for", f"cls={copy}")
    assert medbench(*words_of("uni-med", small_data, one, *own)).returncode == 0
    ran = medbench(*words_of("uni-med", small_data, two, *own, "--workers", 2))
    assert ran.returncode == 0, ran.stderr
    assert_same_bytes(one, two)
    ran = medbench(*words_of("uni-med", small_data, rounded, "--dtype", "bfloat16", "--workers", 2))
    assert ran.returncode == 0, ran.stderr
    agreed = json.loads((run_folder(rounded) / "env.json").read_text())["engine"]["agreement"]
    assert (agreed["dtype"], agreed["of"]) == ("bfloat16", 4)
    assert workers_of() == []
