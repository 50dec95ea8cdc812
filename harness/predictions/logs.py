"""What lm-eval, lmms-eval and Inspect log of each sample, as `formats.md` beside this file shows it."""

import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from pydantic import Field, TypeAdapter

from medbench.harness.predictions.rows import Prediction, Source, Text, expected, parse_lines
from medbench.harness.predictions.tables import guessed_columns
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import utf8
from medbench.tasks.foundation.printable import printable
from medbench.tasks.spec import TaskSpec
from medbench.tasks.validation import NativeRow, parse_json, read_bytes

# lm-eval and lmms-eval

_LM_EVAL_FORM = "Expected: the samples_TASK_DATE.jsonl that lm-eval or lmms-eval writes with --log_samples."


class _Logged(NativeRow):
    doc_id: int
    target: Any = None
    filter: str = ""
    filtered_resps: list[Any] = Field(min_length=1)
    resps: list[Any] = Field(default_factory=list)
    arguments: Any = None
    input: Any = None
    doc: Any = None


def read_lm_eval(source: Source, _spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the raw answers of a log in the order of the questions, whatever lm-eval's filters made of them."""
    found: dict[int, tuple[str, _Logged]] = {}
    filters: dict[str, None] = {}
    for where, row in parse_lines(source.path, TypeAdapter(_Logged), _LM_EVAL_FORM):
        filters[row.filter] = None
        if row.filter == next(iter(filters)) and found.setdefault(row.doc_id, (where, row))[0] != where:
            raise DataError(f"{where} has the doc_id of {found[row.doc_id][0]}.", "Keep the log of one run.")
    if len(filters) > 1:
        warn(f"{source.path.name}: of the filters {', '.join(filters)} the lines of the first are read.")
    return (_of_log(*found[doc_id]) for doc_id in sorted(found))


def _of_log(where: str, row: _Logged) -> Prediction:
    asked = [_values(one) for one in _values(row.arguments)]
    about, prompt = _about(row.doc), asked[0][0] if asked and asked[0] else row.input
    about.setdefault("question", prompt if isinstance(prompt, str) else "")
    target = row.target[0] if isinstance(row.target, list) and row.target else row.target
    reference = None if target is None else str(target)
    said = row.resps or row.filtered_resps
    if (chosen := _likeliest(said)) is None:
        first = said[0][0] if isinstance(said[0], list) and said[0] else said[0]
        if not isinstance(first, str):
            raise DataError(f"{where}, field resps: its first answer is no text.", _LM_EVAL_FORM)
        return Prediction(where=where, prediction=first, reference=reference, **about)
    options = [str(one[1]).strip() if len(one) > 1 else "" for one in asked]
    if len(options) != len(said) or not all(options):
        raise DataError(f"{where}, field arguments: the options are not there whose likelihoods are.", _LM_EVAL_FORM)
    if reference is not None and reference.isdecimal() and int(reference) < len(options):
        reference = options[int(reference)]
    choices = {option: option for option in options} if reference in options else {}
    return Prediction(where=where, prediction=options[chosen], reference=reference, choices=choices, **about)


def _values(nested: object) -> Sequence[Any]:
    return list(nested.values()) if isinstance(nested, dict) else nested if isinstance(nested, list) else ()


def _likeliest(responses: Sequence[object]) -> int | None:
    """Return the place of the greatest of log likelihoods, each `[[number, is greedy]]`; None of other answers."""
    numbers = []
    for one in responses:
        inner = one[0] if isinstance(one, list) and len(one) == 1 else one
        if not (isinstance(inner, list) and [str(flag) for flag in inner[1:]] in (["True"], ["False"])):
            return None
        try:
            numbers.append(float(inner[0]))
        except (TypeError, ValueError):
            return None
    return numbers.index(max(numbers))


def _about(doc: object) -> dict[str, Any]:
    """Return what a dataset's own row says of which question it is."""
    plain = {name: str(one) for name, one in doc.items() if isinstance(one, str | int)} if isinstance(doc, dict) else {}
    names = guessed_columns(list(plain))
    return {ours: plain[names[ours]] for ours in ("sample_id", "question", "image") if ours in names}


# Inspect

_INSPECT_FORM = (
    "Expected: a log of Inspect, a .eval file or the .json that `inspect log convert --to json` makes of it."
)
_MOST_BYTES = 1 << 28  # Of a sample; what is longer is cut, and then no JSON.
_ZSTANDARD, _KNOWS_ZSTANDARD = 93, (3, 14)
_UNPACKING = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, OSError, RuntimeError, ValueError
)  # fmt: skip
_CUT = frozenset({"max_tokens", "model_length"})
_ATTACHED = "attachment://"


class _Asked(NativeRow):
    id: Text
    epoch: int = 1
    input: str | list[dict[str, Any]] = ""
    target: str | list[str] = ""
    choices: list[str] | None = None
    output: dict[str, Any] = Field(default_factory=dict)
    error: dict[str, Any] | None = None
    attachments: dict[str, str] = Field(default_factory=dict)


class _Log(NativeRow):
    samples: list[_Asked]


def read_inspect(source: Source, _spec: TaskSpec) -> Iterator[Prediction]:
    """Yield the answers of a log's first epoch."""
    path = source.path
    data = read_bytes(path)
    if data.startswith(b"PK"):
        rows = list(_unpacked(path, data))
    else:
        with expected(_INSPECT_FORM):
            samples = parse_json(_Log, utf8(data, str(path)), str(path)).samples
        rows = [(f"{path}, sample {place}", row) for place, row in enumerate(samples)]
    first = min((row.epoch for _, row in rows), default=1)
    if others := sum(row.epoch != first for _, row in rows):
        warn(f"{path.name}: {others} answers of further epochs are left out.")
    for where, row in rows:
        if row.epoch == first:
            yield _of_sample(where, row)


def _unpacked(path: Path, data: bytes) -> Iterator[tuple[str, _Asked]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(member.compress_type == _ZSTANDARD for member in archive.infolist()):
                _learn_zstandard(path)
            names = [name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json")]
            for name in dict.fromkeys(names):
                with archive.open(name) as stream:
                    text = stream.read(_MOST_BYTES)
                where = f"{path}, {printable(name)}"
                with expected(_INSPECT_FORM):
                    yield where, parse_json(_Asked, utf8(text, where), where)
    except _UNPACKING as error:
        raise DataError(f"{path} cannot be unpacked: {error}.", _INSPECT_FORM) from error


def _learn_zstandard(path: Path) -> None:
    if sys.version_info < _KNOWS_ZSTANDARD:
        try:
            import_module("zipfile_zstd")
        except ImportError as error:
            way_out = "pip install zipfile-zstd; or convert it: inspect log convert LOG --to json --output-dir DIR"
            raise UsageError(f"{path} is packed with zstandard, which this Python does not know.", way_out) from error


def _of_sample(where: str, row: _Asked) -> Prediction:
    ends = row.output.get("choices")
    end = ends[0] if isinstance(ends, list) and ends and isinstance(ends[0], dict) else {}
    message = end.get("message")
    said = row.output.get("completion") or _words(message.get("content") if isinstance(message, dict) else "")
    target = row.target if isinstance(row.target, str) else next(iter(row.target), "")
    choices = dict(zip(ascii_uppercase, row.choices or (), strict=False))
    key = target if target in choices else next((key for key, text in choices.items() if text == target), "")
    asked = row.input if isinstance(row.input, str) else [one for one in row.input if one.get("role") == "user"]
    question = asked if isinstance(asked, str) else _words(asked[-1].get("content")) if asked else ""
    failed = row.error is not None or not row.output
    return Prediction(
        where=where, prediction=None if failed else _found(str(said), row), reference=key or target,
        choices=choices if key else {}, sample_id=row.id, question=_found(question, row),
        stop="length" if str(end.get("stop_reason")) in _CUT else "eos",
    )  # fmt: skip


def _words(content: object) -> str:
    """Return the texts of a message, which has one, or parts of which some are texts."""
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def _found(text: str, row: _Asked) -> str:
    return row.attachments.get(text.removeprefix(_ATTACHED), text) if text.startswith(_ATTACHED) else text
