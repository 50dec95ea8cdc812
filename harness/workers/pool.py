"""One writer, many answerers: hands units to workers, hears what they say, replaces those that die.

It knows of no process and no network: a `Crew` starts workers and carries words.
"""

import time
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from medbench.adapters.catalog import ChosenModel
from medbench.harness import agreement
from medbench.harness.answering import Answerers, Told
from medbench.harness.engine.requests import Outcome
from medbench.harness.generate import Plan
from medbench.harness.learned import FILE, Learned
from medbench.harness.models import ModelFacts, Share
from medbench.harness.phases import Phases
from medbench.harness.rundir import RunDirectory
from medbench.harness.settings import Settings
from medbench.harness.shards import joined_phases
from medbench.harness.workers import inside
from medbench.harness.workers.units import Units, groups_of
from medbench.harness.workload import Workload
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import RunError

_LISTENED_SECONDS = 1.0
_SILENT_SECONDS = 60.0
_FAILED_STARTS, _BARREN_ALONE = 3, 20
_OTHERWISE = "Give every machine the same medbench, libraries, weights and data; then the same command continues."
_WITHOUT = "Without --workers it may say more; what was answered is on disk, and the same command continues."


class Crew(Protocol):
    """Whoever starts workers and carries what is said; each worker has a number from 0."""

    count: int
    sharers: int  # Most workers of one machine.
    what: str  # How the workers are called for people.

    def start(self, number: int, job: inside.Job) -> None:
        """Start a worker, in the place of one that is gone; it loads the model at once."""

    def give(self, number: int, work: inside.Work) -> None:
        """Send work to a worker that is ready."""

    def hear(self, seconds: float) -> list[tuple[int, inside.Message]]:
        """Return what workers said, waiting so long for the first; `Died` is the last of a worker."""

    def end(self, number: int) -> None:
        """End one worker, of which nothing more is heard."""

    def dismiss(self) -> None:
        """End all workers at once."""

    def close(self) -> None:
        """End all workers, and what was started for them."""
        self.dismiss()


class Pool(Answerers):
    """The workers of a run. A share is answered whole before they load the next.

    RunError if none can load the model, or if they die one after the other without an answer; what a worker refuses is
    raised as it is.
    """

    def __init__(self, crew: Crew, settings: Settings, workload: Workload, model: ChosenModel, phases: Phases) -> None:
        self._crew, self._phases = crew, phases
        self._settings, self._workload, self._model = settings, workload, model
        self._share: Share | None = None
        self._first: inside.Ready | None = None  # The one that all others must be like.
        self._starting: set[int] = set()
        self._idle: set[int] = set()
        self._busy: set[int] = set()
        self._spent: dict[int, inside.Finished] = {}  # The last word of each worker on its phases and notes.
        self._past: list[inside.Finished] = []  # Those of workers that are no more.
        self._units = Units([], crew.count)
        self._learned = Learned()
        self._agreed: agreement.Agreement | None = None
        self._said: set[str] = set()
        self._heard_at = time.monotonic()
        self._patience = _SILENT_SECONDS  # Before it is said that nothing happens.
        self._failed_starts = self._deaths = self._barren_deaths = 0

    def leave(self) -> None:
        """End all workers."""
        self._crew.close()

    def told(self, share: Share) -> Told:
        """Start all workers with the checkpoint of a share, and return what the first says that is ready."""
        if self._share != share:
            self._crew.dismiss()
            self._share, self._first = share, None
            self._starting, self._idle, self._busy = set(), set(), set()
            self._talk(inside.Talk(text=f"Workers: {self._crew.what}.", loud=False))
            for number in range(self._crew.count):
                self._start(number, share)
        while self._first is None:
            self._hear(share)
        return self._first.told

    def facts(self, share: Share) -> ModelFacts:
        """Return what is kept of the model of a share."""
        told = self.told(share)
        return self._first.facts if self._first else told.facts

    def outcomes(self, share: Share, plan: Plan, directory: RunDirectory) -> Generator[list[Outcome], None, None]:
        """Yield outcomes as they come from all workers."""
        dtype = self.told(share).facts.info.dtype
        self._learned = Learned(directory.path / FILE)
        self._units = Units(groups_of(plan), self._crew.count)
        while not self._units.done:
            while self._idle and self._units.waiting:
                number = self._idle.pop()
                self._give(number, inside.Unit(names=self._units.take(number), learned=self._learned.known))
            yield self._hear(share)
        self._compare(share, agreement.said_of(plan.loads, directory) if dtype != "float32" else [])
        self._account(dtype)

    def _start(self, number: int, share: Share) -> None:
        self._starting.add(number)
        settings, folder = self._settings.as_yaml(), str(Path.cwd())
        job = inside.Job(settings=settings, share=share, folder=folder, sharers=self._crew.sharers)
        self._crew.start(number, job)

    def _give(self, number: int, work: inside.Work) -> None:
        self._busy.add(number)
        self._crew.give(number, work)

    def _hear(self, share: Share) -> list[Outcome]:
        """Hear workers for a while, and return what they answered; those that died are replaced."""
        outcomes: list[Outcome] = []
        heard = self._crew.hear(_LISTENED_SECONDS)
        self._wonder(bool(heard))
        for number, message in heard:
            match message:
                case inside.Talk():
                    self._talk(message)
                case inside.Ready():
                    self._welcome(number, message)
                case inside.Answered():
                    wanted = self._units.answered(number, [(one.task, one.sample_id) for one in message.outcomes])
                    outcomes += [one for one in message.outcomes if (one.task, one.sample_id) in wanted]
                    self._barren_deaths = 0
                case inside.Finished():
                    self._finish(number, message)
                case inside.Refused():
                    raise message.error
                case inside.Died():
                    outcomes += self._lose(number, message.reason, share)
        return outcomes

    def _wonder(self, heard: bool) -> None:
        """Say why nothing happens, where a worker may wait for a place for ever."""
        now = time.monotonic()
        if not heard and now - self._heard_at > self._patience and self._starting and not self._busy:
            # A place may come free in days: it is said ever more rarely.
            self._patience *= 2
            say(f"{len(self._starting)} of {self._crew.count} workers load the model, or wait for a place to run.")
        elif not heard:
            return
        else:
            self._patience = _SILENT_SECONDS
        self._heard_at = now

    def _talk(self, talk: inside.Talk) -> None:
        """Say what a worker said, unless another one said it before."""
        if talk.text not in self._said:
            self._said.add(talk.text)
            (warn if talk.loud else say)(talk.text)

    def _welcome(self, number: int, ready: inside.Ready) -> None:
        """Take a worker in that has loaded the model, if it would answer as the others do."""
        self._starting.discard(number)
        self._failed_starts = 0
        if self._first is None:
            here = inside.identity_of(self._settings, self._workload, self._model, ready.told)
            if differing := differences(here, ready.identity):
                problem = f"The worker at {ready.place} differs from the process that writes"
                raise RunError(f"{problem}: {'; '.join(differing)}.", _OTHERWISE)
            self._first = ready
        if differing := differences(self._first.identity, ready.identity):
            warn(f"Worker {number} at {ready.place} is not taken: it differs, {'; '.join(differing)}. {_OTHERWISE}")
            self._crew.end(number)
            return
        self._idle.add(number)

    def _finish(self, number: int, finished: inside.Finished) -> None:
        self._busy.discard(number)
        self._idle.add(number)
        self._units.finished(number)
        self._spent[number] = finished
        if finished.learned:
            self._learned.note(finished.learned)
        if finished.agreement is not None:
            self._agreed = (self._agreed or agreement.Agreement()) + finished.agreement

    def _lose(self, number: int, reason: str, share: Share) -> list[Outcome]:
        """Replace a worker that died; return the outcomes of samples that are given up."""
        self._leave(number)
        if number in self._starting:
            self._starting.discard(number)
            self._failed_starts += 1
            warn(f"Worker {number} died ({reason}) while it loaded the model.")
            if self._failed_starts < _FAILED_STARTS:
                self._start(number, share)
            elif not (self._starting or self._idle or self._busy):
                raise RunError(f"The workers died while they loaded the model; the last: {reason}.", _WITHOUT)
            return []
        self._idle.discard(number)
        self._busy.discard(number)
        self._deaths += 1
        lost = self._units.lost(number)
        warn(f"Worker {number} died ({reason}). Samples that are asked again: {lost.samples - len(lost.given_up)}.")
        self._barren_deaths += 1
        if self._barren_deaths > (_BARREN_ALONE if lost.alone else _FAILED_STARTS + 2 * self._crew.count):
            problem = f"{self._barren_deaths} workers died one after the other, and nothing was answered"
            raise RunError(f"{problem}; the last: {reason}.", _WITHOUT)
        self._start(number, share)
        error = f"Its worker died three times while it was under way, at last when nothing else was: {reason}."
        return [Outcome(task=task, sample_id=sample, error=error, kind="worker") for task, sample in lost.given_up]

    def _leave(self, number: int) -> None:
        """Keep what a worker measured that is no more."""
        if spent := self._spent.pop(number, None):
            self._past.append(spent)

    def _compare(self, share: Share, said: list[agreement.Said]) -> None:
        """Have some answers written again one by one, a part by each worker that has nothing else to do."""
        able = sorted(self._idle)
        for place, number in enumerate(able):
            part = tuple(((load.spec.name, sample.sample_id), text) for load, sample, text in said[place :: len(able)])
            if part:
                self._idle.discard(number)
                self._give(number, inside.Comparison(said=part))
        while self._busy:
            self._hear(share)

    def _account(self, dtype: str) -> None:
        """Note what all workers spent on a share together."""
        for number in list(self._spent):
            self._leave(number)
        documents = {str(place): {"phases": one.phases, "engine": one.notes} for place, one in enumerate(self._past)}
        joined = joined_phases(documents)
        self._past = []
        self._phases.include(joined.as_json())
        repeated = self._units.repeated + self._phases.notes.get("workers", {}).get("samples asked again", 0)
        counted = {"deaths": self._deaths, "samples asked again": repeated}
        own = {"workers": {"are": self._crew.what, "count": self._crew.count, **counted}}
        self._phases.notes |= {**joined.notes, **own}
        if self._agreed is not None:
            agreement.note(self._agreed, dtype, self._phases)


def differences(here: Mapping[str, object], there: Mapping[str, object]) -> list[str]:
    """Return what differs between two identities, as `libraries.torch is '2.13' there and '2.12' here`."""
    first, second = dict(_flat(here)), dict(_flat(there))
    names = [name for name in first | second if first.get(name) != second.get(name)]
    return [f"{name} is {second.get(name)!r} there and {first.get(name)!r} here" for name in names]


def _flat(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    else:
        yield name, value
