"""What commands print with `--json`: one document, and the keys that docs/json.md says."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from command_line import medbench
from every_command import every_name

PAGE = Path(__file__).parent.parent / "docs" / "json.md"
ROW = re.compile(r"^\| `([^`]+)` \| ([a-z ]+) \|", re.MULTILINE)
NAMES = {str: "string", bool: "boolean", int: "number", float: "number", type(None): "null", dict: "table"}


def documented(command: str) -> dict[str, set[str]]:
    [section] = re.findall(rf"^## {command}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {key: set(types.split(" or ")) for key, types in ROW.findall(section)}


def found_in(value: object, path: str, known: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    """Yield each leaf with its type; names of a table that may have any are `*`."""
    if isinstance(value, list) and path + "[]" not in known:
        for one in value:
            yield from found_in(one, f"{path}[]", known)
    elif isinstance(value, list):
        yield from ((f"{path}[]", NAMES[type(one)]) for one in value)
    elif isinstance(value, dict) and path not in known:
        free = any(key.startswith(f"{path}.*") for key in known)
        for name, one in value.items():
            yield from found_in(one, f"{path}.{'*' if free else name}".lstrip("."), known)
    else:
        yield path, NAMES[type(value)]


def mistakes(document: object, command: str) -> list[str]:
    """Return what a document has that the page does not say."""
    known = documented(command)
    wrong = []
    for path, kind in found_in(document, "", known):
        # Where a list or a table is null, its own path is none of the page's.
        allowed = known.get(path) or ({"null"} if any(key.startswith(f"{path}[]") for key in known) else set())
        if kind not in allowed and "anything" not in allowed:
            wrong.append(f"{path} is {kind}")
    return wrong


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_data: Path) -> Sequence[Path]:
    """Two runs, of an oracle, which was probed, and of a model that says nothing."""
    output = tmp_path_factory.mktemp("runs")
    words = ("run", "-m", "mock:oracle", "-m", "mock:empty", "-t", "slake-vqa", "--data-dir", small_data)
    assert medbench(*words, "--output-dir", output, "--quiet").returncode == 0
    found = sorted(output.glob("mock-*"))
    mode = dict.fromkeys(("target", "model", "weights", "mode", "verdict", "first", "second", "why"), "x")
    untested = {**mode, **dict.fromkeys(("difference", "low", "high", "p", "would_show"))}
    (found[0] / "probed.json").write_text(json.dumps({"rows": [untested, {**untested, "difference": 0.5}]}))
    return found


@pytest.mark.parametrize(
    ("command", "words", "codes"),
    [
        ("compare", ["RUN", "OTHER"], {0}), ("gate", ["RUN", "--baseline", "OTHER"], {0, 3, 4}),
        ("breakdown", ["RUN", "--every-metric"], {0}), ("leaderboard", ["RUN", "OTHER"], {0}),
        ("audit", ["model", "RUN", "--output", "OUT"], {0, 3, 4, 5}), ("tasks", ["--data-dir", "DATA"], {0}),
        ("data verify", ["slake-vqa", "dermamnist", "--data-dir", "DATA", "--skipped", "--images"], {0}),
        ("data profile", ["--tasks", "slake-*,medqa", "--data-dir", "DATA"], {0}), ("models", [], {0}),
    ],
)  # fmt: skip
def test_json_is_what_the_page_says(
    command: str, words: list[str], codes: set[int], runs: Sequence[Path], small_data: Path, tmp_path: Path
) -> None:
    places = {"RUN": runs[0], "OTHER": runs[1], "OUT": tmp_path, "DATA": small_data}
    told = medbench(*command.split(), *(places.get(word, word) for word in words), "--json")
    assert told.returncode in codes, told.stderr
    document = json.loads(told.stdout)
    assert mistakes(document, command) == []
    always = {key for key in documented(command) if not re.search(r"[\[.]", key)}
    assert always & document.keys() == always != set()
    assert document.get("command", command) == command
    assert [len(rows) for rows in document.get("probing", {}).values()] == ([2] if command == "leaderboard" else [])


def test_one_model_and_a_format_that_contradicts(runs: Sequence[Path]) -> None:
    [model] = json.loads(medbench("models", "llava-med", "--json").stdout)["models"]
    assert model["variants"].keys() == {"v1.5", "v1.0"}
    refused = medbench("leaderboard", runs[0], "--json", "--format", "csv")
    assert (refused.returncode, "exclude each other" in refused.stderr) == (2, True)
    assert json.loads(medbench("leaderboard", runs[0], "--format", "json", "--json").stdout)["tables"]


def test_every_command_takes_quiet(runs: Sequence[Path]) -> None:
    said, quiet = medbench("compare", *runs), medbench("compare", *runs, "-q")
    assert (quiet.stdout, quiet.returncode) == (said.stdout, 0)
    assert "better" in said.stdout
    assert set(quiet.stderr.splitlines()) < set(said.stderr.splitlines())
    assert medbench("--quiet", "tasks").stderr == ""
    for name in every_name():
        assert "--quiet" in medbench(*name.split(), "--help").stdout, name
