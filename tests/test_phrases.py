"""Phrases are found by name when a reader looks for them: every name stands in the table, and makes a pattern."""

import re

import pytest
from source_files import ROOT

from medbench.tasks.answers.wording import exactly, phrase, substituted, word_lists

_NAMED = re.compile(r"\b(phrase|exactly|substituted)\((?:[^()\"]*, )?\"([a-z_]+)\"")
_SOURCES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tasks" / "answers").glob("*.py")}
NAMES = sorted({found for source in _SOURCES.values() for found in _NAMED.findall(source)})


@pytest.mark.parametrize(("finder", "name"), NAMES)
def test_a_name_in_a_reader_is_a_pattern_of_the_table(finder: str, name: str) -> None:
    if finder == "substituted":
        assert substituted("plain", name) == "plain"
    else:
        assert (phrase(name, "A|B") if finder == "phrase" else exactly(name)).pattern


def test_nothing_in_the_table_is_left_over() -> None:
    table, sources = word_lists(), "".join(_SOURCES.values())
    written = (ROOT / "tasks" / "answers" / "words.yaml").read_text(encoding="utf-8")
    assert [name for name in table if f'"{name}"' not in sources and f"{{{name}}}" not in written] == []
