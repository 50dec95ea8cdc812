"""How far batches matter in 16 bits: some of a run's answers are written again, one by one.

In float32, where all answers are the same, nothing is measured. Imports torch only to measure.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from medbench.adapters.base import LocalAdapter
from medbench.harness.phases import Phases
from medbench.harness.rundir import RunDirectory
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.sample import Sample

_FEWEST_COMPARED, _MOST_COMPARED = 4, 24
Said = tuple[TaskLoad, Sample, str]
"""A sample of a task, and what was answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How many answers, `equal` of `total`, are those of one-by-one generation."""

    equal: int = 0
    total: int = 0

    def __add__(self, other: "Agreement") -> "Agreement":
        return Agreement(equal=self.equal + other.equal, total=self.total + other.total)


def said_of(loads: Sequence[TaskLoad], directory: RunDirectory) -> list[Said]:
    """Return the answers of a run to compare, of every task in turn.

    One by one is slow: a tenth of a small run, no more than a few answers of a large one.
    """
    most = min(_MOST_COMPARED, max(_FEWEST_COMPARED, sum(len(load.samples) for load in loads) // 10))
    texts = [
        [(load, one, said.text) for one in load.samples if (said := records.get(one.sample_id)) and not said.error]
        for load in loads
        for records in [directory.of_task(load).read()]
    ]
    return list(islice((one for turn in zip_longest(*texts) for one in turn if one is not None), most))


def measured(adapter: LocalAdapter, said: Iterable[Said], phases: Phases) -> Agreement:
    """Return how many answers are those of `generate`, one by one."""
    import torch

    from medbench.harness.engine.requests import make_request
    from medbench.harness.engine.static import generate_alone

    found = Agreement()
    with phases.time("agreement"):
        for load, sample, text in said:
            try:
                alone = generate_alone(adapter, make_request(adapter, sample, load.spec, load.prepared.source))
            except (SampleError, torch.OutOfMemoryError):
                # A comparison that is not possible costs no answer.
                continue
            found += Agreement(equal=int(alone.text == text), total=1)
    return found


def note(found: Agreement, dtype: str, phases: Phases) -> None:
    """Say what was found, and keep it for `env.json`."""
    parts = {"with": "generate, one by one", "dtype": dtype, "equal": found.equal, "of": found.total}
    phases.notes["agreement"] = parts
    say(f"In {dtype} {found.equal} of {found.total} answers are those of one-by-one generation.")
