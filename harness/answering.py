"""Who answers a run: the model loaded in this process, or workers that hold it; a run asks nothing else of either."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from medbench.adapters.base import Adapter, DirectAdapter, LocalAdapter
from medbench.adapters.catalog import ChosenModel
from medbench.adapters.guarding import plugin_faults
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.agreement import Agreement, Said, measured, note, said_of
from medbench.harness.cache.memory import Memory, memory_of
from medbench.harness.engine.requests import Outcome
from medbench.harness.generate import Plan, answer_directly, requests_of
from medbench.harness.identity import made_of, run_identity
from medbench.harness.learned import FILE, Learned
from medbench.harness.models import LoadedModel, ModelFacts, Share, load_share
from medbench.harness.phases import Phases
from medbench.harness.rundir import RunDirectory
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload
from medbench.tasks.foundation.errors import RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a loaded model says of itself: all that a run needs of it beside its answers, as plain values."""

    facts: ModelFacts
    made_of: Mapping[str, object]  # Code, libraries and parts, see `medbench.harness.identity`.
    engine: Mapping[str, object] = field(default_factory=dict)  # What of the engine makes another run.

    def identity(self, settings: Settings, workload: Workload, model: ChosenModel) -> dict[str, object]:
        """Return what makes another run of this very model, which is one checkpoint and not a user's own object."""
        info = self.facts.info
        return run_identity(
            settings, workload, info, model, weights=info.weights, made_of=self.made_of, engine=self.engine
        )


class Answerers(AbstractContextManager["Answerers"], Protocol):
    """The model of a run, wherever it is. At most the checkpoint of one share is loaded at a time."""

    def told(self, share: Share) -> Told:
        """Load the checkpoint of a share, if it is not, and return what the model says of itself."""

    def outcomes(self, share: Share, plan: Plan, directory: RunDirectory) -> Generator[list[Outcome], None, None]:
        """Yield an outcome for each sample that a plan misses, as they come and in any order."""

    def facts(self, share: Share) -> ModelFacts:
        """Return what is kept of the model of a share, when it has answered."""

    def leave(self) -> None:
        """Let the model leave, so that what scores has its memory; may be said twice."""

    def __exit__(self, *_: object) -> None:
        """Let the model leave."""
        self.leave()


class InThisProcess(Answerers):
    """The model is loaded here."""

    def __init__(
        self, settings: Settings, workload: Workload, model: ChosenModel, phases: Phases, *, own: bool
    ) -> None:
        self._settings, self._workload, self._phases = settings, workload, phases
        self._model, self._own = model, own
        self._loaded = LoadedModel(lambda share: load_share(settings, model, workload, share))
        # Whose engine is made once, and leaves before another checkpoint comes.
        self._answering: tuple[Share, Answering] | None = None

    def leave(self) -> None:
        """Let the model leave."""
        self._answering = None
        self._loaded.leave()

    def told(self, share: Share) -> Told:
        """Load the model; a server may be asked what it is, so what may be sent to it is looked at first."""
        if self._answering is not None and self._answering[0] != share:
            self._answering = None
        adapter = self._loaded.adapter(share)
        with plugin_faults(self._settings.model.partition(":")[0], "what it says of itself", type(adapter).__module__):
            facts = ModelFacts.of(adapter)
        if isinstance(adapter, RemoteAdapter):
            from medbench.harness.remote.serving import refuse_to_send

            refuse_to_send(adapter, self._workload.answerable(adapter.card.kinds))
        return told_by(adapter, facts, self._settings, self._workload)

    def outcomes(self, share: Share, plan: Plan, directory: RunDirectory) -> Generator[list[Outcome], None, None]:
        """Tell the model which tasks to expect, and return its outcomes as they come."""
        adapter = self._loaded.adapter(share)
        expect(adapter, plan)
        return self._outcomes(adapter, share, plan, directory)

    def _outcomes(
        self, adapter: Adapter, share: Share, plan: Plan, directory: RunDirectory
    ) -> Generator[list[Outcome], None, None]:
        with plugin_faults(adapter.card.name, "answering", type(adapter).__module__):
            if isinstance(adapter, RemoteAdapter):
                from medbench.harness.remote.serving import answer_remotely

                memory = self._memory(adapter, plan)
                yield from answer_remotely(adapter, plan.loads, plan.missing, directory.path, self._phases, memory)
                return
            if self._answering is None:
                learned = Learned(directory.path / FILE)
                memory = self._memory(adapter, plan)
                self._answering = share, Answering(adapter, self._settings, self._phases, learned, memory)
            answering = self._answering[1]
            yield from answering.outcomes(plan)
            if (found := answering.compare(lambda: said_of(plan.loads, directory))) is not None:
                note(found, adapter.dtype, self._phases)

    def _memory(self, adapter: Adapter, plan: Plan) -> Memory | None:
        if self._settings.cache is None:
            return None
        told = told_by(adapter, ModelFacts.of(adapter), self._settings, self._workload)
        specs = [load.spec for load in plan.loads]
        identity = told.identity(self._settings, self._workload, self._model)
        return memory_of(adapter, identity, self._settings, self._workload, self._phases, specs=specs, own=self._own)

    def facts(self, share: Share) -> ModelFacts:
        """Return what is kept of the model."""
        return ModelFacts.of(self._loaded.adapter(share))


def told_by(adapter: Adapter, facts: ModelFacts, settings: Settings, workload: Workload) -> Told:
    """Return what a loaded model says of itself, its facts being known."""
    with plugin_faults(adapter.card.name, "what it says of itself", type(adapter).__module__):
        made = made_of(adapter, workload.names)
    if not isinstance(adapter, LocalAdapter):
        return Told(facts=facts, made_of=made)
    from medbench.harness.local import engine_of

    return Told(facts=facts, made_of=made, engine=engine_of(settings, adapter).identity)


def expect(adapter: Adapter, plan: Plan) -> None:
    """Tell a model for which tasks to get ready."""
    with plugin_faults(adapter.card.name, "expect()", type(adapter).__module__):
        adapter.expect([load.spec for load in plan.loads])


class Answering:
    """A model that runs here and answers plan after plan; its engine is made once, of `sharers` on this machine."""

    def __init__(
        self, adapter: Adapter, settings: Settings, phases: Phases, learned: Learned, memory: Memory | None = None,
        *, sharers: int = 1,
    ) -> None:  # fmt: skip
        self._adapter, self._phases, self._memory = adapter, phases, memory
        if isinstance(adapter, LocalAdapter):
            from medbench.harness.local import Driver, sampling_of

            self._driver = Driver(adapter, phases, settings, learned, sharers=sharers)
            self._sampling = sampling_of(settings, adapter)

    def outcomes(self, plan: Plan) -> Iterator[list[Outcome]]:
        """Yield an outcome for each sample that a plan misses. RunError if the model is neither direct nor local."""
        if isinstance(self._adapter, DirectAdapter):
            yield from answer_directly(plan, self._adapter, self._phases)
        elif isinstance(self._adapter, LocalAdapter):
            refused: list[Outcome] = []
            requests = requests_of(plan, self._adapter, self._phases, refused, self._sampling)
            if self._memory is None:
                yield from self._driver.answer(requests)
            else:
                yield from self._memory.outcomes(requests, self._driver.answer, lambda: self._driver.as_alone)
            yield refused
        else:
            problem = f"The model {self._adapter.card.name!r} is neither direct, local nor remote."
            raise RunError(problem, "Use a model of `medbench models`.")

    def compare(self, said: Callable[[], Iterable[Said]]) -> Agreement | None:
        """Return how many answers are those of one-by-one generation; None where they must be, or that is known."""
        if not isinstance(self._adapter, LocalAdapter) or self._adapter.dtype == "float32":
            return None
        if not self._sampling.greedy or "log-probabilities" in self._phases.notes:
            return None
        return measured(self._adapter, said(), self._phases)
