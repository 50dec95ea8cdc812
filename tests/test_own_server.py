"""`vllm:MODEL` starts a server for the run, says why if it cannot, and leaves nothing behind, even after a kill."""

import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from command_line import medbench, start_medbench

from medbench.tasks.foundation.files import read_json

STAND_IN = Path(__file__).with_name("own_server.py")


def of_own_server(mode: str, model: Path) -> list[str]:
    program = "there-is-no-such-program" if mode == "missing" else f"{sys.executable} {STAND_IN} {mode}"
    command = f"{program} serve"
    return ["run", "--model", f"vllm:{model}", "--model-arg", f"command={command}"]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.setenv(name, str(temporary))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llava"}')
    return folder


def servers() -> list[psutil.Process]:
    """Return what is left of servers: the stand-in, its child, and the guard, started by this test."""
    ours = (str(STAND_IN), "child-of-own-server", "vllm/guard.py")
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = " ".join(process.info["cmdline"] or [])
        if any(one in words for one in ours) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def nothing_left(temporary: Path, *, log_stays: bool = False) -> bool:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        if not servers() and (log_stays or not list(temporary.glob("medbench-vllm-*"))):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
@pytest.mark.xdist_group("own-server")
def test_a_run_starts_its_server_and_ends_it(model: Path, tmp_path: Path) -> None:
    command = [*of_own_server("well", model), "--tasks", "pubmedqa", "--limit", "3", "--output-dir", tmp_path / "runs"]
    ran = medbench(*command)
    assert ran.returncode == 0, ran.stderr
    [results] = (tmp_path / "runs").glob("*/results.json")
    assert read_json(results)["model"]["title"] == "some-model (vLLM)"
    again = medbench(*command)
    assert "nothing to do" in again.stdout + again.stderr
    assert nothing_left(tmp_path / "temporary")


@pytest.mark.slow
@pytest.mark.xdist_group("own-server")
@pytest.mark.parametrize(
    ("mode", "more", "said"),
    [
        ("ends", [], "ended with exit code 3 before it was ready"),
        ("never", ["--model-arg", "start_timeout=2"], "not ready within 2 seconds"),
        ("well", ["--model-arg", "start_timeout=soon"], "no number of seconds"),
        ("missing", [], "There is no command"),
    ],
)
def test_a_server_that_does_not_start_is_a_sentence(
    mode: str, more: list[str], said: str, model: Path, tmp_path: Path
) -> None:
    ran = medbench(*of_own_server(mode, model), *more, "--tasks", "pubmedqa", "--output-dir", tmp_path / "runs")
    assert ran.returncode != 0
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    if mode in {"ends", "never"}:
        assert "loading serve" in ran.stderr
    assert nothing_left(tmp_path / "temporary", log_stays=mode == "ends")


@pytest.mark.xdist_group("own-server")
def test_a_dry_run_starts_nothing(model: Path, tmp_path: Path) -> None:
    ran = medbench(*of_own_server("ends", model), "--dry-run", "--tasks", "pubmedqa", "--output-dir", tmp_path / "runs")
    assert ran.returncode == 0, ran.stderr
    assert "some-model" in ran.stdout
    assert "Starting vLLM" not in ran.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("own-server")
@pytest.mark.parametrize("mode", ["well", "never"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_nothing_is_left_after_a_kill(mode: str, sign: signal.Signals, model: Path, tmp_path: Path) -> None:
    process = start_medbench(*of_own_server(mode, model), "--tasks", "all", "--output-dir", tmp_path / "runs")
    until = time.monotonic() + 60
    while time.monotonic() < until and len(servers()) < 3:
        time.sleep(0.05)
    assert len(servers()) >= 3
    process.send_signal(sign)
    process.communicate(timeout=60)
    assert nothing_left(tmp_path / "temporary")
