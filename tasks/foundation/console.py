"""The only place that writes to the terminal: results to standard output, talk to standard error.

Talk (`say`, `warn`, `meter`) goes to a listener: the terminal, unless `heard_by` names another one for a while.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from textwrap import TextWrapper
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


def _wrapped(text: str, console: Console) -> str:
    """Return a text like `_plain` whose lines end between words on a terminal; a long path stays in one piece."""
    text = printable(masked(text))
    if not (console.is_terminal and sys.stderr.isatty()):
        return escaped(text)
    shape = TextWrapper(width=console.width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.splitlines():
        shape.subsequent_indent = " " * (len(line) - len(line.lstrip()))
        lines.append(shape.fill(line))
    return escaped("\n".join(lines))


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

    def __init__(self) -> None:
        self._live: Console | None = None  # What shows a live line, above which all else is written.
        self.warned: set[str] | None = None  # What was warned of, where each warning is said once.

    def say(self, text: str) -> None:
        """Write a line."""
        console = self._live or _talk()
        console.print(_wrapped(text, console))

    def warn(self, text: str) -> None:
        """Write a line in another colour."""
        if self.warned is not None:
            if text in self.warned:
                return
            self.warned.add(text)
        console = self._live or _talk()
        console.print(f"[bold yellow]{_wrapped(text, console)}[/]")

    @contextmanager
    def meter(self, label: str, total: int, done: int) -> Iterator[Meter]:
        """Show one live line with rate, remaining time and status; where nobody watches, lines that tell the time."""
        console = _talk()
        # Some systems ask for colours in a log: it would hold thousands of copies of a line that is alive.
        if not (console.is_interactive and sys.stderr.isatty()):
            yield _LoggedMeter(label, total, done)
            return
        columns = (
            progress.TextColumn("{task.description}"), progress.BarColumn(None), progress.MofNCompleteColumn(),
            _RateColumn(), progress.TimeElapsedColumn(), progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[status]}"),
        )  # fmt: skip
        with _NamedColumns(*columns, console=console) as shown, _logs_above():
            shown.add_task(_plain(label), total=total, completed=done, status="", done_before=done)
            self._live = console
            try:
                yield _TerminalMeter(shown)
            finally:
                self._live = None


@contextmanager
def _logs_above() -> Iterator[None]:
    """Let what libraries log go above a live line: they keep the standard error that they found when they came."""
    loggers = (logging.getLogger(), *logging.Logger.manager.loggerDict.values())
    handlers = (one for logger in loggers if isinstance(logger, logging.Logger) for one in logger.handlers)
    streams = {one: one.stream for one in handlers if isinstance(one, logging.StreamHandler)}
    moved = {one: stream for one, stream in streams.items() if getattr(stream, "isatty", bool)()}
    for handler in moved:
        handler.setStream(sys.stderr)
    try:
        yield
    finally:
        for handler, stream in moved.items():
            handler.setStream(stream)


class Hushed(Terminal):
    """The listener of `--quiet`: of all talk only what must not be overlooked, once."""

    def __init__(self) -> None:
        super().__init__()
        self.warned = set()

    def say(self, text: str) -> None:
        """Say nothing."""

    @contextmanager
    def meter(self, label: str, total: int, done: int) -> Iterator[Meter]:
        """Show nothing."""
        del label, total, done
        yield Silent()


_terminal = Terminal()
_listeners: list[Listener] = [_terminal]


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Let another listener hear, in all threads of this process, what is said within the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


@contextmanager
def each_warning_once() -> Iterator[None]:
    """Let the terminal say each warning of the block once: several runs may have the same."""
    _terminal.warned = set()
    try:
        yield
    finally:
        _terminal.warned = None


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
        first, *others = _wrapped(f"Error: {error.problem}", console).splitlines()
        console.print(f"[bold red]Error:[/]{first.removeprefix('Error:')}", *others, sep="\n")
        if error.hint:
            console.print(_wrapped(error.hint, console))
    except (MemoryError, OSError, ImportError):
        # Where memory or open files ran out, rich cannot load what it prints with.
        sys.stderr.write(f"Error: {printable(masked(str(error)))}\n")


class _NamedColumns(progress.Progress):
    """One bar with names over its columns."""

    def make_tasks_table(self, tasks: Iterable[progress.Task]) -> Table:
        """Return the names and, below them, the bar."""
        # Not as wide as the terminal, where the echo of Ctrl-C would begin another line.
        width = self.console.width - 3 if hasattr(self, "live") else None
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim", width=width)
        table.add_column("now", no_wrap=True)
        table.add_column(ratio=1, min_width=4, max_width=40)
        for name in ("done", "speed", "passed", "left"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("of these", no_wrap=True)
        for task in tasks:
            table.add_row(*(column(task) for column in self.columns if not isinstance(column, str)))
        return table


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
        line = f"{clock} {self._label}: {self._done}/{self._total} | {rate:.1f}/s | {left} left | {self._status}"
        say(line.removesuffix(" | "))


def _spelled(seconds: float) -> str:
    """Return a time in its two largest units."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {int(hours % 24)} h"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(minutes)} min {int(seconds % 60)} s" if minutes >= 1 else f"{seconds:.0f} s"
