"""Texts as editors and spreadsheets save them: marks, UTF-16, half characters, old code pages, other separators."""

import json
from pathlib import Path

import pytest

from medbench.harness.predictions.formats import read_predictions
from medbench.harness.predictions.rows import Source
from medbench.tasks.catalog import get_task
from medbench.tasks.datasets.native import is_litter
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import decoded, table_rows, whole_characters

MARKED = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
ROWS = [
    {"prediction": "Größe 5 µm", "reference": "5 µm", "answer_type": "open "},
    {"prediction": None, "reference": "Yes", "answer_type": " Closed"},
]
JSON_LINES = "".join(f"{json.dumps(row, ensure_ascii=False)}\r\n" for row in ROWS)


@pytest.mark.parametrize("encoding", MARKED)
def test_predictions_are_read_however_they_were_saved(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(JSON_LINES.encode(encoding))
    found = read_predictions(Source(path=path), get_task("slake-vqa"))
    assert [one.prediction for one in found] == ["Größe 5 µm", None]
    assert [one.answer_type for one in found] == ["OPEN", "CLOSED"]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_an_old_code_page_is_refused_with_its_line(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_bytes(b'{"prediction": "a", "reference": "b"}\n' + JSON_LINES.encode(encoding))
    with pytest.raises(DataError, match=r"line 2 is not UTF-8 text: byte 0xf6") as raised:
        read_predictions(Source(path=path), get_task("slake-vqa"))
    assert "iconv" in raised.value.hint


def test_half_a_character_is_replaced_and_a_whole_one_kept(tmp_path: Path) -> None:
    text = r'{"prediction": "Yes \uD83D", "reference": "\ud83d\ude00 \\ud83d \udc00"}'
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    (found,) = read_predictions(Source(path=path), get_task("slake-vqa"))
    assert found.prediction == "Yes \ufffd"
    assert found.reference == "\U0001f600 \\ud83d \ufffd"
    assert whole_characters(rb'"\\\ud83d"') == rb'"\\\ufffd"'


def test_an_answer_that_is_not_a_number_is_one_that_failed(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"prediction": NaN, "reference": "yes"}\n')
    assert read_predictions(Source(path=path), get_task("slake-vqa"))[0].prediction is None
    path.write_text('{"prediction": "yes", "reference": NaN}\n')
    assert read_predictions(Source(path=path), get_task("slake-vqa"))[0].reference is None


HEADER = ["correct", "predicted", "F1", "BLEU", "recall", "correct tokens", "predicted tokens"]
LONG = "no " * 60_000


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("said", "mark"), [("", ","), ("", ";"), ("", "\t"), ("sep=;\r\n", ";"), ('"sep=|"\n', "|")])
def test_a_table_of_any_spreadsheet_with_cells_of_any_length(
    tmp_path: Path, encoding: str, said: str, mark: str
) -> None:
    rows = [HEADER, ["No", LONG, "1", "1", "1", "a", "b"], ["left, lower; lung", "x", "", "", "", "", ""]]
    lines = [mark.join(f'"{cell}"' for cell in row) for row in rows]
    path = tmp_path / "log.csv"
    path.write_bytes((said + "\r\n".join(lines) + "\r\n").encode(encoding))
    first, second = read_predictions(Source(path=path, form="multimedeval"), get_task("path-vqa"))
    assert (first.prediction, first.answer_type) == (LONG, "CLOSED")
    assert (second.reference, second.answer_type) == ("left, lower; lung", "OPEN")


def test_lines_are_counted_with_the_one_that_names_the_separator() -> None:
    rows = list(table_rows(b'sep=;\na;b\n1;"2\n3"\n\n4;5\n', "f", lambda row: row == ["a", "b"]))
    assert rows == [(2, ["a", "b"]), (4, ["1", "2\n3"]), (6, ["4", "5"])]


def test_a_broken_utf_16_text_is_refused() -> None:
    with pytest.raises(DataError, match="f, line 2 is not UTF-16-LE text"):
        decoded(b"\xff\xfea\0\n\0b", "f")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in (".DS_Store", "._scan.png", ".ipynb_checkpoints", "__MACOSX", "Thumbs.db")),
        *((name, True) for name in ("desktop.ini", "@eaDir", "$RECYCLE.BIN", "lost+found")),
        *((name, False) for name in ("xmlab1", "ct_00", "scan.png", "_masks", "Thumbs")),
    ],
)
def test_what_systems_leave_is_told_from_data(name: str, expected: bool) -> None:
    assert is_litter(name) == expected
