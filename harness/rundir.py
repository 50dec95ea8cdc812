"""A run's folder: the records of its answers, who may write to it, and when it is done.

Records are JSON lines that only grow, which makes them the checkpoint of a run. One process writes at a time: who comes
second is refused before it loads weights, and again at the run's own folder. Only shards write beside one another, each
to a folder of its own with a lock of its own (`medbench.harness.shards`). The locks are the operating system's: what a
killed process held is free at once.
"""

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any

import yaml
from filelock import FileLock, Timeout
from pydantic import ConfigDict, TypeAdapter, ValidationError

from medbench.adapters.base import Generation
from medbench.adapters.catalog import ChosenModel
from medbench.adapters.remote import Served, ServedGeneration
from medbench.harness.engine.requests import Outcome
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, Workload
from medbench.tasks.answers.thoughts import ThoughtAndAnswer
from medbench.tasks.foundation import files
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import canonical_json, encodable, fingerprint, write_atomically
from medbench.tasks.foundation.last_resort import kept_in

_MORE_SPACE = "Free some space or mend the folder's permissions; the same command continues where this one stopped."
_OTHER_FOLDER = "Give a folder that you may write to with --output-dir."
SHARDS = "shards"
"""The folder in that of a run where each shard has one of its own."""
LOCK = ".lock"
"""What a process that answers a shard, or writes an --output, holds in its folder."""
_ONLY_IF_SET = frozenset({"thought_tokens", "reasoning", "served", "kind"})
# File systems allow 255 bytes; names of served models with their addresses may be longer.
_SLUG_CHARACTERS = 80
_DIGITS = 12
_PATIENCE = 600.0  # Seconds in which all shards of a large run begin or end one after the other, and one merges.
# What changes no answer (batch size: in float32; the type is not known yet), or is told better by data and model.
_NOT_IN_THE_KEY = frozenset({
    "output_dir", "batch_size", "data_dir", "tasks", "model_args", "workers", "lock", "fail_on_error", "retry_errors",
    "cache", "metrics",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRecord(Generation):
    """One answer of a model, or the reason why there is none."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    run: str  # Identity of the run that made it.
    sample_id: str
    text: str = ""
    error: str = ""  # Why the sample failed; empty otherwise. Then `text` is empty.
    kind: str = ""  # Of what kind that is, see `FailureKind`; empty where nothing failed, or nobody said.
    served: Served | None = None  # What a server said of its answer; None for a model that is not served.

    @classmethod
    def of(cls, run: str, outcome: Outcome) -> "GenerationRecord":
        """Return the record of an outcome."""
        said = outcome.generation
        if said is None:
            return cls(run=run, sample_id=outcome.sample_id, error=encodable(outcome.error), kind=outcome.kind)
        given = {one.name: getattr(said, one.name) for one in fields(Generation)}
        given |= {"text": encodable(said.text), "reasoning": encodable(said.reasoning)}
        served = said.served if isinstance(said, ServedGeneration) else None
        return cls(run=run, sample_id=outcome.sample_id, served=served, **given)

    def as_json(self) -> dict[str, Any]:
        """Return the record as plain values."""
        return {name: value for name, value in asdict(self).items() if value or name not in _ONLY_IF_SET}


_RECORD = TypeAdapter(GenerationRecord)
Recorded = Mapping[str, Mapping[str, GenerationRecord]]
"""Records by task and by sample, in the order of the samples."""


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

        DataError if another line is broken; RunError if a record is of another run or of no sample of the task.
        """
        if not self.path.exists():
            return {}
        order = {sample_id: index for index, sample_id in enumerate(self.sample_ids)}
        way_out = "Start afresh with --overwrite always, or put the run's own file back."
        found = {}
        for number, line in files.read_numbered_json_lines(self.path, torn_tail="drop"):
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

    def refuse_if_gone(self) -> None:
        """Raise a RunError if the file is no longer there."""
        if not self.path.exists():
            raise _gone(self.path)

    def rewrite(self, records: Iterable[GenerationRecord]) -> None:
        """Replace the file by `records`: the bytes of a finished run do not depend on the order of work."""
        write_atomically(self.path, files.json_lines(record.as_json() for record in records))


def open_whole_lines(path: Path) -> IO[bytes]:
    """Return a file of JSON lines, cut behind its last whole line, ready for more; RunError if it cannot be."""
    with _writing(f"Cannot write {path}", _MORE_SPACE):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+b")
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
    return stream


def append_lines(stream: IO[bytes], lines: Iterable[Mapping[str, Any]]) -> None:
    """Append JSON lines, all synced to the disk at the end.

    RunError if the disk is full, and what was there before stays; or if the file was removed, or its disk is gone.
    """
    with _writing(f"Cannot write {stream.name}", _MORE_SPACE):
        for line in lines:
            stream.write(f"{canonical_json(line)}\n".encode())
            stream.flush()
        os.fsync(stream.fileno())
    # Without a name in its folder a file takes all that is written, and it is lost when the process ends.
    if not os.path.lexists(stream.name):
        raise _gone(stream.name)


def _gone(name: object) -> RunError:
    """Return the error for a file of a run that was removed while the run went on."""
    way_out = "Bring its folder or its disk back; the same command answers what is missing there then."
    return RunError(f"{name} is gone: it was removed while the run went on, or its disk is no longer there.", way_out)


def make_folder(path: Path, output: Path | None = None, hint: str = _OTHER_FOLDER) -> None:
    """Make a folder of a run where there is none; RunError, about the `output` it lies in, if none can write to it."""
    with _writing(f"The output folder {output or path.parent} cannot be written to", hint):
        path.mkdir(parents=True, exist_ok=True)
        (path / ".writable").touch()
        # Shards that begin at once take it from one another.
        (path / ".writable").unlink(missing_ok=True)


@contextmanager
def _writing(problem: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"{problem}: {error.strerror or error}.", hint) from error


class BusyError(RunError):
    """Another process holds what this one needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDirectory:
    """The folder of one run; in the end it has a file `done`: all was answered without failure and written."""

    path: Path
    identity: str  # A hash over everything that can change an answer.

    def generations(self, task: str, sample_ids: Sequence[str]) -> RecordFile:
        """Return the generation records of a task."""
        return RecordFile(self.path / "generations" / f"{task}.jsonl", self.identity, sample_ids)

    def of_task(self, load: TaskLoad) -> RecordFile:
        """Return the generation records of a run's task."""
        return self.generations(load.spec.name, [sample.sample_id for sample in load.samples])

    def scores(self, task: str) -> Path:
        """Return the file of a task's per-sample scores."""
        return self.path / "scores" / f"{task}.jsonl"

    def refuse_if_gone(self, tasks: Iterable[str]) -> None:
        """Raise a RunError if what the run wrote is no longer there, its answers of some tasks included.

        Folders are made where they miss, so a folder that was removed, or whose disk was taken away, would come back
        with numbers and without the answers that they were made of.
        """
        for file in (self.path / "run.yaml", *(self.path / "generations" / f"{task}.jsonl" for task in tasks)):
            if not file.exists():
                raise _gone(file)

    def clear_left_over(self) -> None:
        """Remove what writers that were killed had begun; nobody else may be writing to the run's own files."""
        for file in (path for path in self.path.rglob(".*.partial") if path.is_file()):
            with suppress(OSError):
                file.unlink()


def directory_of(settings: Settings, suite: str, parts: Mapping[str, object]) -> RunDirectory:
    """Return the folder of a run, which may not be there yet; arguments are those of `open_run`."""
    identity = fingerprint(parts)[:_DIGITS]
    probe = f"-{settings.probe}" if settings.probe else ""
    # The readable part of the name; what makes it unique is the identity.
    slug = re.sub(r"[^a-z0-9.]+", "-", str(parts["model"]).lower())[:_SLUG_CHARACTERS].strip("-.")
    path = settings.output_dir.absolute() / f"{slug}-{suite}{probe}-{identity}"
    return RunDirectory(path=path, identity=identity)


@contextmanager
def open_run(
    settings: Settings, suite: str, parts: Mapping[str, object], *, overwrite: str = "never", shard: bool = False
) -> Iterator[RunDirectory]:
    """Make or reopen the folder of a run, and hold it against other processes.

    `parts` is everything that can change an answer, see `medbench.harness.identity`; to overwrite `always` throws away
    what an earlier run left. A `shard` may come in beside others, and waits while one of them holds the folder, which
    is short unless it merges. RunError if the folder cannot be written to or holds another run, BusyError if it is in
    use.
    """
    directory = directory_of(settings, suite, parts)
    path, identity = directory.path, directory.identity
    make_folder(path)
    with held_run(path, wait=_PATIENCE if shard else 0.0, lock=settings.lock), kept_in(path):
        if not shard and settings.lock:
            refuse_beside_shards(path)
        if not shard or not shards_at_work(path):
            directory.clear_left_over()
        if overwrite == "always":
            for item in path.iterdir():
                (shutil.rmtree if item.is_dir() and not item.is_symlink() else Path.unlink)(item)
        if not (path / "run.yaml").exists():
            # A cache is the machine's: a run is the same bytes with and without one.
            said = {name: value for name, value in settings.as_yaml().items() if name != "cache"}
            document = {"identity": identity, "settings": said, "identity_of": dict(parts)}
            write_atomically(path / "run.yaml", yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
        elif read_run(path)["identity"] != identity:
            hint = "Give another --output-dir, or --overwrite always."
            raise RunError(f"{path / 'run.yaml'} belongs to another run.", hint)
        yield directory


def read_run(path: Path) -> dict[str, Any]:
    """Return the content of a run's `run.yaml`; RunError if there is none, or not the one that the run wrote."""
    file = path / "run.yaml"
    if not file.is_file():
        raise RunError(f"{path} is no run: it has no run.yaml.", "Give a folder that `medbench run` made.")
    document = files.read_yaml_table(file)
    parts = document.get("identity_of")
    if not isinstance(document.setdefault("settings", {}), dict):
        raise RunError(f"{file} has no table of settings.", "Restore the file or run again.")
    if not isinstance(parts, dict) or document.get("identity") != fingerprint(parts)[:_DIGITS]:
        raise RunError(f"{file} was changed: its identity is not that of its parts.", "Restore the file or run again.")
    return document


@contextmanager
def held_run(path: Path, *, wait: float = 0.0, lock: bool = True) -> Iterator[None]:
    """Hold the folder of a run against other processes; BusyError if one still does after `wait` seconds."""
    with held(path.with_name(f".{path.name}.lock"), f"Another process is writing to {path}.", wait=wait, lock=lock):
        yield


def shards_at_work(path: Path) -> list[str]:
    """Return which shards of a run are being answered, as `2/8`; nobody begins another while the run is held."""
    found = []
    for lock in sorted(path.glob(f"{SHARDS}/*/{LOCK}")):
        try:
            with held(lock, ""):
                pass
        except BusyError:
            found.append(lock.parent.name.replace("-of-", "/"))
    return found


def refuse_beside_shards(path: Path) -> None:
    """Raise a BusyError while shards of a run are being answered."""
    if busy := shards_at_work(path):
        problem = f"Other processes are answering shards of {path}: {', '.join(busy)}."
        raise BusyError(problem, "Wait for them: the last one merges. Or give another --output-dir.")


@contextmanager
def held(file: Path, problem: str, *, wait: float = 0.0, lock: bool = True) -> Iterator[None]:
    """Hold a lock file; BusyError that says `problem` if another process still does after `wait` seconds.

    Without `lock` nothing is held, for file systems that cannot: whoever asks for that sees to it that no other process
    writes there.
    """
    if not lock:
        yield
        return
    # A lock that is only a file would outlive its holder.
    own = FileLock(file, timeout=0, fallback_to_soft=False)
    try:
        try:
            own.acquire()
        except Timeout:
            if not wait:
                raise
            say(f"{problem} This one waits for it.")
            own.acquire(timeout=wait)
    except Timeout as error:
        raise BusyError(problem, "Wait for it, or give another output folder.") from error
    except (OSError, NotImplementedError) as error:
        way_out = "Give an output folder whose file system has locks, or --no-lock if no other process writes there."
        raise RunError(f"{file} cannot be locked: {error}.", way_out) from error
    try:
        yield
    finally:
        own.release()


@contextmanager
def held_output(folder: Path, problem: str, *, lock: bool = True) -> Iterator[None]:
    """Make the folder of an --output where there is none, and hold it while something is written into it, see `held`.

    UsageError if it is a file; RunError if it cannot be written to.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder} is a file, not a folder.", "Give a folder, which need not be there yet.")
    make_folder(folder, folder, "Give a folder that you may write to with --output.")
    with held(folder / LOCK, problem, lock=lock), kept_in(folder):
        yield


@contextmanager
def held_before_loading(settings: Settings, workload: Workload, model: ChosenModel, shard: str = "") -> Iterator[None]:
    """Hold an output folder for these settings while the weights are loaded and answer; RunError if another does.

    Each `shard`, by its name, is held for itself.

    A run's identity is known only when its weights are; what was said of it is known at once. Nothing of it stays:
    neither the lock, whose name tells no address of a server, nor folders that were made for it and are empty.
    """
    folder = settings.output_dir.absolute()
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    said = {name: value for name, value in settings.as_yaml().items() if name not in _NOT_IN_THE_KEY}
    data = {load.spec.name: load.prepared.manifest.data_fingerprint for load in workload.loads}
    key = fingerprint({"settings": said, "arguments": model.identity, "data": data, "shard": shard})[:_DIGITS]
    lock = folder / f".loading-{key}.lock"
    with _writing(f"The output folder {folder} cannot be written to", _OTHER_FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
        lock.touch()
    try:
        problem = f"Another process is writing to {folder}, with this model and these settings."
        with held(lock, problem, lock=settings.lock):
            try:
                yield
            finally:
                with suppress(OSError):
                    lock.unlink()
    finally:
        for path in made:
            # What is in use or not empty stays.
            with suppress(OSError):
                path.rmdir()
