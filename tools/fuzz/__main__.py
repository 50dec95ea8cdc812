"""The command: so many cases over all readers, or as many as go into some seconds; a table of how they ended.

`python -m tools.fuzz --cases 1000000`; `--reader PART` for those whose name has it, `--case TEXT` for one that was
printed. It fails if a case ended as none may, and prints that case small enough to paste.
"""

import argparse
import base64
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path

import torch

from medbench.tasks.foundation.console import emit, say
from tools.fuzz import ROOT
from tools.fuzz.workers import (  # fmt: skip
    MEMORY,
    SECONDS,
    TEMPLATES,
    Finding,
    Reader,
    Tally,
    data_of,
    ended_so,
    run_batch,
    seeds_end,
    smaller,
)

PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- fuzz:begin -->", "<!-- fuzz:end -->"
_LONGEST = 200
_BATCH_SECONDS, _MOST_IN_A_BATCH = 1.0, 2000
_LEAST, _FIRST = 4, 40
_SECONDS_TO_MAKE_SMALLER = 60
READERS: dict[str, Reader] = {}


def load_readers(part: str = "") -> None:
    """Fill `READERS` with every reader whose name has a part, in order."""
    from tools.fuzz import files, models, texts

    for reader in (one for room in (texts, files, models) for one in room.readers()):
        if reader.name in READERS:
            raise ValueError(f"Two readers are called {reader.name!r}.")
        if part in reader.name:
            READERS[reader.name] = reader


def warm(folder: Path) -> dict[str, float]:
    """Build each reader's folder once and read its seeds; return the seconds of a case. ValueError if none is read."""
    # A pool of OpenMP's threads does not come along into a fork, which would wait for it for ever.
    torch.set_num_threads(1)
    seconds = {}
    for number, (name, reader) in enumerate(READERS.items()):
        own = folder / str(number)
        own.mkdir()
        reader.build(own)
        TEMPLATES[name] = own
        ended, seconds[name] = seeds_end(reader)
        if "value" not in ended:
            raise ValueError(f"No seed of {name} is read: {ended}.")
    return seconds


def shares(cases: int) -> dict[str, int]:
    """Return how many cases each reader gets: of so many in all its share, and some in any case."""
    whole = sum(reader.share for reader in READERS.values())
    return {
        name: max(len(reader.seeds) + _LEAST, round(cases * reader.share / whole)) for name, reader in READERS.items()
    }


def batches(counts: Mapping[str, int], seconds: Mapping[str, float]) -> Iterator[tuple[str, range]]:
    """Yield the batches, of all readers in turn, so that a run that ends early has seen them all."""

    def of(name: str) -> Iterator[tuple[str, range]]:
        size = max(1, min(_MOST_IN_A_BATCH, int(_BATCH_SECONDS / max(seconds[name], 1e-4))))
        start = 0
        while start < counts[name]:
            # The first batch is a small one.
            stop = min(counts[name], start + (size if start else min(size, _FIRST)))
            yield name, range(start, stop)
            start = stop

    for turn in zip_longest(*map(of, counts)):
        yield from filter(None, turn)


def _run(name: str, seed: int, numbers: range) -> Tally:
    tally = Tally()
    run_batch(READERS[name], seed, numbers, tally)
    return tally


def run(cases: int, seconds: float, seed: int, jobs: int, paces: Mapping[str, float]) -> dict[str, Tally]:
    """Run the cases until they or the seconds are over; return how they ended by reader."""
    found = {name: Tally() for name in READERS}
    until, running = time.monotonic() + seconds, dict[Future[Tally], str]()
    left = batches(shares(cases), paces)
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        while True:
            while len(running) < 2 * jobs and time.monotonic() < until and (batch := next(left, None)):
                running[pool.submit(_run, batch[0], seed, batch[1])] = batch[0]
            if not running:
                return found
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, told = running.pop(future), future.result()
                known = {one.what for one in found[name].findings}
                for what, number in {one.what: one.number for one in reversed(told.findings)}.items():
                    if what not in known:
                        say(f"{name}, case {number}: {what}")
                found[name].add(told)


def table(found: Mapping[str, Tally]) -> str:
    """Return how the cases of each reader ended, as a table in markdown."""
    lines = [
        "| read | cases | a value | a declared error | neither, or beyond the bounds | slowest, s |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for name, tally in found.items():
        errors = ", ".join(f"{kind} {count:,}" for kind, count in tally.ended.most_common() if kind != "value")
        row = (
            name,
            f"{tally.cases:,}",
            f"{tally.ended['value']:,}",
            errors,
            f"{len(tally.findings):,}",
            f"{tally.slowest:.2f}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def summary(found: Mapping[str, Tally], seed: int, seconds: float, jobs: int) -> str:
    """Return what was run, in a sentence."""
    cases, wrong = sum(one.cases for one in found.values()), sum(len(one.findings) for one in found.values())
    return (
        f"{cases:,} cases over {len(found)} readers (seed {seed}) in {seconds / 60:.0f} min in {jobs} processes: "
        f"{wrong:,} ended in neither a value nor a declared error, or took more than {SECONDS:g} s of the processor "
        f"(4 s where a model is loaded) or {MEMORY >> 20} MiB."
    )


def write_page(text: str) -> None:
    """Put a text between the marks of docs/reliability.md."""
    page = (
        PAGE.read_text(encoding="utf-8") if PAGE.is_file() else f"# Reliability\n\n## Hostile bytes\n\n{BEGIN}\n{END}\n"
    )
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


def show(findings: Sequence[Finding], seed: int) -> None:
    """Print one case of each kind of finding, made smaller, with the command that runs it again."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.reader, finding.what), []).append(finding)
    until = time.monotonic() + _SECONDS_TO_MAKE_SMALLER
    for (name, what), alike in kinds.items():
        data = data_of(READERS[name], seed, alike[0].number)
        if time.monotonic() < until:
            data = smaller(READERS[name], what, data)
        packed = base64.b85encode(zlib.compress(data, 9)).decode()
        say(
            f"{name}: {what} ({len(alike)} cases, the first has number {alike[0].number}), {len(data)} bytes: {data[:_LONGEST]!r}"
        )
        say(
            f"    python -m tools.fuzz --reader '{name}' --case '{packed if len(packed) <= 10 * _LONGEST else alike[0].number}'"
        )


def run_one(text: str, seed: int) -> int:
    """Run a case that was printed, by its text or its number; return the exit code."""
    [reader] = READERS.values()
    data = data_of(reader, seed, int(text)) if text.isdecimal() else zlib.decompress(base64.b85decode(text))
    ended, wrong = ended_so(reader, data)
    say(f"{data[:_LONGEST]!r} ended in {ended}{f': {wrong}' if wrong else ''}")
    return int(bool(wrong))


def main() -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.fuzz", description="Feed hostile bytes to every reader.")
    parser.add_argument("--cases", type=int, default=1_000_000, help="in all (default: a million)")
    parser.add_argument("--seconds", type=float, default=86_400.0, help="no new cases after so many")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", default="", help="only those whose name has this part; with --case its whole name")
    parser.add_argument("--case", default="", help="run one case, as it was printed or by its number")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    given = parser.parse_args()
    load_readers(given.reader)
    if given.case:
        for name in [name for name in READERS if name != given.reader]:
            del READERS[name]
        return run_one(given.case, given.seed)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        started = time.monotonic()
        paces = warm(Path(folder))
        say(f"{len(READERS)} readers, seeds read in {time.monotonic() - started:.0f} s")
        found = run(given.cases, given.seconds, given.seed, given.jobs, paces)
        told = summary(found, given.seed, time.monotonic() - started, given.jobs)
        emit(f"{table(found)}\n\n{told}\n")
        findings = [finding for tally in found.values() for finding in tally.findings]
        show(findings, given.seed)
    if given.write:
        write_page(f"{told}\n\n{table(found)}")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
