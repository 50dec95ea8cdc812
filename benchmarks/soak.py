"""Large runs from end to end: is memory flat, what does safety cost, how large are the pages, can a log be read?

    make soak                                     everything; the engine takes most of the time
    python -m benchmarks.soak direct boards       some sections; `--samples N` for another size, `--write` for the docs

Sections: `direct` (a model that needs no engine, and all that is made of its run), `engine` (the same questions through
the engine), `boards` (two hundred runs in one table, one report, one site), `log` (what a week's run says where nobody
watches). Each command is a process of its own (`benchmarks.soak_inside`); seconds are those of the processor, which
other work on the machine lengthens least.
"""

import io
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import click

from benchmarks.soak_data import TASK, multiply, prepare
from benchmarks.soak_inside import MEGABYTE
from medbench.tasks.foundation.console import Silent, Terminal, emit_table, heard_by, say

SAMPLES, RUNS = 100_000, 200
ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
_BETWEEN = re.compile(r"(<!-- soak:begin -->\n).*(<!-- soak:end -->)", re.DOTALL)
_WEEK = 7 * 86400
_ANSWERS = 10_000_000
_SOURCES = ("blind", "mock:oracle", "mock:thinking", "mock:rambling")


@dataclass(frozen=True, slots=True)
class Table:
    """What a section found."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def direct(folder: Path, samples: int) -> list[Table]:
    """Answer by a model that needs no engine, then do all that can be done with the run."""
    data = prepare(folder, samples)
    run = medbench(*_run("mock:oracle", data, folder / "runs"))
    [made] = (folder / "runs").glob("mock*")
    again = {
        "the same command again": _run("mock:oracle", data, folder / "runs"), "score": ("score", made),
        "report": ("report", made, "--output", folder / "report.html"),
        "breakdown": ("breakdown", made, "--output", folder / "breakdown.md"),
        "export --format parquet": ("export", made, "--format", "parquet", "--output", folder / "scores.parquet"),
    }  # fmt: skip
    rows = [_row(name, medbench(*words)["stages"]["whole"]) for name, words in again.items()]
    written = _written(folder, made)
    commands = Table("What is made of the run", ("command", "CPU seconds", "MB before", "MB at most"), rows, written)
    return [_stages("`mock:oracle`, a direct model", samples, run, made), commands]


def engine(folder: Path, samples: int) -> list[Table]:
    """Answer the same questions through the engine."""
    run = medbench(*_run("mock", prepare(folder, samples), folder / "runs"), "--batch-size", "64")
    [made] = (folder / "runs").glob("mock*")
    table = _stages("`mock`, a random model in the engine", samples, run, made)
    return [Table(table.title, table.heads, table.rows, (*table.notes, *_written(folder, made)))]


def boards(folder: Path, runs: int = RUNS) -> list[Table]:
    """Put two hundred runs of twelve tasks side by side in every form."""
    for model in _SOURCES:
        medbench("run", "--model", model, "--output-dir", folder / "sources")
    multiply(sorted((folder / "sources").glob("[!.]*-mini-*")), runs, folder / "runs")
    forms: dict[str, tuple[Path, tuple[object, ...]]] = {
        **{
            f"leaderboard --format {form}": (
                folder / f"board.{form}",
                ("leaderboard", folder / "runs", "--format", form),
            )
            for form in ("markdown", "csv", "latex", "json")
        },
        "site": (folder / "site" / "index.html", ("site", folder / "runs")),
        "report": (folder / "report.html", ("report", folder / "runs")),
    }
    rows = []
    for name, (target, words) in forms.items():
        took = medbench(*words, "--output", target.parent if name == "site" else target)["stages"]["whole"]
        size = target.stat().st_size / MEGABYTE
        rows.append([*_row(name, took), f"{size:.1f}", f"{_opened(target):.1f}" if target.suffix == ".html" else ""])
    heads = ("command", "CPU seconds", "MB before", "MB at most", "MB of the page", "seconds to open in Chromium")
    return [Table(f"{runs} runs of the mini suite's twelve tasks", heads, rows)]


def log() -> list[Table]:
    """Count the lines of a week in which ten million answers come, where nobody watches."""
    heard = _Heard()
    with heard_by(heard):
        said_in_a_week(_ANSWERS, _WEEK)
    cells = [f"{_ANSWERS:,}", str(len(heard.lines)), f"{sum(map(len, heard.lines)) / 1000:.0f}", f"`{heard.lines[-2]}`"]
    return [Table("A week's log", ("answers", "lines", "kB", "one of them"), [cells])]


def said_in_a_week(answers: int, seconds: float, batch: int = 100) -> None:
    """Let a run's progress go from its first answer to its last by a clock of its own, where nobody watches."""
    now = 0.0
    clock = SimpleNamespace(
        monotonic=lambda: now, strftime=lambda form: time.strftime(form, time.gmtime(now))
    )  # fmt: skip
    with (
        patch("medbench.tasks.foundation.console.time", clock),
        redirect_stderr(io.StringIO()),
        Terminal().meter(TASK, answers, 0) as meter,
    ):
        for done in range(batch, answers + 1, batch):
            now = seconds * done / answers
            meter.advance(batch, status=f"{done - done // 97} answered, {done // 97} empty")


class _Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def medbench(*words: object) -> dict[str, Any]:
    """Run a command in a process of its own and return what it took; it must end well."""
    with TemporaryDirectory() as folder:
        took = Path(folder) / "took.json"
        command = [sys.executable, "-m", "benchmarks.soak_inside", str(took), *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
        if done.returncode or not took.exists():
            raise SystemExit(
                f"medbench {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr[-2000:]}"
            )
        found: dict[str, Any] = json.loads(took.read_text(encoding="utf-8"))
        return found


def _run(model: str, data: Path, output: Path) -> tuple[object, ...]:
    return ("run", "--model", model, "--tasks", TASK, "--data-dir", data, "--output-dir", output)


def _row(name: str, took: Mapping[str, float]) -> list[str]:
    return [name, f"{took['cpu']:.1f}", f"{took['before']:.0f}", f"{took['peak']:.0f}"]


def _stages(what: str, samples: int, run: Mapping[str, Any], made: Path) -> Table:
    rows = [_row(stage, took) for stage, took in run["stages"].items()]
    phases = json.loads((made / "env.json").read_text(encoding="utf-8"))["phases"]
    written, spent = phases["seconds"]["write"], sum(phases["seconds"].values())
    marks = thirds(run["progress"])
    speeds = ((after[1] - before[1]) / max(1e-3, after[0] - before[0]) for before, after in pairwise(marks))
    by_third = ", ".join(f"{speed:,.0f}" for speed in speeds)
    grown = f"from {marks[1][2]:.0f} MB after a third to {marks[-1][2]:.0f} MB at the end"
    cost = f"{1e6 * written / samples:,.0f} µs, {100 * written / spent:.1f} % of the run"
    notes = (
        f"Answers a second, by thirds: {by_third}. Memory while answering: {grown}.",
        f"To have an answer safe on the disk took {cost}. The command said {run['lines']} lines.",
    )
    return Table(f"{samples:,} questions to {what}", ("stage", "CPU seconds", "MB before", "MB at most"), rows, notes)


def thirds(progress: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return where a progress (seconds, done, megabytes) stood at its beginning, after each third, and at its end."""
    total = progress[-1][1]
    return [min(progress, key=lambda one: abs(one[1] - total * third / 3)) for third in range(4)]


def _written(folder: Path, made: Path) -> tuple[str, ...]:
    files = [made / "generations", made / "scores", made / "report.html", *folder.glob("*.parquet")]
    sizes = {
        one.name: sum(file.stat().st_size for file in ([one] if one.is_file() else one.iterdir())) for one in files
    }
    return (f"On the disk: {', '.join(f'{name} {size / MEGABYTE:.0f} MB' for name, size in sizes.items())}.",)


def _opened(page: Path) -> float:
    """Return the seconds that Chromium takes to open a page and draw it."""
    sys.path.append(str(ROOT / "tests"))
    from browser import CHROMIUM, chromium

    if CHROMIUM is None:
        return float("nan")
    with chromium() as tab:
        started = time.perf_counter()
        tab.open(page)
        tab.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(1))))")
        return time.perf_counter() - started


def as_markdown(tables: Sequence[Table]) -> str:
    """Return the tables as a section of the docs."""
    parts = []
    for table in tables:
        lines = [table.heads, ["---", *["---:"] * (len(table.heads) - 1)], *table.rows]
        parts.append(
            "\n".join(
                [
                    f"**{table.title}.**",
                    "",
                    *(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines),
                ]
            )
        )
        parts += ["\n".join(table.notes)] if table.notes else []
    return "\n\n".join(parts) + "\n"


@click.command()
@click.argument("sections", nargs=-1, type=click.Choice(["direct", "engine", "boards", "log"]))
@click.option("--samples", type=click.IntRange(min=100), default=SAMPLES, show_default=True)
@click.option("--write", is_flag=True, help="Put the tables into docs/reliability.md.")
def main(sections: Sequence[str], samples: int, *, write: bool) -> None:
    """Measure and print; all sections by default."""
    of_samples: dict[str, Callable[[Path, int], list[Table]]] = {"direct": direct, "engine": engine}
    tables: list[Table] = []
    for section in sections or ("direct", "engine", "boards", "log"):
        with TemporaryDirectory() as folder:
            if section in of_samples:
                found = of_samples[section](Path(folder), samples)
            else:
                found = boards(Path(folder)) if section == "boards" else log()
        for table in found:
            emit_table(table.heads, table.rows, title=table.title)
            for note in table.notes:
                say(note)
        tables += found
    if write:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(_BETWEEN.sub(lambda part: f"{part[1]}{as_markdown(tables)}{part[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
