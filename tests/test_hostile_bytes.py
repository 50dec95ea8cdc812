"""Bytes and texts from outside end in a sentence; none steers a terminal, takes the machine or starts a program."""

import ast
import hashlib
import json
import pickle
import re
import shutil
import struct
import sys
import time
import tracemalloc
from pathlib import Path

import pytest
from PIL import Image

from medbench.adapters.uni_med import MINI_WEIGHTS
from medbench.harness.settings import Settings
from medbench.leaderboard.render import markdown_code, markdown_text
from medbench.tasks.datasets.restricted_pickle import load_plain_pickle
from medbench.tasks.foundation import console
from medbench.tasks.foundation.confidential import masked
from medbench.tasks.foundation.errors import DataError, SampleError, UsageError
from medbench.tasks.foundation.files import (
    fingerprint,
    json_value,
    parse_yaml_table,
    read_json,
    read_json_lines,
    write_atomically,
)
from medbench.tasks.foundation.model_files import refuse_stand_ins
from medbench.tasks.foundation.printable import printable
from medbench.tasks.images import image_size
from medbench.unimed.checkpoint import read_config

ROOT = Path(__file__).parent.parent
ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
STEERING = "\x1b]0;owned\x07\x1b[2J\x9b31m\x00 \u202egnp.exe\u2066 \ud83d"


# Texts


def test_what_steers_a_terminal_is_shown_as_its_number() -> None:
    shown = printable(f"a\tb\nc {STEERING} é 肺 🫁")
    assert shown.startswith("a\tb\nc \\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\x00 \\u202egnp.exe\\u2066 \\ud83d é 肺 🫁")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", shown)


@pytest.mark.parametrize("told", ["say", "warn", "error", "table", "meter", "document"])
def test_nothing_that_is_said_reaches_a_terminal_as_it_came(
    told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if told == "document":
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        console.emit(STEERING)
    elif told == "meter":
        with console.meter(STEERING, 1) as meter:
            meter.advance(1, label=STEERING, status=STEERING)
    elif told == "table":
        console.emit_table(["a"], [[STEERING]], title=STEERING)
    elif told == "error":
        console.show_error(UsageError(STEERING, STEERING))
    else:
        getattr(console, told)(STEERING)
    shown = "".join(capsys.readouterr())
    assert "\\x1b" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud83d]", shown)


def test_markdown_has_no_control_characters_either() -> None:
    for one in (markdown_text(STEERING), markdown_code(STEERING)):
        assert "\x1b" not in one
        assert "\\x1b" in one


def test_rich_takes_nothing_for_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    console.say("[red]not red[/] [link=x]y[/link]")
    assert "[red]not red[/] [link=x]y[/link]" in capsys.readouterr().err


# Documents


DEEP = "[" * 100_000
LONG = "9" * 5000


@pytest.mark.parametrize("text", [DEEP, DEEP + "]" * 100_000, LONG, '{"a": ' * 50_000, "\ud800"])
def test_json_that_is_deep_or_long_is_a_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"results\.json"):
        read_json(file)
    with pytest.raises(DataError, match="line 1 is not JSON"):
        list(read_json_lines(file))
    with pytest.raises(ValueError, match=r"."):
        json_value(text)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join([f'*{chr(97 + n)}'] * 9)}]}}\n" for n in range(9)
)


@pytest.mark.parametrize(
    "text",
    [BOMB, MERGES, "a: " + "[" * 50_000, "a: " + "{a: " * 50_000, f"a: {LONG}", "a: 2001-99-99", "a: \x00", "- a",
     "a: *b", "? [" * 40_000],
)  # fmt: skip
def test_yaml_that_grows_nests_or_counts_without_end_is_a_sentence(text: str) -> None:
    started = time.perf_counter()
    with pytest.raises(UsageError, match=r"run\.yaml"):
        parse_yaml_table(text, "run.yaml")
    assert time.perf_counter() - started < 1


def test_yaml_with_aliases_as_it_is_written_is_read() -> None:
    assert parse_yaml_table("a: &x [1, 2]\nb: *x\nc: {<<: {d: 1}}", "run.yaml") == {
        "a": [1, 2],
        "b": [1, 2],
        "c": {"d": 1},
    }


def test_a_flipped_bit_in_a_pickle_takes_no_memory(tmp_path: Path) -> None:
    file = tmp_path / "train.pkl"
    file.write_bytes(bytes.fromhex("80044e72000000102e"))
    tracemalloc.start()
    assert load_plain_pickle(file) is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    file.write_bytes(pickle.dumps([{"image": "a", "question": "q" * 300}] * 400))
    assert load_plain_pickle(file) == [{"image": "a", "question": "q" * 300}] * 400


# Images


def test_no_file_starts_a_program_or_stops_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostScript would be handed to Ghostscript, a DDS header without flags raised what no reader promises."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    dds = struct.pack("<4s7I44x8I200x", b"DDS ", 124, 0, 16, 16, 0, 0, 0, 32, *[0] * 7)
    files = {
        "a.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n", "b.png": dds,
        "c.jpg": b"\0\0\1\0\1\0" + bytes(100), "d.png": b"SIMPLE  =                    T" + b" " * 3000,
    }  # fmt: skip
    for name, content in files.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(SampleError, match=f"{name} cannot be decoded"):
            image_size(file)
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000"])
def test_the_formats_of_medical_data_are_read_whatever_their_name(form: str, tmp_path: Path) -> None:
    file = tmp_path / "scan.dat"
    Image.new("RGB", (7, 5), "grey").save(file, format=form)
    assert image_size(file) == (7, 5)


# Files


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with pytest.raises(Exception, match="No space left"):
            write_atomically(tmp_path / "results.json", "{}")
    assert list(tmp_path.iterdir()) == []


# The rule


def _calls(tree: ast.Module) -> set[str]:
    return {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}


def test_there_is_one_door_for_each_kind_of_bytes() -> None:
    """Readers that know no bound are called in one place each, which has the bounds."""
    files, console_file = "tasks/foundation/files.py", "tasks/foundation/console.py"
    doors = {
        "json.loads": {files, "tasks/answers/thoughts.py"}, "json.load": set(), "yaml.load": set(),
        "np.load": {"unimed/interpret/streaming.py"},  # mapped, not read
        "yaml.safe_load": {"leaderboard/export/formats.py"}, "pickle.load": set(), "pickle.loads": set(),
        "Image.open": {"tasks/images.py"}, "torch.load": {"unimed/weights.py"}, "print": set(),
        "Console": {console_file}, "sys.stdout.write": {console_file},
    }  # fmt: skip
    found: dict[str, set[str]] = {name: set() for name in doors}
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for name in _calls(ast.parse(file.read_text(encoding="utf-8"))) & doors.keys():
                found[name].add(file.relative_to(ROOT).as_posix())
    assert found == doors


# Configurations


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_key_value_heads": -4}, "num_key_value_heads is -4"),
        ({"hidden_size": 10**12}, "hidden_size is 1000000000000"),
    ],
)
def test_sizes_that_no_model_has_are_refused_before_it_is_built(
    change: dict[str, int], problem: str, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(MINI_WEIGHTS, tmp_path / "mini"))
    file = folder / "config.json"
    values = json_value(file.read_text(encoding="utf-8"))
    values["text_config"] |= change
    file.write_text(json.dumps(values), encoding="utf-8")
    started = time.perf_counter()
    with pytest.raises(DataError, match=problem):
        read_config(folder)
    with pytest.raises(DataError, match=problem):
        refuse_stand_ins(folder)
    assert time.perf_counter() - started < 1


# Secrets


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at https://me:hunter2@host/v1?key=hunter2&a=1#x", "at https://[secret]@host/v1?key=[secret]&a=1#x"),
        ("https:/me:hunter2@host is no run", "https:/[secret]@host is no run"),
        ("http://a:p@ss@host:1/x@y", "http://[secret]@host:1/x@y"), ("?api_key=hunter2'", "?api_key=[secret]'"),
        ("the token hf_abcdefghijklmnopqrstuvwx.", "the token [secret]."),
        ("open sesame-0123 now", "open [secret] now"),
        ("openai:org/model@https://host/v1", "openai:org/model@https://host/v1"),
        ("hf:/models@2024", "hf:/models@2024"),
        ("me@host, https://host/@x?monkey=1", "me@host, https://host/@x?monkey=1"),
    ],
)  # fmt: skip
def test_what_is_secret_is_not_shown(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMEBODYS_API_KEY", "sesame-0123")
    monkeypatch.setenv("SHORT_KEY", "v1")
    assert masked(text) == shown
    if shown != text:
        with pytest.raises(UsageError, match="holds a password or a key"):
            Settings(model="mock", model_args={"system": text})


def test_a_fingerprint_is_made_of_whatever_others_wrote() -> None:
    """Numbers and characters that JSON does not have end in a fingerprint, and change none that there was."""
    assert fingerprint({"a": float("-inf")}) == fingerprint({"a": None}) != fingerprint({"a": "\ud83d"})
    assert fingerprint({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
