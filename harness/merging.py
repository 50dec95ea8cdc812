"""The shards of a run become one run: by the last of them, or by `medbench merge`, which needs no model.

Cut short at any point, either can be done again, with the same bytes: the shards go when all is written.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medbench.harness import shards
from medbench.harness.failing import failures_of
from medbench.harness.finish import Answers, Publish, RunOutcome, finished
from medbench.harness.models import ModelFacts
from medbench.harness.phases import Phases
from medbench.harness.remote.serving import changes_in, joined_notes
from medbench.harness.rundir import RunDirectory, held_run, make_folder, read_run, refuse_beside_shards
from medbench.harness.score import Reopened, reopen
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import write_atomically

_SHOWN, _LONGEST = 3, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Merger:
    """The parts of one run, all of whose samples may be there."""

    run: Reopened
    sources: Sequence[RunDirectory]  # Where the records are, the run's own folder among them if it has some.
    facts: ModelFacts
    found: shards.Found

    @classmethod
    def of(cls, run: Reopened, sources: Sequence[RunDirectory]) -> "Merger":
        """Read what folders hold of a run; RunError if none tells which model answered, or a record is broken."""
        facts = shards.noted_facts(sources)
        found = shards.recorded(sources, run.workload.answerable(facts.kinds))
        return cls(run=run, sources=sources, facts=facts, found=found)

    def missing(self, split: int = 0) -> dict[shards.Shard, int]:
        """Return how many samples have no record, by shard; of so many shards, or of as many as there seem to be."""
        loads = self.run.workload.answerable(self.facts.kinds)
        return shards.missing(self.found, loads, split or shards.split_into(self.sources))

    def merge(self, publish: Publish, again: str) -> RunOutcome:
        """Write the run's own files, score it and write its pages; then remove its shards."""
        directory, loads = self.run.directory, self.run.workload.answerable(self.facts.kinds)
        tell_differing(self.found)
        shards.gather(directory, self.sources, loads, self.found)
        noted = shards.environments(self.sources)
        phases = shards.joined_phases(noted)
        facts = _of_one_server(directory, self.facts, noted, phases)
        failures = [
            one for load in loads for one in failures_of(load.spec.name, self.found.records[load.spec.name].values())
        ]
        answers = Answers(
            settings=self.run.settings, workload=self.run.workload, model=self.run.model, facts=facts, phases=phases,
            failures=failures, again=again,
            shards={name: _of_a_shard(document) for name, document in noted.items()},
        )  # fmt: skip
        outcome = answers.finish(directory, publish)
        shards.clear(directory)
        return outcome


def _of_a_shard(document: Mapping[str, Any]) -> dict[str, Any]:
    # Which server it was stands beside the sums of all.
    engine = {name: value for name, value in document["engine"].items() if name != "server"}
    return {"machine": document["machine"], "engine": engine, "phases": document["phases"]}


def _of_one_server(
    directory: RunDirectory, facts: ModelFacts, noted: Mapping[str, Mapping[str, Any]], phases: Phases
) -> ModelFacts:
    """Note what shards asked of a server as if one had asked; return the facts with what is to be said of it loudly."""
    parts = [document["engine"]["server"] for document in noted.values() if "server" in document["engine"]]
    if not parts:
        return facts
    phases.notes["server"] = joined_notes(directory.path, parts)
    of_parts = {line for part in parts for line in changes_in(part)}
    kept = [line for line in facts.notices if line not in of_parts]
    return replace(facts, notices=(*kept, *changes_in(phases.notes["server"])))


def merge_runs(
    folders: Sequence[Path], publish: Publish, *, output_dir: Path | None = None, data_dir: Path | None = None,
    lock: bool = True,
) -> RunOutcome:  # fmt: skip
    """Merge the shards of one run, in one folder or in several copies of it, into the first or below `output_dir`.

    The other folders stay as they are. `data_dir` is where the tasks are now; without `lock` no folder is held.
    UsageError if a folder comes twice; RunError if one is no run or another run, if a sample has no record, or if
    there is nothing to merge; BusyError if another process writes to one.
    """
    folders = [folder.absolute() for folder in folders]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UsageError(f"{twice[0]} was given twice.", "Give each folder once.")
    target = folders[0] if output_dir is None else output_dir.absolute() / folders[0].name
    refuse_other_runs([*folders, *([target] if (target / "run.yaml").exists() else [])])
    make_folder(target.parent)
    with ExitStack() as stack:
        for folder in dict.fromkeys((target, *folders)):
            stack.enter_context(held_run(folder, lock=lock))
            if lock:
                refuse_beside_shards(folder)
        return _merge_held(target, folders, publish, data_dir)


def _merge_held(target: Path, folders: Sequence[Path], publish: Publish, data_dir: Path | None) -> RunOutcome:
    directory = RunDirectory(path=target, identity=read_run(folders[0])["identity"])
    directory.clear_left_over()
    if (outcome := finished(directory, publish)) is not None:
        shards.clear(directory)
        say(f"{target} is complete; nothing to merge.")
        return outcome
    each = [shards.sources_of(replace(directory, path=folder)) for folder in dict.fromkeys((target, *folders))]
    if all(len(sources) == 1 for sources in each):
        problem = f"{shown(folders)} has no shards: there is nothing to merge."
        raise RunError(problem, "The command of the run goes on where it stopped.")
    run = replace(reopen(folders[0], data_dir), directory=directory)
    merger = Merger.of(run, [source for some in each for source in some])
    if left := merger.missing():
        way_out = "Give the commands of these shards, or their folders too; nothing was changed."
        raise RunError(f"{shown(folders)} cannot be merged: {shards.told(left)}.", way_out)
    if not (target / "run.yaml").exists():
        write_atomically(target / "run.yaml", (folders[0] / "run.yaml").read_text(encoding="utf-8"))
    return merger.merge(publish, "The commands of their shards try them again.")


def shown(folders: Sequence[Path]) -> str:
    """Return folders for people."""
    return ", ".join(map(str, folders))


def refuse_other_runs(folders: Sequence[Path]) -> None:
    """Raise a RunError that says what differs if folders do not hold the same run."""
    first, *others = [read_run(folder)["identity_of"] for folder in folders]
    for folder, parts in zip(folders[1:], others, strict=True):
        if parts != first:
            apart = ", ".join(differences(first, parts).values())
            problem = f"{folders[0]} and {folder} are other runs: they differ in {apart}."
            raise RunError(problem, "Merge shards of one run; `medbench leaderboard` puts several runs side by side.")


def differences(first: Mapping[str, object], other: Mapping[str, object]) -> dict[str, str]:
    """Return what two runs have apart, by name, as `name (the one and the other)`."""
    names = [name for name in dict.fromkeys((*first, *other)) if first.get(name) != other.get(name)]
    return {name: f"{name} ({_short(first.get(name))} and {_short(other.get(name))})" for name in names}


def _short(value: object) -> str:
    text = "nothing" if value in (None, "", {}) else str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def take_in(run: RunDirectory, loads: Sequence[TaskLoad]) -> None:
    """Take in what shards left of a run that is held and goes on in one process."""
    sources = shards.sources_of(run)
    if len(sources) == 1:
        return
    found = shards.recorded(sources, loads)
    tell_differing(found)
    shards.gather(run, sources, loads, found)
    shards.clear(run)
    say("What shards of this run answered is taken in.")


def tell_differing(found: shards.Found) -> None:
    """Say aloud which samples have several answers that differ: in 16 bits, or by a server, they may."""
    if found.differing:
        first = ", ".join("/".join(name) for name in found.differing[:_SHOWN])
        warn(f"{len(found.differing)} samples have several answers, which differ; the first is kept: {first}.")
