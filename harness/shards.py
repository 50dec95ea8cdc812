"""Shards: processes that know nothing of one another answer parts of one run; the last one, or a command, merges them.

Each has a folder in that of the run, `shards/2-of-8`, with records, notes and a lock of its own. Which samples a shard
answers follows from the samples alone, not from what is answered or from the machine, and is no part of the identity.
"""

import heapq
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from medbench.harness.engine.requests import LONG_ANSWERS_FIRST, Name
from medbench.harness.identity import write_environment
from medbench.harness.models import ModelFacts, Share, merged, refuse_other_weights
from medbench.harness.phases import Phases
from medbench.harness.remote.serving import LOG_FILE
from medbench.harness.rundir import LOCK, SHARDS, GenerationRecord, Recorded, RunDirectory, held, make_folder
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import canonical_json, read_json, read_numbered_json_lines, write_atomically
from medbench.tasks.sample import Sample

FACTS_FILE = "model.json"
_DIGITS = 4  # Of mean weights of experts.
_ADDED = ("self-test", "agreement")
_TEXT = re.compile(r"([0-9]{1,5})/([0-9]{1,5})")
_FOLDER = re.compile(r"([0-9]{1,5})-of-([0-9]{1,5})")
_FACTS = TypeAdapter(ModelFacts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One of so many parts of a run, counted from 1."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.number}-of-{self.of}"


def read_shard(text: str) -> Shard:
    """Return the shard that `2/8` names; UsageError if it names none."""
    found = _TEXT.fullmatch(text.strip())
    if found is None:
        way_out = "Write --shard 2/8 for the second of eight; in a SLURM array --shard $SLURM_ARRAY_TASK_ID/8."
        raise UsageError(f"--shard {text!r} is no shard.", way_out)
    shard = Shard(number=int(found[1]), of=int(found[2]))
    if not 1 <= shard.number <= shard.of:
        of = shard.of or 8
        way_out = f"Shards count from 1: 1/{of} to {of}/{of}."
        array = f"A SLURM array needs --array=1-{of}, not --array=0-{of - 1}."
        raise UsageError(f"There is no shard {shard}.", f"{way_out} {array}")
    return shard


def deal(loads: Sequence[TaskLoad], shards: int) -> dict[Name, int]:
    """Return the number of the shard of each sample, by task and sample.

    All questions about the same images are dealt to one shard, over all tasks. Images are told by their references
    alone, since the folders that these start from may differ between machines. The shards' numbers of samples differ by
    no more than the largest set of questions about the same images; long answers are dealt first, the largest sets
    before others, so that each kind of task is spread evenly. Another way of dealing needs other names of folders.
    """
    together: dict[object, list[Name]] = {}
    ranks = {load.spec.name: LONG_ANSWERS_FIRST.index(load.spec.kind) for load in loads}
    for load in sorted(loads, key=lambda load: (ranks[load.spec.name], load.spec.name)):
        for sample in load.samples:
            name = (load.spec.name, sample.sample_id)
            together.setdefault(sample.images or name, []).append(name)
    heap = [(0, number) for number in range(1, shards + 1)]
    dealt: dict[Name, int] = {}
    for names in sorted(together.values(), key=lambda names: (ranks[names[0][0]], -len(names))):
        count, number = heap[0]
        heapq.heapreplace(heap, (count + len(names), number))
        dealt |= dict.fromkeys(names, number)
    return dealt


def dealt_to(shard: Shard, loads: Sequence[TaskLoad]) -> tuple[TaskLoad, ...]:
    """Return the tasks, all of them, with the samples of a shard alone, in their order."""
    dealt = deal(loads, shard.of)

    def own(load: TaskLoad) -> tuple[Sample, ...]:
        return tuple(one for one in load.samples if dealt[load.spec.name, one.sample_id] == shard.number)

    return tuple(replace(load, samples=own(load)) for load in loads)


def sources_of(run: RunDirectory) -> list[RunDirectory]:
    """Return the folders that hold records of a run: its own, then those of its shards."""
    folders = sorted(path for path in (run.path / SHARDS).glob("*") if path.is_dir())
    return [run, *(replace(run, path=path) for path in folders)]


@contextmanager
def hold(run: RunDirectory, shard: Shard) -> Iterator[RunDirectory]:
    """Make or reopen the folder of a shard, and hold it. Call it while the run is held, so that a merger sees it."""
    own = replace(run, path=run.path / SHARDS / shard.name)
    make_folder(own.path)
    with held(own.path / LOCK, f"Another process is answering shard {shard} of {run.path}."):
        yield own


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What several folders hold of a run."""

    records: Recorded  # An answer goes before a failure, and the first of several answers before others.
    differing: tuple[Name, ...]  # Samples with answers that differ.


def recorded(sources: Sequence[RunDirectory], loads: Sequence[TaskLoad]) -> Found:
    """Read what folders hold of tasks; raises like `RecordFile.read`."""
    found: dict[str, dict[str, GenerationRecord]] = {}
    differing: dict[Name, None] = {}
    for load in loads:
        own: dict[str, GenerationRecord] = {}
        for source in sources:
            for name, record in source.of_task(load).read().items():
                before = own.get(name)
                if before is None or before.error:
                    own[name] = record
                elif not record.error and replace(before, served=None) != replace(record, served=None):
                    differing[load.spec.name, name] = None
        found[load.spec.name] = {one.sample_id: own[one.sample_id] for one in load.samples if one.sample_id in own}
    return Found(records=found, differing=tuple(differing))


def missing(found: Found, loads: Sequence[TaskLoad], shards: int) -> dict[Shard, int]:
    """Return how many samples have no record, by shard."""
    left = [
        (load.spec.name, sample.sample_id)
        for load in loads
        for sample in load.samples
        if sample.sample_id not in found.records[load.spec.name]
    ]
    dealt = deal(loads, shards) if left else {}
    counts = Counter(dealt[name] for name in left)
    return {Shard(number=number, of=shards): counts[number] for number in sorted(counts)}


def told(missing: Mapping[Shard, int]) -> str:
    """Return what is missing, for people."""
    each = ", ".join(f"shard {shard} ({count:,})" for shard, count in missing.items())
    return f"{sum(missing.values()):,} samples have no record yet: {each}"


def split_into(sources: Sequence[RunDirectory]) -> int:
    """Return into how many shards a run was split, as most of its shards' folders say; 1 if there are none."""
    names = (_FOLDER.fullmatch(source.path.name) for source in sources)
    counts = Counter(int(name[2]) for name in names if name)
    return max(counts, key=lambda of: (counts[of], of), default=1)


def note_facts(own: RunDirectory, share: Share, facts: ModelFacts) -> None:
    """Keep what a shard's model says of itself, so that the shards are merged without it."""
    path = own.path / FACTS_FILE
    noted = read_json(path) if path.exists() else {}
    noted[",".join(share.tasks)] = _FACTS.dump_python(facts, mode="json")
    write_atomically(path, canonical_json(noted, indent=2) + "\n")


def note_environment(own: RunDirectory, facts: ModelFacts, phases: Phases) -> None:
    """Keep where a shard ran and where its time went."""
    write_environment(own.path / "env.json", facts.info, phases)


def noted_facts(sources: Sequence[RunDirectory]) -> ModelFacts:
    """Return what the shards' models said of themselves; RunError if none did."""
    found: dict[tuple[str, ...], ModelFacts] = {}
    for path in (source.path / FACTS_FILE for source in sources):
        for tasks, document in (read_json(path) if path.exists() else {}).items():
            share = tuple(tasks.split(","))
            facts = _FACTS.validate_python({**document, "kinds": frozenset(document["kinds"])})
            before = found.setdefault(share, facts)
            found[share] = replace(before, notices=tuple(dict.fromkeys((*before.notices, *facts.notices))))
    if not found:
        problem = f"No shard of {sources[0].path} says which model answered it."
        raise RunError(problem, "Give the command of the run, or of one of its shards: it goes on and merges.")
    return merged([(Share(checkpoint=None, tasks=tasks), facts) for tasks, facts in found.items()])


def gather(run: RunDirectory, sources: Sequence[RunDirectory], loads: Sequence[TaskLoad], found: Found) -> None:
    """Write the records of all sources to the run's own files, in the order of the samples, and who asked what.

    Nothing is taken from the sources: cut short at any point, it can be done again, with the same files.
    """
    refuse_other_weights(run.path, {}, [source.path for source in sources])
    for load in loads:
        run.of_task(load).rewrite(found.records[load.spec.name].values())
    logs = [log for source in sources if (log := source.path / LOG_FILE).exists()]
    lines = (canonical_json(line) for log in logs for _, line in read_numbered_json_lines(log, torn_tail="drop"))
    # A line that stands in several of them is one that was gathered before.
    if once := dict.fromkeys(lines):
        write_atomically(run.path / LOG_FILE, "".join(f"{line}\n" for line in once))


def clear(run: RunDirectory) -> None:
    """Remove the shards of a run whose records were gathered: all at once, so that none stays without the others."""
    shards, leaving = run.path / SHARDS, run.path / f".{SHARDS}"
    shutil.rmtree(leaving, ignore_errors=True)
    if shards.exists():
        shards.rename(leaving)
        shutil.rmtree(leaving, ignore_errors=True)


def environments(sources: Sequence[RunDirectory]) -> dict[str, dict[str, Any]]:
    """Return `env.json` of each shard that wrote one, by its folder's name, with a number where that comes again."""
    found: dict[str, dict[str, Any]] = {}
    for source in sources:
        if source.path.parent.name == SHARDS and (source.path / "env.json").exists():
            name, again = source.path.name, sum(other.partition(" ")[0] == source.path.name for other in found)
            found[f"{name} ({again + 1})" if again else name] = read_json(source.path / "env.json")
    return found


def joined_phases(noted: Mapping[str, Mapping[str, Any]]) -> Phases:
    """Return phases and notes of shards as if one process had written them.

    Seconds, counts and the comparisons with one-by-one generation are added, and Uni-Med's mean weights of experts are
    those over all images. Of the other notes those are kept that all shards say alike; what each said stays beside it.
    """
    phases = Phases()
    for document in noted.values():
        phases.include(document["phases"])
    engines = [document["engine"] for document in noted.values()]
    for name in dict.fromkeys(name for engine in engines for name in engine):
        said = [engine[name] for engine in engines if name in engine]
        if name in _ADDED:
            phases.notes[name] = {**said[0], **{key: sum(one[key] for one in said) for key in ("equal", "of")}}
        elif all(one == said[0] for one in said):
            phases.notes[name] = said[0]
    if routed := [engine for engine in engines if "routing" in engine]:
        phases.notes |= _routing_of(routed)
    return phases


def _routing_of(engines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    images: Counter[str] = Counter()
    sums: dict[str, list[float]] = {}
    for engine in engines:
        images.update(engine["routed images"])
        for kind, means in engine["routing"].items():
            before = sums.get(kind, [0.0] * len(means))
            sums[kind] = [one + mean * engine["routed images"][kind] for one, mean in zip(before, means, strict=True)]
    means = {kind: [round(one / images[kind], _DIGITS) for one in total] for kind, total in sorted(sums.items())}
    return {"routing": means, "routed images": dict(images)}
