"""Many runs in one file: what it means, what is refused, and that it is written back as it was read."""

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import medbench

from medbench.harness.settings import Settings
from medbench.harness.sweep import Sweep, read_sweep, save_sweep
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, UsageError

Written = Callable[[str], Path]
GOOD = """
models:
  - blind
  - model: mock:oracle
    seed: [0, 1]
  - model: hf:a/b
    temperature: [0, 0.7]
    model_args: {boxes: [permille, pixels]}
    tasks: vqa
tasks: [slake-vqa, cls]
device: cuda
max_new_tokens: {report: 256}
limit: 5
"""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    def write(text: str) -> Path:
        path = tmp_path / "sweep.yaml"
        path.write_text(text)
        return path

    return write


def test_models_and_lists_of_values_are_runs(written: Written) -> None:
    sweep = read_sweep(written(GOOD), {"limit": 7, "seed": None})
    assert [one.name for one in sweep.runs] == [
        "blind", "mock:oracle seed=0", "mock:oracle seed=1",
        "hf:a/b temperature=0.0 model_args.boxes=permille", "hf:a/b temperature=0.0 model_args.boxes=pixels",
        "hf:a/b temperature=0.7 model_args.boxes=permille", "hf:a/b temperature=0.7 model_args.boxes=pixels",
    ]  # fmt: skip
    blind, *_, last = (one.settings for one in sweep.runs)
    assert (blind.tasks, blind.device, blind.limit, blind.max_new_tokens) == (
        ("slake-vqa", "cls"), "auto", 7, {"report": 256},
    )  # fmt: skip
    assert (last.tasks, last.device, last.temperature, last.model_args) == (
        ("vqa",), "cuda", 0.7, {"boxes": "pixels"},
    )  # fmt: skip


def test_what_is_saved_is_read_as_the_same_runs(written: Written, tmp_path: Path) -> None:
    sweep = read_sweep(written(GOOD), {})
    save_sweep(tmp_path / "saved.yaml", sweep)
    assert read_sweep(tmp_path / "saved.yaml", {}) == sweep
    save_sweep(tmp_path / "saved.yaml", sweep)
    with pytest.raises(UsageError, match="says something else"):
        save_sweep(tmp_path / "saved.yaml", Sweep.of([Settings(model="blind")]))
    assert read_sweep(tmp_path / "saved.yaml", {}) == sweep


def test_arguments_are_words_as_on_the_command_line(written: Written) -> None:
    text = "models: [{model: 'hf:a/b', model_args: {chat: {enable_thinking: false}, system: 3, date: null}}]"
    [run] = read_sweep(written(text), {}).runs
    assert run.settings.model_args == {"chat": '{"enable_thinking":false}', "system": "3"}


def test_the_same_run_twice_is_one(written: Written) -> None:
    assert len(read_sweep(written("models: [blind, blind]\nseed: [0, 1]"), {"seed": 3}).runs) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: [blind]\ntemprature: 1", ["no setting named 'temprature'", "Did you mean temperature?"]),
        ("models: [{model: blind, sed: 1}]", ["models[0]: There is no setting named 'sed'", "Did you mean seed"]),
        ("models: [blnd]", ["'blnd'", "Did you mean blind?"]),
        ("models: [{seed: 1}]", ["models[0] names no model"]),
        ("models: []", ["models is []", "Write a list"]),
        ("models: [blind, 3]", ["models is ['blind', 3]"]),
        ("models: [blind]\nseed: []", ["models[0] (blind): seed is an empty list"]),
        ("models: [{model: blind, limit: none}]", ["models[0] (blind)", "limit: Input should be a valid integer"]),
        ("models: [blind]\ncheckpoint: x", ["checkpoint is one model's", "Move it"]),
        ("models: [blind]\nlora: x", ["lora is one model's"]),
        ("models: [{model: 'hf:a/b', model_args: {boxen: 1}}]", ["models[0] (hf:a/b)", "boxen", "boxes"]),
        ("models: [blind]\nmodel_args: 3", ["model_args is 3", "{name: value}"]),
        ("models: [blind, mock]\ndevice: cuda\nquantize: 4bit", ["None of blind, mock takes"]),
        ("models: [blind]\nmean: 3", ["mean is 3", "true, false"]),
        ("models: [{model: 'hf:a/b', temperature: [0.5, 0.7]}]\nmean: true", ["differ in more: temperature="]),
        ("model: blind", ["has no `models`", "docs/sweeps.md"]),
        ("models: [", ["is not YAML"]),
    ],
)
def test_a_mistake_is_told_with_the_file_the_place_and_a_way_out(text: str, says: list[str], written: Written) -> None:
    path = written(text)
    told = medbench("run", "--config", path, "--dry-run")
    assert (told.returncode, told.stdout) == (EXIT_USAGE, "")
    assert str(path) in told.stderr
    for words in says:
        assert words in told.stderr


def test_what_a_file_says_of_models_is_not_said_again(written: Written) -> None:
    told = medbench("run", "--config", written("models: [blind]"), "--model", "mock")
    assert (told.returncode, "--model says what" in told.stderr) == (EXIT_USAGE, True)


@pytest.mark.slow
def test_a_sweep_goes_on_past_a_failure_and_skips_what_is_done(
    written: Written, small_data: Path, tmp_path: Path
) -> None:
    file = written(
        f"models:\n  - mock:oracle\n  - {{model: uni-med, checkpoint: {tmp_path / 'nowhere'}}}\n"
        "  - {model: 'mock:empty', seed: [0, 1]}\n"
        f"tasks: cls\ndata_dir: {small_data}\noutput_dir: {tmp_path / 'out'}\n"
    )
    told = medbench("run", "--config", file, "--save-config", tmp_path / "saved.yaml")
    assert told.returncode == EXIT_FAILED
    assert "uni-med: " in told.stderr
    assert "1 of 4 runs have no numbers: uni-med." in told.stderr
    assert [line.split()[-2] for line in told.stdout.splitlines() if " mock-" in line] == ["done"] * 3
    assert "Where the time" not in told.stdout + told.stderr
    assert told.stderr.count("with --profile.") == 3
    again = medbench("run", "--config", tmp_path / "saved.yaml", "--quiet")
    assert again.stdout.count("was done") == 3
    assert "mock:empty seed=1, %" in again.stdout
    assert all(word in again.stderr for word in ("Error: uni-med", "1 of 4"))
    assert "nothing to do" not in again.stderr
    page = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "| Task | Metric | Mock (oracle) | Mock (empty) #" in page


@pytest.mark.slow
def test_seeds_become_a_mean_and_a_plan_is_shown(written: Written, small_data: Path, tmp_path: Path) -> None:
    file = written(
        f"models: ['mock:oracle']\nseed: [0, 1, 2]\nmean: true\ntasks: cls\ndata_dir: {small_data}\n"
        f"output_dir: {tmp_path / 'out'}\n"
    )
    plan = medbench("run", "--config", file, "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "3 runs" in plan.stdout
    assert plan.stdout.count("mock:oracle seed=") == 3
    assert not (tmp_path / "out").exists()
    told = medbench("run", "--config", file)
    assert told.returncode == 0, told.stderr
    assert "100.00 ± 0.00" in (tmp_path / "out" / "leaderboard.md").read_text()
    assert "| Mock (oracle) |" in (tmp_path / "out" / "leaderboard.md").read_text()
