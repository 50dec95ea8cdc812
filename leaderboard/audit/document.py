"""What every audit comes to: one document, shown as a table on the terminal, JSON, markdown or HTML.

The page is made by the templates from what JSON has. The same audit gives the same bytes.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from medbench.tasks.foundation.console import emit, emit_line, emit_table, say, warn
from medbench.tasks.foundation.files import canonical_json, read_yaml_table, write_atomically
from medbench.tasks.foundation.printable import printable
from medbench.tasks.spec import Kind

if TYPE_CHECKING:
    from jinja2 import Environment

Verdict = Literal["not_testable", "no_evidence", "suspicious", "strong"]
"""`not_testable` is not `no_evidence`: nothing could have been found."""
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
EXIT_CODES: dict[Verdict, int] = {"no_evidence": 0, "suspicious": 3, "strong": 4, "not_testable": 5}
FOUND: tuple[Verdict, ...] = ("strong", "suspicious")
WORDS: dict[Verdict, str] = {verdict: verdict.replace("_", " ") for verdict in VERDICTS}
_STYLES: Mapping[Verdict, str] = {
    "strong": "bold red", "suspicious": "bold yellow", "no_evidence": "bold green", "not_testable": "bold",
}  # fmt: skip
_HERE = Path(__file__).parent
_SCHEMA = 2
_DIGITS = 6
_MOST_NAMED = 4


@cache
def wording(audit: str) -> dict[str, Any]:
    """Return the long texts of an audit, from `wording.yaml`."""
    return dict(read_yaml_table(_HERE / "wording.yaml")[audit])


def strongest(verdicts: Iterable[Verdict], *, incomplete: bool | None = None) -> Verdict:
    """Return the strongest of several verdicts.

    `incomplete` says whether something needed could not be seen, so that nothing found is no answer; if it is None each
    verdict was needed, and one `not_testable` leaves no all-clear.
    """
    found = set(verdicts)
    missing = "not_testable" in found if incomplete is None else incomplete
    nothing: Verdict = "no_evidence" if "no_evidence" in found and not missing else "not_testable"
    return next((verdict for verdict in FOUND if verdict in found), nothing)


def sentence(kind: str, verdict: Verdict, found: Sequence[tuple[str, Verdict, str]]) -> str:
    """Return a verdict in one sentence; `found` has title, verdict and reason of each task, the reason may be empty.

    The same everywhere: on the terminal, on the audit's page, in a report and over a leak.
    """
    told: Mapping[Verdict, str] = wording("sentences")[kind]
    text, named = told[verdict], [(title, reason) for title, one, reason in found if one == verdict]
    several = len(named) > 1 and verdict in FOUND
    # Predictions without a task stand under their kind.
    titles = [
        f"{title} ({reason})" if several and reason else title for title, reason in named if title not in get_args(Kind)
    ]
    if titles:
        text += f" on {some(titles)}"
    if len(named) == 1 and named[0][1]:
        text += f": {named[0][1]}"
    rest = sum(one == "not_testable" for _, one, _ in found)
    if rest and verdict != "not_testable":
        text += f". {rest} other {'task' if rest == 1 else 'tasks'} could not be tested"
    return f"{text.rstrip('.')}."


def some(names: Sequence[str]) -> str:
    """Return names as a part of a sentence, a few of them where they are many."""
    shown = names if len(names) <= _MOST_NAMED + 1 else [*names[:_MOST_NAMED], f"{len(names) - _MOST_NAMED} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def headline_of(document: object, titles: Mapping[str, str]) -> str:
    """Return the sentence over an audit that was read from a file, older ones too; `titles` are those of tasks."""
    audit = document if isinstance(document, dict) else {}
    verdicts = audit.get("verdicts")
    pairs = verdicts.items() if isinstance(verdicts, dict) else ()
    found = [(titles.get(task, task), verdict, "") for task, verdict in pairs if verdict in VERDICTS]
    told = audit.get("headline")
    return told if isinstance(told, str) and told else sentence("model", strongest(one for _, one, _ in found), found)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskVerdict:
    """What an audit says of one task."""

    title: str  # name of the task for people
    verdict: Verdict
    short: str = ""  # what it rests on, in the few words that follow a verdict
    text: str = ""  # what it rests on, in a sentence or two
    cells: Sequence[object] = ()  # its row of the audit's table; none to have no row
    facts: Mapping[str, Any] = field(default_factory=dict)  # the most telling numbers, by name
    details: Mapping[str, Any] = field(default_factory=dict)  # all numbers, as JSON has them
    silent: bool = False  # whether a terminal, which has the table, need not say the text


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Something for a person to look at: what it is, by name, and its texts; none where nobody may see them."""

    task: str
    facts: Mapping[str, Any]
    texts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """The answer to a question about leaks."""

    kind: str  # which audit: `model`, `selftest`, `data`, `probe` or `provenance`; names the template of its tables
    title: str  # heading of the page
    question: str  # what was asked, in a sentence or two
    tasks: Mapping[str, TaskVerdict]  # what was found, by task
    columns: Sequence[str]  # of the table with a row for each task, which is what a terminal shows
    right: int = 0  # how many of them, at the end, are aligned to the right
    run: str = ""  # identity of the run; empty where there is none
    told: str = ""  # the sentence over it where no verdict comes out and none was asked for
    incomplete: bool = False  # whether something needed could not be seen, so that nothing found is no answer
    notes: Sequence[str] = ()  # what must be said beside the verdicts
    limits: Sequence[str] = ()  # what was not checked
    examples: Sequence[Example] = ()  # what a person can look at
    alternatives: Sequence[str] = ()  # other explanations of what was found
    advice: Sequence[str] = ()  # what to do next
    trust: Sequence[str] = ()  # whether the test works on these data: what its controls say
    marks: Mapping[str, str] = field(default_factory=dict)  # marks of datasets, by task
    settings: Mapping[str, Any] = field(default_factory=dict)  # all that the answer depends on, by name
    command: str = ""  # how to make it again
    revealed: bool = False  # whether texts of credentialed datasets are shown

    @property
    def verdicts(self) -> dict[str, Verdict]:
        """The verdict by task."""
        return {task: found.verdict for task, found in self.tasks.items()}

    @property
    def verdict(self) -> Verdict:
        """The strongest verdict."""
        return strongest(self.verdicts.values(), incomplete=self.incomplete)

    @property
    def headline(self) -> str:
        """The verdict in one sentence; what was seen, where there is none."""
        if self.told and self.verdict == "not_testable":
            return self.told
        return sentence(self.kind, self.verdict, [(one.title, one.verdict, one.short) for one in self.tasks.values()])

    @property
    def tone(self) -> Verdict:
        """The verdict that its colour stands for: a self-test is in order where its planted leak is found."""
        found = self.verdict in FOUND
        in_order: Verdict = "no_evidence" if found else "strong"
        return in_order if self.kind == "selftest" and self.verdict != "not_testable" else self.verdict

    @property
    def code(self) -> int:
        """The exit code of a command: 0 nothing found, 3 suspicious, 4 strong, 5 could not check."""
        return EXIT_CODES[self.verdict]

    @property
    def rows(self) -> list[list[str]]:
        """The rows of the table, the strongest verdicts first."""
        ordered = sorted(self.tasks.values(), key=lambda one: -VERDICTS.index(one.verdict))
        return [[str(cell) for cell in one.cells] for one in ordered if one.cells]

    def to_dict(self) -> dict[str, Any]:
        """Return the audit as plain values, floats with six digits: libraries differ in the last ones."""
        told = {task: {"verdict": one.verdict, "text": one.text} for task, one in self.tasks.items()}
        found: dict[str, Any] = plain({
            "schema": _SCHEMA, "question": self.kind, "title": self.title, "run": self.run, "verdict": self.verdict,
            "headline": self.headline, "verdicts": self.verdicts, "marks": self.marks,
            "findings": [{"task": task, **told[task], **one.facts} for task, one in self.tasks.items()],
            "tasks": {task: {**told[task], **one.details} for task, one in self.tasks.items()},
            "examples": [{"task": one.task, **one.facts, "texts": one.texts} for one in self.examples],
            "notes": self.notes, "limits": self.limits, "alternative_explanations": self.alternatives,
            "next": self.advice, "trust": self.trust,
            "rebuttal": None, "settings": self.settings, "revealed": self.revealed,
        }, digits=_DIGITS)  # fmt: skip
        return found

    def to_json(self) -> str:
        """Return `to_dict` as text, its keys in order."""
        return f"{canonical_json(self.to_dict(), indent=2)}\n"

    def to_markdown(self) -> str:
        """Return the audit as a page; what comes from data stays text."""
        return re.sub(r"\n{3,}", "\n\n", rendered("page.md", audit=self)).strip("\n") + "\n"

    def to_html(self) -> str:
        """Return the page as an HTML document that loads nothing and runs nothing."""
        from medbench.leaderboard.render import html_document

        return html_document(self.title, self.to_markdown(), tone=self.tone)

    _repr_markdown_ = to_markdown


def show(audit: Audit, form: str, output: Path | None, *, name: str) -> int:
    """Print an audit as `table`, `markdown`, `json` or `html`, write it where asked, or a RunError; return its code."""
    written = write_audit(audit, output, name=name) if output is not None else []
    if form == "table":
        emit_line(audit.headline, style=_STYLES[audit.tone])
    if form != "json":
        for note in audit.notes:
            warn(note)
    if form == "table":
        emit_table(audit.columns, audit.rows, title=audit.title)
        for one in audit.tasks.values():
            if one.text and not one.silent:
                say(f"{one.title}: {one.text}")
        for line in (*audit.trust, *(f"What to do next: {one}" for one in audit.advice)):
            say(line)
    else:
        emit({"markdown": audit.to_markdown, "json": audit.to_json, "html": audit.to_html}[form]())
    if written:
        say(f"Wrote {', '.join(map(str, written))}.")
    if audit.revealed:
        warn("This report holds texts of credentialed datasets. Do not pass it on.")
    return audit.code


def write_audit(audit: Audit, output: Path, *, name: str) -> list[Path]:
    """Write an audit and return the paths.

    `output` is a folder for `NAME.json`, `NAME.md` and `NAME.html`; or one file, whose ending says its form.
    """
    forms = {".json": audit.to_json, ".md": audit.to_markdown, ".html": audit.to_html}
    paths = [output] if output.suffix in forms else [output / f"{name}{suffix}" for suffix in forms]
    for path in paths:
        write_atomically(path, forms[path.suffix]())
    return paths


def percent(share: float | None, digits: int = 1) -> str:
    """Return a share as a percentage; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def p_text(p: float | None, least: float = 1e-300) -> str:
    """Return a p value with two digits that say something, none smaller than `least`; a dash where there is none."""
    if p is None:
        return "-"
    return f"< {least:g}" if p < least else f"{p:.2g}"


def rendered(template: str, **content: object) -> str:
    """Return the text of a template; whatever comes from data must go through its filter `md`."""
    return printable(_templates().get_template(template).render(content))


@cache
def _templates() -> "Environment":
    from medbench.leaderboard.render import environment, markdown_text

    found = environment(_HERE / "templates")
    found.filters |= {
        "flat": lambda values: list(flat(plain(values, digits=_DIGITS))), "md": lambda cell: markdown_text(str(cell)),
        "p": p_text, "percent": percent, "wording": wording, "words": WORDS.__getitem__,
    }  # fmt: skip
    return found


def flat(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield plain values as names and texts; what is nested has the names on the way to it before its own."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", text) for inner, text in flat(value))
        else:
            yield name, ", ".join(map(str, value)) if isinstance(value, list) else f"{value}"


def plain(value: Any, *, digits: int | None = None) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return records, mappings and sequences as JSON has them; with `digits` floats are rounded, None if not finite.

    Fields of a record that it does not show in its `repr` are left out.
    """
    if isinstance(value, float) and digits:
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    if is_dataclass(value):
        value = {one.name: getattr(value, one.name) for one in fields(value) if one.repr}
    if isinstance(value, Mapping):
        return {str(name): plain(one, digits=digits) for name, one in value.items()}
    return [plain(one, digits=digits) for one in value] if isinstance(value, list | tuple) else value
