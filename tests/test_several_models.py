"""Several models in one command, and what is said twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from in_process import Terminal

from medbench.adapters import mock
from medbench.adapters.base import Adapter, AdapterEntry, LoadOptions
from medbench.adapters.catalog import ADAPTERS
from medbench.harness.cli import COMMANDS, cli
from medbench.harness.models import ModelOptions, settings_of
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, MedbenchError, UsageError


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def models_in(output: Path) -> list[str]:
    found = [json.loads(file.read_text())["model"]["title"] for file in sorted(output.glob("*/results.json"))]
    return sorted(found)


@pytest.mark.slow
def test_two_models_are_two_runs_and_one_leaderboard(terminal: Terminal, small_data: Path, tmp_path: Path) -> None:
    words = ("run", "--model", "blind", "--model", "mock:oracle", "--tasks", "slake-vqa,cls", "--data-dir", small_data)
    told = terminal(*words, "--output-dir", tmp_path)
    assert told.code == 0, told.err
    assert models_in(tmp_path) == ["Blind baseline", "Mock (oracle)"]
    page = (tmp_path / "leaderboard.md").read_text()
    assert "| Task | Metric | Blind baseline | Mock (oracle) |" in page
    assert f"The leaderboard of these runs: {tmp_path / 'leaderboard.md'}" in told.err
    assert "Primary metrics, paper protocol" in told.out
    again = terminal(*words, "--output-dir", tmp_path)
    assert again.err.count("is complete; nothing to do") == 2
    assert "leaderboard.md (in place of an older one)" in again.err


@pytest.mark.slow
def test_somebodys_own_file_is_not_overwritten(terminal: Terminal, small_data: Path, tmp_path: Path) -> None:
    (tmp_path / "leaderboard.md").write_text("# Leaderboard\n\nmy notes\n")
    told = terminal(
        "run", "-m", "blind", "-m", "mock:empty", "--tasks", "cls", "--data-dir", small_data, "--output-dir", tmp_path
    )
    assert told.code == 0, told.err
    assert (tmp_path / "leaderboard.md").read_text() == "# Leaderboard\n\nmy notes\n"
    [page] = tmp_path.glob("leaderboard-*.md")
    assert page.name in told.err


@pytest.mark.slow
@pytest.mark.parametrize("fault", [MedbenchError("It broke.", "Mend it."), ValueError("a bug"), MemoryError()])
def test_a_model_that_fails_does_not_take_the_others_along(
    fault: Exception, terminal: Terminal, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mock.ENTRY.load

    def load(options: LoadOptions) -> Adapter:
        if options.variant == "empty":
            raise fault
        return whole(options)

    monkeypatch.setattr("medbench.adapters.catalog.ADAPTERS.load", _with_loader(load))
    told = terminal(
        "run", "-m", "mock:oracle", "-m", "mock:empty", "-m", "mock:rambling", "--tasks", "cls",
        "--data-dir", small_data, "--output-dir", tmp_path,
    )  # fmt: skip
    assert told.code == EXIT_FAILED
    assert models_in(tmp_path) == ["Mock (oracle)", "Mock (rambling)"]
    assert "1 of 3 runs have no numbers: mock:empty." in told.err
    assert "Mock (rambling)" in (tmp_path / "leaderboard.md").read_text()


def _with_loader(load: Callable[[LoadOptions], Adapter]) -> Callable[[str], AdapterEntry]:
    before = ADAPTERS.load
    return lambda name: replace(before(name), load=load) if name == "mock" else before(name)


def test_nothing_runs_if_one_of_the_models_is_not_there(terminal: Terminal, small_data: Path, tmp_path: Path) -> None:
    told = terminal("run", "-m", "blind", "-m", "blnid", "--data-dir", small_data, "--output-dir", tmp_path / "out")
    assert (told.code, "There is no model named 'blnid'" in told.err) == (EXIT_USAGE, True)
    assert not (tmp_path / "out").exists()


def said(
    *models: str, arguments: dict[str, str] | None = None, checkpoints: tuple[str, ...] = (), **others: object
) -> ModelOptions:
    return ModelOptions(models=models, arguments=arguments or {}, checkpoints=checkpoints, others=others)


@pytest.mark.slow
def test_no_password_of_an_address_is_shown(terminal: Terminal, small_data: Path, tmp_path: Path) -> None:
    model = "openai:tiny@https://me:sk-a-very-secret-key@example.org/v1"
    words = ("--tasks", "cls", "--data-dir", small_data, "--output-dir", tmp_path)
    for pair in ((model, "blind"), (model, model)):
        told = terminal("run", "-m", pair[0], "-m", pair[1], "--model-arg", "key_env=MY_KEY", *words)
        assert told.code != 0
        assert ("was given twice" if pair[0] == pair[1] else "--model holds a password or a key") in told.err
        assert "sk-a-very" not in told.err + told.out
    assert not [path for path in tmp_path.rglob("*") if "sk-a-very" in path.name]


def test_an_argument_goes_to_the_models_that_take_it(capsys: pytest.CaptureFixture[str]) -> None:
    given = said("hf:a/b", "blind", "llava-med", arguments={"boxes": "permille", "llava-med:preset": "author"})
    found = settings_of(None, given)
    assert [settings.model_args for settings in found] == [{"boxes": "permille"}, {}, {"preset": "author"}]
    assert (
        "--model-arg boxes=permille goes to hf:a/b; blind, llava-med cannot take it and runs without it."
        in capsys.readouterr().err
    )


def test_what_is_said_to_one_model_goes_before_what_is_said_to_all() -> None:
    arguments = {"boxes": "permille", "hf:c/d:boxes": "pixels"}
    found = settings_of(None, said("hf:a/b", "hf:c/d", arguments=arguments))
    assert [settings.model_args["boxes"] for settings in found] == ["permille", "pixels"]


def test_an_argument_that_no_model_takes_is_refused() -> None:
    given = said("blind", "mock", arguments={"boxen": "1"})
    with pytest.raises(UsageError, match="None of blind, mock takes --model-arg boxen"):
        settings_of(None, given)
    with pytest.raises(UsageError, match="argument"):
        settings_of(None, said("blind", arguments={"boxen": "1"}))
    with pytest.raises(UsageError, match="argument"):
        settings_of(None, said("blind", "mock", arguments={"mock:boxen": "1"}))


def test_each_model_may_have_a_checkpoint_of_its_own(tmp_path: Path) -> None:
    found = settings_of(None, said("uni-med", "blind", checkpoints=(str(tmp_path),)))
    assert [settings.checkpoint for settings in found] == [tmp_path, None]
    found = settings_of(None, said("uni-med", "radfm", checkpoints=(f"uni-med={tmp_path}", "radfm=other")))
    assert [settings.checkpoint for settings in found] == [tmp_path, Path("other")]
    found = settings_of(None, said("uni-med", "radfm", checkpoints=(f"uni-med={tmp_path}", "other")))
    assert [settings.checkpoint for settings in found] == [tmp_path, Path("other")]
    with pytest.raises(UsageError, match="is one folder, and uni-med, radfm take one each"):
        settings_of(None, said("uni-med", "radfm", checkpoints=("one",)))
    with pytest.raises(UsageError, match="None of blind, mock takes --checkpoint"):
        settings_of(None, said("blind", "mock", checkpoints=("one",)))


def test_a_device_goes_to_the_models_that_have_one() -> None:
    found = settings_of(None, said("uni-med", "blind", device="cuda", dtype="bfloat16"))
    assert [(one.device, one.dtype) for one in found] == [("cuda", "bfloat16"), ("auto", "auto")]
    with pytest.raises(UsageError, match="None of blind, openai:m@http://localhost takes --device"):
        settings_of(None, said("blind", "openai:m@http://localhost", device="cuda"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("run --model blind --model blind", "--model blind was given twice"),
        ("run --model blind --limit 1 --limit 2", "--limit was given 2 times"),
        ("run --model uni-med --checkpoint X --checkpoint Y", "--checkpoint was given twice"),
        ("run -m mock -m radfm --checkpoint radfm=X --checkpoint radfm=Y", "--checkpoint radfm was given twice"),
        ("run --model blind --seed=1 --seed=1", "--seed was given 2 times"),
        ("run --model mock --model-arg a=1 --model-arg a=2", "--model-arg a was given twice"),
        ("run --model blind --config a --config b", "--config was given 2 times"),
        ("compare A B --protocol paper --protocol strict", "--protocol was given 2 times"),
        ("compare A B -t vqa --tasks qa", "--tasks was given 2 times"),
        ("data prepare slake-vqa --source A --source B --data-dir D", "--source was given 2 times"),
        ("data prepare slake-vqa --source A --data-dir D --option a=1 --option a=2", "--option a was given twice"),
        ("audit model RUN --output A --output B", "--output was given 2 times"),
        ("train --set a=1 --set a=2", "--set a was given twice"),
        ("export RUN --format parquet --dataset a/b --dataset c/d --output O", "--dataset was given twice"),
        ("score --task a --task b", "--task was given 2 times"),
        ("convert radfm X --output A --output B", "--output was given 2 times"),
    ],
)  # fmt: skip
def test_what_is_said_twice_is_refused(words: str, told: str, terminal: Terminal) -> None:
    found = terminal(*words.split())
    assert (found.code, told in found.err) == (EXIT_USAGE, True), found.err


def test_what_may_be_repeated_still_may(terminal: Terminal, small_data: Path, tmp_path: Path) -> None:
    told = terminal(
        "run", "--model", "blind", "--tasks", "slake-rec", "--tasks", "cls", "--compile", "--compile",
        "--data-dir", small_data, "--output-dir", tmp_path,
    )  # fmt: skip
    assert "does not take --compile" in told.err
    told = terminal("leaderboard", "--reported", "table3", "--reported", "table3", "--layout", "table3")
    assert (told.code, "was given" in told.err) == (0, False)


def test_every_option_of_one_value_of_every_command_is_watched() -> None:
    """No command hides an option from the door: all of them are found by the walk that the door does."""
    import click

    seen = 0

    def walk(command: click.Command, context: click.Context) -> None:
        nonlocal seen
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert below is not None
                walk(below, click.Context(below, parent=context, info_name=name))
            return
        for option in command.params:
            if isinstance(option, click.Option) and not option.multiple and not option.is_flag:
                word = option.opts[-1]
                _, _, order = command.make_parser(context).parse_args([word, "1", word, "2"][: 4 * option.nargs])
                assert order.count(option) == 2, (command.name, word)
                seen += 1

    root = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(root, name)
        assert command is not None
        walk(command, click.Context(command, parent=root, info_name=name))
    assert seen > 60
