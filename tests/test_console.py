"""What a person sees on a terminal: one bar with names, talk above it, lines that end between words; -q hushes it."""

import io
import logging
import re
import sys
from collections.abc import Callable

import pytest
from command_line import medbench

from medbench.tasks.foundation.console import Hushed, Terminal

MARK = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Screen(io.StringIO):
    """Standard error of somebody who watches."""

    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        """Return what was written, without marks of colour and place."""
        return re.split("[\r\n]+", MARK.sub("", self.getvalue()))


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Screen]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")

    def begin() -> Screen:
        # Not before the test itself begins, since pytest puts its own in place then.
        shown = Screen()
        monkeypatch.setattr(sys, "stderr", shown)
        return shown

    return begin


def test_talk_and_logs_go_above_one_bar_with_names(watch: Callable[[], Screen]) -> None:
    screen, terminal, logger = watch(), Terminal(), logging.getLogger("somebody")
    logger.addHandler(handler := logging.StreamHandler(screen))
    with terminal.meter("vqa", 1819, 300) as meter:
        meter.advance(11, label="slake-vqa", status="2 empty")
        terminal.say("The self-test went well.")
        logger.warning("A library warns.")
    logger.removeHandler(handler)
    assert handler.stream is screen
    lines = screen.lines()
    names = [line.split() for line in lines if "passed" in line]
    assert names[-1] == ["now", "done", "speed", "passed", "left", "of", "these"]
    last = next(line for line in reversed(lines) if "slake-vqa" in line)
    assert "311/1819" in last
    assert last.rstrip().endswith("2 empty")
    assert len(last) <= 80
    for said in ("The self-test went well.", "A library warns."):
        [line] = (line for line in lines if said in line)
        assert line.strip() == said


def test_lines_end_between_words_and_paths_stay_whole(watch: Callable[[], Screen]) -> None:
    screen = watch()
    path = "/a/path/" + "x" * 90
    Terminal().warn(f"{'word ' * 20}{path}\n  {'indented ' * 12}")
    lines = [line for line in screen.lines() if line.strip()]
    assert path in lines
    assert all(len(line) <= 80 for line in lines if line != path)
    assert {word for line in lines for word in line.split()} == {"word", path, "indented"}
    assert lines[-1].startswith("  indented")


def test_quiet_keeps_warnings_each_once(watch: Callable[[], Screen]) -> None:
    screen, hushed = watch(), Hushed()
    hushed.say("a note")
    hushed.warn("a warning")
    hushed.warn("a warning")
    with hushed.meter("vqa", 10, 0) as meter:
        meter.advance(10)
    assert [line for line in screen.lines() if line] == ["a warning"]


def test_an_export_of_a_table_says_where_tables_are() -> None:
    told = medbench("export", "runs/x", "--format", "csv", "--output", "y")
    assert (told.returncode, "medbench leaderboard RUN --format csv" in told.stderr) == (2, True)


def test_groups_say_all_that_a_command_does() -> None:
    for group in ("audit", "data", "convert"):
        assert "..." not in medbench(group, "--help").stdout.partition("Commands:")[2]
    assert "Did you mean model?" in medbench("audit", "modl").stderr
