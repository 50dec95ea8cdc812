"""Every reader of the product is fed with hostile bytes; a new one that is not is found."""

import ast
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tools.fuzz import __main__ as fuzz
from tools.fuzz.bombs import BOMBS
from tools.fuzz.mutations import Form, zipped
from tools.fuzz.workers import Reader, Tally, case, run_batch

ROOT = Path(__file__).parent.parent
ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
# What opens or parses bytes: a call of one of these makes a function a reader.
OPENS = re.compile(
    r"(^|\.)(json_value|json\.loads|read_json|read_json_lines|read_numbered_json_lines|parse_json|parse_json_file|parse_value|"
    r"read_yaml_table|parse_yaml_table|yaml\.safe_load|table_rows|named_rows|csv\.reader|ijson\.\w+|gzip\.\w+|"
    r"Image\.open|read_array|np\.frombuffer|ZipFile|tarfile\.open|read_bytes|read_text|read_text_bytes|"
    r"safe_open|load_file|torch\.load|from_pretrained|from_dict|SentencePieceProcessor|load_plain_pickle)$"
)
OPENERS = ROOT / "tools" / "fuzz" / "openers.txt"


@pytest.fixture(scope="module")
def paces() -> Iterator[dict[str, float]]:
    """Seconds of a case by the name of its reader."""
    fuzz.READERS.clear()
    fuzz.load_readers()
    with tempfile.TemporaryDirectory() as folder:
        yield fuzz.warm(Path(folder))


def _opening_functions() -> Iterator[tuple[str, str]]:
    """Yield file and function of every call that opens or parses bytes."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef):
                    calls = (ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call))
                    if any(OPENS.search(called) for called in calls):
                        yield file.relative_to(ROOT).as_posix(), function.name


def test_a_function_that_opens_bytes_and_is_not_looked_at_is_found() -> None:
    """A new one gets a reader in tools/fuzz, unless it reads what is ours alone, and then stands in the list."""
    found = sorted({f"{file}:{name}" for file, name in _opening_functions()})
    assert found == OPENERS.read_text(encoding="utf-8").splitlines(), (
        f"Feed it in tools/fuzz, then list it in {OPENERS}."
    )


def test_a_seed_of_every_reader_is_read(paces: dict[str, float]) -> None:
    """A document with a new field makes an old seed malformed, and then its reader would be fed with refusals alone."""
    assert paces.keys() == fuzz.READERS.keys()


@pytest.mark.slow
def test_a_minute_of_hostile_bytes(paces: dict[str, float]) -> None:
    found = fuzz.run(3000, 60, 0, 2, paces)
    wrong = [finding for tally in found.values() for finding in tally.findings]
    assert wrong == []
    assert sum(tally.cases for tally in found.values()) > len(paces)


def _tally(reader: Reader, cases: int) -> Tally:
    tally = Tally()
    run_batch(reader, 0, range(cases), tally)
    return tally


def _fails(folder: Path) -> None:
    data = (folder / "input").read_bytes()
    if data == b"a":
        raise KeyError(data)
    if data == b"b":
        sys.exit(3)
    if data == b"c":
        while True:
            pass
    if data == b"d":
        len(b"x" * (600 << 20))
    if data == b"e":
        raise ValueError
    if data == b"f":
        bytearray(1 << 40)


@pytest.mark.slow
def test_what_ends_wrongly_is_found() -> None:
    """The fuzzer itself is no tool that cannot fail."""
    seeds = (b"ok", b"a", b"b", b"c", b"e", b"f")
    reader = Reader(name="broken", form="bytes", read=_fails, seeds=seeds, seconds=0.5, declared=(ValueError,))
    tally = _tally(reader, len(seeds))
    found = {finding.number: finding.what for finding in tally.findings}
    assert found.keys() == {1, 2, 3, 5}
    assert found[1].startswith("KeyError")
    assert found[2].startswith("SystemExit")
    assert "time" in found[3]
    assert "emory" in found[5]
    assert tally.cases == len(seeds)
    assert tally.ended["value"] >= 1
    assert tally.ended["ValueError"] == 1
    reader = replace(reader, seeds=(b"d",), seconds=10.0)
    assert [finding.what for finding in _tally(reader, 1).findings] == ["memory: too much"]


@pytest.mark.parametrize("form", BOMBS)
def test_a_case_follows_from_its_number(form: Form) -> None:
    seeds = {
        "json": b'{"a": [1, "b"]}', "lines": b'{"a": 1}\n{"b": 2}', "yaml": b"a: 1", "csv": b"a,b\n1,2\n",
        "pickle": b"N.",
        "zip": None, "npz": None, "torch": None, "safetensors": (2).to_bytes(8, "little") + b"{}",
    }  # fmt: skip
    seed = seeds.get(form, b"text")
    reader = Reader(
        name="r",
        form=form,
        read=lambda _: None,
        seeds=(zipped({"a.npy": b"\x93NUMPY\1\0\2\0{}"}) if seed is None else seed,),
    )
    drawn = range(len(BOMBS[form]) + 1, len(BOMBS[form]) + 60)
    once = [case(reader, reader.seeds, 0, number) for number in drawn]
    assert once == [case(reader, reader.seeds, 0, number) for number in drawn]
    assert once != [case(reader, reader.seeds, 1, number) for number in drawn]
