"""What `--tasks` means where only some tasks are prepared, and README's own commands as printed."""

import json
import re
import shutil
from pathlib import Path

import pytest
from in_process import Terminal
from native_data import slake

from medbench.adapters.uni_med import MINI_WEIGHTS
from medbench.harness.settings import Settings
from medbench.harness.workload import load_workload
from medbench.tasks.catalog import benchmark_names, get_task, select_among
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, DataError, UsageError
from medbench.tasks.prepare import prepare_task

README = Path(__file__).resolve().parent.parent / "README.md"
THERE = ("slake-vqa", "slake-rec", "medqa-options")


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slake(tmp_path_factory.mktemp("native") / "Slake1.0")


@pytest.fixture(scope="module")
def two(native: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with slake-vqa and slake-rec alone, as README prepares it."""
    data = tmp_path_factory.mktemp("two")
    for name in ("slake-vqa", "slake-rec"):
        prepare_task(get_task(name), native, data, {})
    return data


@pytest.mark.parametrize(
    ("selection", "names", "left_out"),
    [
        ("vqa,slake-*", ["slake-vqa", "slake-rec"], ["path-vqa", "slake-reg"]),
        ("vqa,path-vqa", ["slake-vqa", "path-vqa"], []),
        ("prepared", ["slake-vqa", "slake-rec"], ["medqa-options"]),
        ("prepared,medqa-options", ["slake-vqa", "slake-rec", "medqa-options"], []),
        ("prepared,cls", ["slake-vqa", "slake-rec", "dermamnist", "organsmnist"], ["medqa-options"]),
        ("rec", ["slake-rec"], ["sa-med2d-rec"]),
        ("cls", ["dermamnist", "organsmnist"], []),
        ("slake-rec, slake-vqa", ["slake-vqa", "slake-rec"], []),
        ("medqa-options", ["medqa-options"], []),
        ("all", list(benchmark_names()), []),
    ],
)
def test_kinds_and_patterns_mean_what_is_prepared_and_names_mean_themselves(
    selection: str, names: list[str], left_out: list[str]
) -> None:
    found = select_among(selection, THERE)
    assert (list(found.names), list(found.left_out)) == (names, left_out)


@pytest.mark.parametrize("selection", ["preparde", "prepared,slake-vga", "prepared,nothing-*", "", " , "])
def test_a_word_that_names_nothing_is_still_refused(selection: str) -> None:
    with pytest.raises(UsageError):
        select_among(selection, THERE)


def test_what_is_left_out_is_said_once(terminal: Terminal, two: Path, tmp_path: Path) -> None:
    told = terminal("run", "-m", "blind", "-t", "vqa,slake-*", "--data-dir", two, "--output-dir", tmp_path)
    assert told.code == 0, told.err
    assert told.err.count(f"Left out, since they are not prepared in {two}: path-vqa, slake-reg.") == 1
    [run] = tmp_path.glob("*/run.yaml")
    assert "path-vqa" not in run.read_text()
    again = terminal("run", "-m", "blind", "-t", "prepared", "--data-dir", two, "--output-dir", tmp_path)
    assert (again.code, "is complete; nothing to do" in again.err) == (0, True)
    assert "Left out" not in again.err
    same = terminal("run", "--config", run, "--output-dir", tmp_path)
    assert (same.code, "is complete; nothing to do" in same.err) == (0, True)


@pytest.mark.parametrize(
    ("tasks", "told"),
    [
        ("slake-vqa,path-vqa", "Not prepared in {}: path-vqa."),
        ("cls", "Not prepared in {}: dermamnist, organsmnist."),
        ("all", "Not prepared in {}: medqa"),
        ("slake-vqa,medqa-options", "Not prepared in {}: medqa-options."),
    ],
)
def test_a_name_that_is_not_prepared_is_an_error_that_names_the_way_out(
    tasks: str, told: str, terminal: Terminal, two: Path, tmp_path: Path
) -> None:
    said = terminal("run", "-m", "blind", "-t", tasks, "--data-dir", two, "--output-dir", tmp_path)
    assert (said.code, told.format(two) in said.err) == (EXIT_FAILED, True), said.err
    assert "or give --tasks prepared for those that are (slake-vqa, slake-rec)" in said.err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_prepared_task_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No task is prepared in"):
        load_workload(Settings(model="blind", tasks=("prepared",), data_dir=tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        load_workload(Settings(model="blind", tasks=("prepared",), data_dir=tmp_path / "nowhere"))


def test_a_folder_of_variants_alone_says_so(small_data: Path, tmp_path: Path) -> None:
    source = Path(json.loads((small_data / "medqa" / "manifest.json").read_text())["source"])
    prepare_task(get_task("medqa-options"), source, tmp_path, {})
    with pytest.raises(DataError, match=r"runs only when it is named: medqa-options"):
        load_workload(Settings(model="blind", tasks=("prepared",), data_dir=tmp_path))


def test_the_mini_suite_has_everything_prepared() -> None:
    found = load_workload(Settings(model="blind", tasks=("prepared",), limit=1))
    assert found.names == benchmark_names()
    assert found.suite == "mini"
    assert set(found.left_out) == {"medqa-options", "pubmedqa-context"}


def test_prepared_is_a_word_of_runs_alone(terminal: Terminal) -> None:
    told = terminal("data", "list", "prepared")
    assert (told.code, "There is no task named 'prepared'" in told.err) == (EXIT_USAGE, True)


def commands_of_readme() -> list[str]:
    """Return the commands that README prints for one's own data, without those that need a network."""
    block = re.search(
        r"## Your own data, your own model\n+```\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL
    )
    assert block is not None
    lines = [line for line in block[1].splitlines() if line.startswith("medbench ")]
    return [line for line in lines if not line.startswith("medbench data download")]


@pytest.mark.xdist_group("java")
def test_readmes_commands_work_as_printed(
    terminal: Terminal, native: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they stand there, in a folder with the data that they name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(native, "Slake1.0")
    Path("answers.jsonl").write_text('{"prediction": "MRI", "reference": "MRI"}\n')
    commands = commands_of_readme()
    Path("answers.csv").write_text("prediction,reference\nMRI,MRI\n")
    assert any(command.startswith("medbench run ") for command in commands)
    for command in commands:
        runs = sorted(str(path.parent) for path in Path("runs").glob("*/run.yaml"))
        if re.search(r"\bruns/B\b", command) and len(runs) < 2:
            assert terminal.line("medbench run --model blind --tasks prepared --data-dir data").code == 0
            runs = sorted(str(path.parent) for path in Path("runs").glob("*/run.yaml"))
        said = command.replace("DIR ", f"{MINI_WEIGHTS} ").replace("runs/*", " ".join(map(str, Path("runs").glob("*"))))
        for place, word in ((0, "runs/RUN"), (0, "runs/A"), (-1, "runs/B")):
            said = re.sub(rf"{word}\b", runs[place] if runs else word, said)
        told = terminal.line(said)
        # An audit says by its code what it found; of a few answers nothing can be found.
        allowed = {0, 3, 4, 5} if said.startswith("medbench audit") else {0}
        assert told.code in allowed, (said, told.err)
