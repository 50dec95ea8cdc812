"""`medbench ablate` from end to end: two rows by two seeds, killed everywhere and continued to the same table."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench, start_medbench
from tiny_base import lora_overrides, make_base

from medbench.harness import finish, generate, rundir
from medbench.harness.ablation.grid import Grid
from medbench.leaderboard.ablation.document import read_ablation
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from medbench.unimed.checkpoint import BaseWeights
from medbench.unimed.training.folder import TrainingFolder

# Its grid is made once.
pytestmark = [pytest.mark.xdist_group("ablation-grid"), pytest.mark.slow]

PAGES = ("ablation.json", "ablation.md", "ablation.csv", "ablation.tex", "curves.svg")
Words = Callable[..., list[str]]


class Killed(BaseException):
    """What no part of the product catches."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseWeights:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def words(base: BaseWeights, small_data: Path) -> Words:
    settings = lora_overrides(base, "mixture={slake-vqa: 1, slake-rec: 1, dermamnist: 1}")

    def said(output: Path, *more: str, rows: Sequence[str] = ("Linear",), seeds: int = 2) -> list[str]:
        chosen = [word for row in rows for word in ("--rows", row)]
        given = [word for setting in settings for word in ("--set", setting)]
        where = ["--data-dir", str(small_data), "--seeds", str(seeds), "--output", str(output)]
        return ["ablate", "--table", "2a", *chosen, "--base", "official", *given, *where, *more]

    return said


@pytest.fixture(scope="module")
def whole(words: Words, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    done = medbench(*words(output))
    assert done.returncode == 0, done.stderr
    assert "4 trainings, of which 4 are left, 24 steps" in " ".join(done.stderr.split())
    return output


def numbers(output: Path) -> dict[str, Any]:
    """Return a table's numbers; which runs they are of depends on the folder that base weights lie in alone."""
    return read_ablation(output / "2a" / "ablation.json").as_json()


def test_a_grid_ends_with_the_papers_table_in_all_its_forms(whole: Path) -> None:
    found = read_ablation(whole / "2a" / "ablation.json")
    rows = found.protocols["paper"]
    assert [row.name for row in rows] == ["Linear", "MLP"]
    assert (found.seeds, found.missing) == (2, ())
    assert [task for task, _ in found.metrics] == ["slake-vqa", "slake-rec", "dermamnist"]
    assert rows[0].reported["total"] == pytest.approx(-0.089)
    assert all(len(of_seeds) == 2 for of_seeds in rows[0].by_seed.values())
    assert all((whole / "2a" / page).stat().st_size for page in PAGES)
    assert "\\begin{tabular}" in (whole / "2a" / "ablation.tex").read_text()
    assert "CMoE" not in (whole / "2a" / "ablation.csv").read_text()
    assert (whole / "2a" / "curves.svg").read_text().count(">Linear<") == 1


def test_what_is_done_is_used_again_by_this_table_and_by_others(
    words: Words, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (whole / "2a" / "ablation.json").read_bytes()
    monkeypatch.setattr(TrainingFolder, "save_step", lambda *_: pytest.fail("it was trained again"))
    again = medbench(*words(whole))
    assert again.returncode == 0, again.stderr
    assert "0 are left" in again.stderr
    assert (whole / "2a" / "ablation.json").read_bytes() == before
    plan = medbench(*[word if word != "2a" else "2c" for word in words(whole, "--dry-run", rows=("CMoE, 3 experts",))])
    assert plan.returncode == 0, plan.stderr
    line = next(line for line in plan.stdout.splitlines() if line.startswith("2c") and " MLP " in line)
    assert line.split()[-3:] == ["2", "of", "2"]
    # What was trained tells how long a step takes.
    assert "s a step as in those that were done" in " ".join(plan.stderr.split())


def test_a_grid_that_is_killed_in_training_answering_and_scoring_goes_on_to_the_same_table(
    words: Words, whole: Path, tmp_path: Path
) -> None:
    def killed_in(place: object, name: str, *, after: int) -> None:
        """Do it so many times, then die behind it."""
        real, times = getattr(place, name), 0

        def dying(*given: object, **more: object) -> object:
            nonlocal times
            times += 1
            found = real(*given, **more)
            if times == after:
                raise Killed
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(place, name, dying)
            with pytest.raises(Killed):
                medbench(*words(tmp_path))

    killed_in(TrainingFolder, "save_step", after=1)
    assert not list(tmp_path.glob("runs/*"))
    killed_in(generate, "append_lines", after=1)
    assert list(tmp_path.glob("runs/*/*/generations/*.jsonl"))
    killed_in(finish, "score_tasks", after=2)
    assert not list(tmp_path.glob("2a/*"))
    resumed = medbench(*words(tmp_path))
    assert resumed.returncode == 0, resumed.stderr
    assert numbers(tmp_path) == numbers(whole)


def test_a_kill_without_a_word_loses_nothing(words: Words, whole: Path, tmp_path: Path) -> None:
    for sign in ("trainings/*/checkpoints/step-00000002", "runs/*/*/generations/*.jsonl"):
        process, deadline = start_medbench(*words(tmp_path)), time.monotonic() + 120
        while not list(tmp_path.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    resumed = medbench(*words(tmp_path))
    assert resumed.returncode == 0, resumed.stderr
    assert numbers(tmp_path) == numbers(whole)


def test_rows_that_are_not_through_are_named_and_the_others_shown(
    words: Words, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("medbench.harness.ablation.grid.train_uni_med", broken)
    done = medbench(*words(whole, rows=("Linear", "CMoE, hard")))
    assert done.returncode == 1
    assert "2 of 6 trainings failed: 2a CMoE, hard" in " ".join(done.stderr.split())
    assert read_ablation(whole / "2a" / "ablation.json").missing == ("CMoE, hard",)
    monkeypatch.undo()
    assert medbench(*words(whole)).returncode == 0


def test_a_table_of_some_rows_or_fewer_seeds_shows_all_that_is_there(words: Words, whole: Path) -> None:
    before = numbers(whole)
    for some in (words(whole, rows=("MLP",)), words(whole, seeds=1)):
        done = medbench(*some)
        assert done.returncode == 0, done.stderr
        assert numbers(whole) == before


def test_a_baseline_alone_is_said_to_have_no_gain(words: Words, tmp_path: Path) -> None:
    done = medbench(*words(tmp_path, rows=("MLP",), seeds=1))
    assert done.returncode == 0, done.stderr
    assert "Table 2a has no row yet that is counted over MLP: add some, with --rows." in " ".join(done.stderr.split())


def test_a_folder_has_one_base(words: Words, whole: Path, tmp_path: Path) -> None:
    before = numbers(whole)
    other = medbench(*words(whole, "--set", "max_prompt_tokens=3000"))
    assert other.returncode == EXIT_USAGE
    told = " ".join(other.stderr.split())
    assert "holds trainings of official with" in told
    assert "max_prompt_tokens=3000. Give another --output" in told
    assert numbers(whole) == before
    (tmp_path / "file").write_text("")
    refused = medbench(*words(tmp_path / "file"))
    assert (refused.returncode, refused.stderr.count("Cannot write")) == (EXIT_FAILED, 1)
    assert "Training 1" not in refused.stderr


def is_at_work(process: str) -> bool:
    """Return whether a process is there, and no zombie that nobody waits for."""
    try:
        return "State:\tZ" not in Path("/proc", process, "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_stop_says_that_the_same_command_goes_on_and_ends_the_workers(words: Words, tmp_path: Path) -> None:
    for number, sign in enumerate((signal.SIGINT, signal.SIGKILL)):
        output = tmp_path / str(number)
        process, deadline = start_medbench(*words(output, "--workers", "2")), time.monotonic() + 120
        while not list(output.glob("trainings/*/train_log.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.02)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) == 2
        process.send_signal(sign)
        told = " ".join(process.communicate(timeout=60)[1].split())
        if sign == signal.SIGINT:
            assert process.returncode == EXIT_INTERRUPTED
            assert told.count("Interrupted.") == 1
            assert "the same command goes on" in told
        deadline = time.monotonic() + 60
        while any(map(is_at_work, workers)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        # Workers that outlived it would have done all that there is.
        assert len(list(output.glob("runs/*/scored.json"))) < 4


def test_processes_share_the_trainings(words: Words, whole: Path, tmp_path: Path) -> None:
    done = medbench(*words(tmp_path, "--workers", "2"))
    assert done.returncode == 0, done.stderr
    assert numbers(tmp_path) == numbers(whole)


def test_a_training_that_another_process_holds_is_left_to_it(
    words: Words, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = medbench(*words(tmp_path, "--dry-run", seeds=1))
    assert plan.returncode == 0
    real = Grid.work

    def held_by_another(grid: Grid) -> tuple[list[str], list[str]]:
        names = list(grid.trainings)
        for name in names:
            grid.checkpoint(name).parent.mkdir(parents=True, exist_ok=True)
        with rundir.held(grid.checkpoint(names[0]).with_name(f".{names[0]}.lock"), ""):
            return real(grid)

    monkeypatch.setattr(Grid, "work", held_by_another)
    done = medbench(*words(tmp_path, seeds=1))
    assert done.returncode == 1
    told = " ".join(done.stderr.split())
    assert "1 of 2 trainings are done by other processes: 2a Linear" in told
    assert "Table 2a has no row yet" in told


def test_towers_that_are_trained_here_are_trained_once_for_a_seed(small_data: Path, tmp_path: Path) -> None:
    from test_unimed_training import TINY

    tiny = [*TINY, "vision_stage.later_rate=0.0", "validation={share: 0.04, every: 6, answers: 0}"]
    settings = [word for one in {one.partition("=")[0]: one for one in tiny}.values() for word in ("--set", one)]
    done = medbench(
        "ablate", "--table", "2a", "--rows", "Linear", "--base", "mini", *settings, "--data-dir", small_data,
        "--seeds", 1, "--output", tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("towers/*.safetensors"))) == 1
    stages = [
        [json.loads(line)["stage"] for line in log.read_text().splitlines()]
        for log in tmp_path.glob("trainings/*/train_log.jsonl")
    ]
    assert sorted(one.count("vision") for one in stages) == [0, 1]
    from safetensors.torch import load_file

    towers = [
        {name: one for name, one in load_file(path).items() if name.startswith("vision_tower.")}
        for path in tmp_path.glob("trainings/*/model.safetensors")
    ]
    assert len(towers) == 2
    assert all((towers[0][name] == towers[1][name]).all() for name in towers[0])
