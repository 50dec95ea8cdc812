"""A few calls of each kind, of those that `make chaos` tries one by one: killed and failed, all must end well."""

import shutil
from pathlib import Path

import pytest

from benchmarks.chaos.__main__ import outcome, table, told
from benchmarks.chaos.calls import ERRORS, Point, points
from benchmarks.chaos.scenarios import SCENARIOS
from benchmarks.chaos.trial import Bench, Trial, contents, differences

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace, which kills and fails the calls, is missing: apt-get install strace"
)
SAMPLED = ("run", "merge in place", "site, in place of an older one", "export every-eval-ever", "train")

TRACE = """\
7 openat(AT_FDCWD</src>, "/w/.a.7.partial", O_WRONLY|O_CREAT|O_CLOEXEC, 0666) = 3</w/.a.7.partial>
7 openat(AT_FDCWD</src>, "/w/b", O_RDONLY|O_CLOEXEC) = 4</w/b>
8 write(3</w/.a.7.partial>, ""..., 10) = 10
7 write(3</w/.a.7.partial>, ""..., 10 <unfinished ...>
7 write(1</dev/null>, ""..., 10) = 10
7 write(3</w/.a.7.partial>, ""..., 10) = 10
7 <... write resumed>) = 10
7 rename("/w/.a.7.partial", "/w/a") = 0
7 unlinkat(5</w/old>, "gone", 0) = 0
7 openat(AT_FDCWD</src>, "/w/b", O_WRONLY|O_APPEND) = 4</w/b>
7 mkdir("/elsewhere/w", 0777) = 0
7 +++ exited with 0 +++
"""


def test_the_calls_that_change_something_are_found_by_thread_and_path() -> None:
    assert points(TRACE, Path("/w"), 7) == [
        Point("/w/.a.{pid}.partial", "openat", 1),
        Point("/w/.a.{pid}.partial", "write", 1),
        Point("/w/.a.{pid}.partial", "write", 1),
        Point("/w/.a.{pid}.partial", "write", 2),
        Point("/w/.a.{pid}.partial", "rename", 1),
        Point("/w/old", "unlinkat", 1),
        Point("/w/b", "openat", 2),
    ]
    words = Point("/w/.a.{pid}.partial", "write", 2).inject(9, "error=EIO")
    assert words == ["-P", "/w/.a.9.partial", "-e", "trace=write", "-e", "inject=write:error=EIO:when=2"]


def test_what_is_missing_other_or_left_over_is_told(tmp_path: Path) -> None:
    wanted = {"a": b"1", "b": b"2", "folder": b"folder"}
    (tmp_path / "folder").mkdir()
    for name, text in (("b", "3"), (".a.partial", "")):
        (tmp_path / name).write_text(text)
    found = contents(tmp_path)
    assert differences(found, wanted) == "missing: a; other: b; left over: .a.partial"
    assert differences(found, wanted, litter=False) == "missing: a; other: b"


@needs_strace
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SAMPLED)
def test_killed_or_failed_calls_end_well(name: str, tmp_path: Path) -> None:
    scenario = next(one for one in SCENARIOS if one.name == name)
    found = outcome(scenario, folder=tmp_path)
    assert {verdict.trial.point.name for verdict in found.verdicts} <= set(ERRORS)
    assert len(found.verdicts) > 30
    assert not list(told(found))
    assert f"| {name} | {found.calls} |" in table([found.cells()])


@needs_strace
@pytest.mark.slow
def test_what_does_not_end_well_is_seen(tmp_path: Path) -> None:
    bench = Bench(next(one for one in SCENARIOS if one.name == "leaderboard"), tmp_path / "bench")
    [renamed] = [point for point in bench.points if point.name == "rename"]
    ended = bench.verdict(Trial(renamed, "EIO"))
    assert ended.fault == ""
    assert "Input/output error" in ended.told
    assert "was not met" in bench.verdict(Trial(Point(renamed.path, "rename", 9), "EIO")).fault
    bench = Bench(bench.scenario, tmp_path / "other")
    bench.wanted["board.md"] += b"one line more"
    [renamed] = [point for point in bench.points if point.name == "rename"]
    assert "after the same command: other: board.md" in bench.verdict(Trial(renamed, "EROFS")).fault
