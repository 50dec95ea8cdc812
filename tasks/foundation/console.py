"""The only place that writes to the terminal: results to standard output, talk to standard error.

Talk (`say`, `warn`, `meter`) goes to a listener: the terminal, unless `heard_by` names another one for a while.
"""

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich import progress
from rich.console import Console
from rich.markup import escape as escaped
from rich.table import Table
from rich.text import Text

from medbench.tasks.foundation.confidential import masked
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.printable import printable

# Between two lines of progress in a log, in seconds, and as a share of the time that passed.
_SHORTEST_WAIT, _LONGEST_WAIT, _SHARE_WAITED = 10.0, 600.0, 0.02


def _talk() -> Console:
    return Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)


def _plain(text: str) -> str:
    """Return a text that is shown as it is: neither rich nor the terminal takes anything in it for its own."""
    return escaped(printable(masked(text)))


def emit(text: str) -> None:
    """Write a result (a table, a document) to standard output: as it is to a file, so that it is safe to a terminal."""
    text = printable(text) if sys.stdout.isatty() else text
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def emit_line(text: str, *, style: str = "") -> None:
    """Write a line of a result to standard output, on a terminal in a colour."""
    Console(soft_wrap=True, highlight=False, emoji=False).print(Text(printable(masked(text)), style=style))
    sys.stdout.flush()


def emit_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Write a table to standard output; columns whose cells are all numbers are right-aligned."""
    table = Table(title=_plain(title) or None, title_justify="left", header_style="bold", pad_edge=False, box=None)
    for index, column in enumerate(columns):
        numeric = bool(rows) and all(_is_number(row[index]) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160).print(table)
    sys.stdout.flush()


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).removesuffix("%").lstrip("-").isdigit() or cell in {"", "-"}


class Meter(Protocol):
    """A running count of items that are done."""

    def advance(self, count: int = 1, *, label: str | None = None, status: str | None = None) -> None:
        """Count `count` more items done, and show `label` and `status` from now on; by itself, show nothing."""
        del count, label, status


class Listener(Protocol):
    """Hears what is said while something works."""

    def say(self, text: str) -> None:
        """Hear a line of talk; by itself, do nothing."""
        del text

    def warn(self, text: str) -> None:
        """Hear a line that must not be overlooked; by itself, do nothing."""
        del text

    def meter(self, label: str, total: int, done: int) -> AbstractContextManager[Meter]:
        """Follow the progress of `total` items, of which `done` are already there."""


class Silent(Listener, Meter):
    """A listener that hears nothing."""

    @contextmanager
    def meter(self, label: str, total: int, done: int) -> Iterator[Meter]:
        """Show nothing."""
        del label, total, done
        yield self


class Logged(Silent):
    """A listener that hands on to a logger: talk as INFO, what must not be overlooked as WARNING."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("medbench")

    def say(self, text: str) -> None:
        """Log a line."""
        self._logger.info("%s", printable(masked(text)))

    def warn(self, text: str) -> None:
        """Log a warning."""
        self._logger.warning("%s", printable(masked(text)))


class Terminal(Listener):
    """The listener of the command line: standard error."""

    def say(self, text: str) -> None:
        """Write a line."""
        _talk().print(_plain(text))

    def warn(self, text: str) -> None:
        """Write a line in another colour."""
        _talk().print(f"[bold yellow]{_plain(text)}[/]")

    @contextmanager
    def meter(self, label: str, total: int, done: int) -> Iterator[Meter]:
        """Show one live line with rate, remaining time and status; where nobody watches, lines that tell the time."""
        console = _talk()
        # Some systems ask for colours in a log: it would hold thousands of copies of a line that is alive.
        if not (console.is_interactive and sys.stderr.isatty()):
            yield _LoggedMeter(label, total, done)
            return
        columns = (
            progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(),
            _RateColumn(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[status]}"),
        )  # fmt: skip
        with progress.Progress(*columns, console=console) as shown:
            shown.add_task(_plain(label), total=total, completed=done, status="", done_before=done)
            yield _TerminalMeter(shown)


_listeners: list[Listener] = [Terminal()]


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let another listener hear, in all threads of this process, what is said within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


def say(text: str) -> None:
    """Say a line of talk."""
    _listeners[-1].say(text)


def warn(text: str) -> None:
    """Say a line that must not be overlooked."""
    _listeners[-1].warn(text)


def meter(label: str, total: int, *, done: int = 0) -> AbstractContextManager[Meter]:
    """Show the progress of `total` items, of which `done` are already there."""
    return _listeners[-1].meter(label, total, done)


def show_error(error: MedbenchError) -> None:
    """Write what is wrong and what to do next to standard error."""
    try:
        console = _talk()
        console.print(f"[bold red]Error:[/] {_plain(error.problem)}")
        if error.hint:
            console.print(_plain(error.hint))
    except (MemoryError, OSError, ImportError):
        # Where memory or open files ran out, rich cannot load what it prints with.
        sys.stderr.write(f"Error: {printable(masked(str(error)))}\n")


class _RateColumn(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        """Return items per second of this process, without what an earlier one did."""
        done = task.completed - task.fields["done_before"]
        return Text(f"{done / task.elapsed if task.elapsed else 0.0:.1f}/s")


class _TerminalMeter(Meter):
    def __init__(self, shown: progress.Progress) -> None:
        self._shown = shown

    def advance(self, count: int = 1, *, label: str | None = None, status: str | None = None) -> None:
        task = self._shown.tasks[0]
        if status is not None:
            task.fields["status"] = _plain(status)
        self._shown.update(task.id, advance=count, description=None if label is None else _plain(label))


class _LoggedMeter(Meter):
    """Says a line every ten seconds at first, then ever more rarely: a week has about a thousand of them."""

    def __init__(self, label: str, total: int, done: int) -> None:
        self._label, self._total, self._done, self._before = label, total, done, done
        self._status = ""
        self._began = self._told = time.monotonic()

    def advance(self, count: int = 1, *, label: str | None = None, status: str | None = None) -> None:
        self._done += count
        self._label = self._label if label is None else label
        self._status = self._status if status is None else status
        now = time.monotonic()
        elapsed = now - self._began
        wait = min(_LONGEST_WAIT, max(_SHORTEST_WAIT, elapsed * _SHARE_WAITED))
        if self._done < self._total and now - self._told < wait:
            return
        self._told = now
        rate = (self._done - self._before) / elapsed if elapsed else 0.0
        left = _spelled((self._total - self._done) / rate) if rate else "?"
        clock = time.strftime("%Y-%m-%d %H:%M:%S")
        say(f"{clock} {self._label}: {self._done}/{self._total} | {rate:.1f}/s | {left} left | {self._status}")


def _spelled(seconds: float) -> str:
    """Return a time in its two largest units."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {int(hours % 24)} h"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(minutes)} min {int(seconds % 60)} s" if minutes >= 1 else f"{seconds:.0f} s"
