"""`python -m benchmarks.chaos`: kills commands at every system call, fails each of them, and prints what came of it.

Needs strace and Linux. `--sample` takes a few calls of each kind, `--write` puts the table into docs/reliability.md.
"""

import argparse
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks.chaos.scenarios import SCENARIOS, Scenario
from benchmarks.chaos.trial import ALL, Bench, Trial, Verdict, counted
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE
from medbench.tasks.foundation.files import canonical_json, read_json, write_atomically

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE, OUTPUT = ROOT / "docs" / "reliability.md", ROOT / "build" / "chaos.json"
SECTION = re.compile(r"(<!-- chaos:begin -->\n).*?(<!-- chaos:end -->)", re.DOTALL)
TOLD = """\
`make chaos` lets strace list every call of a command that changes something in its folder, and then runs the command
anew for each: killed just before the call, and with an error that such a call may return (EIO, ENOSPC, EDQUOT, EROFS,
EACCES, ENOLCK and others). It must end with the right files or with a sentence and exit code 1, never with a traceback
or a `done` that is not true, and the same command behind it must leave the bytes of an undisturbed one, and nothing
else. What may differ is seconds and speeds, in `env.json`, the report and a training's log. Of a file written in many
calls the first and every eighth are tried; TensorBoard's files and the one that safetensors writes first have names
that cannot be foretold and are left to the tests of full disks.
"""
HEADER = ["command", "calls", "kills", "errors", "ended well"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of all trials of a scenario."""

    name: str
    calls: int
    verdicts: Sequence[Verdict]
    seconds: float

    @property
    def faults(self) -> list[Verdict]:
        """Those that did not end well."""
        return [verdict for verdict in self.verdicts if verdict.fault]

    def cells(self) -> list[str]:
        """Return the row of the table."""
        kills, errors = counted([verdict.trial for verdict in self.verdicts])
        well = f"{len(self.verdicts) - len(self.faults)} of {len(self.verdicts)}"
        return [self.name, str(self.calls), str(kills), str(errors), well]


def share(name: str, folder: Path, number: int, of: int, errors: int) -> tuple[int, list[Verdict]]:
    """Try every `of`th trial of a scenario; no `errors` at each call mean a sample. Return calls and verdicts."""
    bench = Bench(next(one for one in SCENARIOS if one.name == name), folder / str(number))
    trials = bench.trials(errors) if errors else bench.sample()
    return len(bench.points), [bench.verdict(trial) for trial in trials[number::of]]


def outcome(scenario: Scenario, *, jobs: int = 1, errors: int = 0, folder: Path | None = None) -> Outcome:
    """Try a scenario in so many processes: with so many errors at each call, or a sample."""
    started = time.monotonic()
    base = Path(tempfile.mkdtemp(prefix="chaos-", dir=folder))
    try:
        with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("fork")) as pool:
            parts = [pool.submit(share, scenario.name, base, number, jobs, errors) for number in range(jobs)]
            found = [part.result() for part in parts]
    finally:
        shutil.rmtree(base, ignore_errors=True)
    verdicts = [verdict for _, some in found for verdict in some]
    return Outcome(name=scenario.name, calls=found[0][0], verdicts=verdicts, seconds=time.monotonic() - started)


def told(found: Outcome) -> Iterator[str]:
    """Yield a line for each trial that did not end well."""
    for verdict in found.faults:
        point: Trial = verdict.trial
        path = "/".join(Path(point.point.path).parts[-2:])
        yield f"{found.name}: {point.event} at {point.point.name} {point.point.number} of {path}: {verdict.fault}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return the table as markdown."""
    lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def kept(outcomes: Sequence[Outcome]) -> list[list[str]]:
    """Keep the rows of what was tried in a file; return them with those that it holds of other scenarios."""
    known = read_json(OUTPUT) if OUTPUT.exists() else {}
    known |= {one.name: one.cells() for one in outcomes}
    write_atomically(OUTPUT, canonical_json(known, indent=2))
    return [known[one.name] for one in SCENARIOS if one.name in known]


def write_page(rows: Sequence[Sequence[str]]) -> None:
    """Put the table between the marks of docs/reliability.md."""
    page = PAGE.read_text(encoding="utf-8")
    write_atomically(PAGE, SECTION.sub(lambda match: f"{match[1]}{TOLD}\n{table(rows)}{match[2]}", page))


def chosen(names: Sequence[str] | None) -> list[Scenario]:
    """Return the scenarios of these names, or whose names begin so where none has that name; all without names."""
    exact = {one.name for one in SCENARIOS}.intersection(names or ())
    begun = tuple(name for name in names or ("",) if name not in exact)
    return [one for one in SCENARIOS if one.name in exact or one.name.startswith(begun)]


def main() -> int:
    """Try the scenarios that are asked for, print the table and what did not end well."""
    parser = argparse.ArgumentParser(description="Kill commands at every system call, and fail each of them.")
    parser.add_argument("--scenario", action="append", help="One of them alone, by the beginning of its name.")
    parser.add_argument("--sample", action="store_true", help="A kill and each error at some calls of each kind.")
    parser.add_argument("--errors", type=int, default=ALL, help="How many errors at each call; the next takes others.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="How many processes.")
    parser.add_argument("--folder", type=Path, help="Where they work.  [default: the system's temporary folder]")
    parser.add_argument("--write", action="store_true", help="Write the table into docs/reliability.md.")
    given = parser.parse_args()
    if shutil.which("strace") is None:
        say("strace is not installed, and it is what kills and fails the calls: apt-get install strace (Linux).")
        return EXIT_USAGE
    outcomes: list[Outcome] = []
    for scenario in chosen(given.scenario):
        errors = 0 if given.sample else given.errors
        outcomes.append(outcome(scenario, jobs=given.jobs, errors=errors, folder=given.folder))
        shown = (f"{head} {cell}" for head, cell in zip(HEADER, outcomes[-1].cells(), strict=True))
        say(f"{', '.join(shown)}, {outcomes[-1].seconds:.0f} s")
        for line in told(outcomes[-1]):
            say(line)
    emit_table(HEADER, [one.cells() for one in outcomes])
    rows = kept(outcomes)
    if given.write:
        write_page(rows)
    return EXIT_FAILED if any(one.faults for one in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
