"""Generation records: append-only JSON lines that are the checkpoint of a run."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from medbench.adapters.base import Generation
from medbench.adapters.remote import Served, ServedGeneration
from medbench.harness.engine.requests import Outcome
from medbench.tasks.answers.thoughts import ThoughtAndAnswer
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import canonical_json, json_lines, read_numbered_json_lines, write_atomically
from medbench.tasks.foundation.text import encodable

_ONLY_IF_SET = frozenset({"thought_tokens", "reasoning", "served"})


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord(Generation):
    """One answer of a model, or the reason why there is none."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    run: str  # Identity of the run that made it.
    sample_id: str
    text: str = ""
    error: str = ""  # Why the sample failed; empty otherwise. Then `text` is empty.
    served: Served | None = None  # What a server said of its answer; None for a model that is not served.

    @classmethod
    def of(cls, run: str, outcome: Outcome) -> "GenerationRecord":
        """Return the record of an outcome."""
        said = outcome.generation
        if said is None:
            return cls(run=run, sample_id=outcome.sample_id, error=encodable(outcome.error))
        given = {one.name: getattr(said, one.name) for one in fields(Generation)}
        given |= {"text": encodable(said.text), "reasoning": encodable(said.reasoning)}
        served = said.served if isinstance(said, ServedGeneration) else None
        return cls(run=run, sample_id=outcome.sample_id, served=served, **given)

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return {name: value for name, value in asdict(self).items() if value or name not in _ONLY_IF_SET}


_RECORD = TypeAdapter(GenerationRecord)


def thinks(said: ThoughtAndAnswer, one: Generation) -> bool:
    """Return whether an answer begins with a thought, in its text or filed apart by a server."""
    return said.unfinished or bool(said.thought or one.reasoning or one.thought_tokens)


def is_cut_off(said: ThoughtAndAnswer, one: Generation) -> bool:
    """Return whether an answer, or the thought before it, was ended by the limit of tokens."""
    return said.unfinished or (one.stop == "length" and (bool(said.answer) or thinks(said, one)))


@dataclass(frozen=True, slots=True)
class RecordFile:
    """The generations of one task, `generations/<task>.jsonl`: those of a run, and of the samples of the task alone."""

    path: Path
    run: str
    sample_ids: Sequence[str]

    def read(self) -> dict[str, GenerationRecord]:
        """Return what is there by sample, in the order of the samples; one torn last line is ignored.

        Raises DataError if another line is broken; RunError if a record belongs to another run or to no sample of the
        task.
        """
        if not self.path.exists():
            return {}
        order = {sample_id: index for index, sample_id in enumerate(self.sample_ids)}
        way_out = "Start afresh with --overwrite always, or put the run's own file back."
        found = {}
        for number, line in read_numbered_json_lines(self.path, torn_tail="drop"):
            where = f"{self.path}, line {number}"
            try:
                record = _RECORD.validate_python(line)
            except ValidationError as error:
                raise RunError(f"{where} is no generation record: {error.errors()[0]['msg']}.", way_out) from error
            if record.run != self.run:
                raise RunError(f"{where} was made by run {record.run}, not by this run {self.run}.", way_out)
            if record.sample_id not in order:
                raise RunError(f"{where} answers {record.sample_id!r}, which is no sample of this run.", way_out)
            found[record.sample_id] = record
        return dict(sorted(found.items(), key=lambda item: order[item[0]]))

    def rewrite(self, records: Iterable[GenerationRecord]) -> None:
        """Replace the file by `records`: the bytes of a finished run do not depend on the order of work."""
        write_atomically(self.path, json_lines(record.as_json() for record in records))


def open_whole_lines(path: Path) -> IO[bytes]:
    """Return a file of JSON lines, cut behind its last whole line, ready for more.

    Raises RunError if it cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
    except OSError as error:
        raise _unwritable(path, error) from error
    return stream


def append_lines(stream: IO[bytes], lines: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines, each flushed, all synced to the disk at the end.

    Raises RunError if the disk takes no more; what was appended before stays.
    """
    try:
        for line in lines:
            stream.write(f"{canonical_json(line)}\n".encode())
            stream.flush()
        os.fsync(stream.fileno())
    except OSError as error:
        raise _unwritable(Path(stream.name), error) from error


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"Cannot write {path}: {error.strerror or error}.",
        "Free some space or mend the folder's permissions; the same command continues where this one stopped.",
    )
