"""The cache in a run: what is known is answered at once, the rest is asked, and what comes back is kept.

It answers for local models, and for served ones that are asked for the likeliest token. Nothing that goes wrong with it
ends a run: it says so once, and the model answers.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import chain, islice
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medbench.adapters.base import Adapter, Generation, LocalAdapter
from medbench.adapters.remote import RemoteAdapter, Reply, ServedGeneration, Usage
from medbench.harness.cache.keys import Keys, keys_for
from medbench.harness.cache.store import Store, StoreError
from medbench.harness.engine.requests import Name, Outcome, Request
from medbench.harness.generate import state_of
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.harness.workload import Workload
from medbench.tasks.foundation.console import say, warn
from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.files import canonical_json, json_value
from medbench.tasks.prepared import load_prepared
from medbench.tasks.spec import TaskSpec

HITS, MISSES = "answers from the cache", "answers not in the cache"
"""Counts in a run's phases."""
_TOGETHER = 2048
_KEPT_TOGETHER, _KEPT_SECONDS = 256, 2.0
_DIGITS = 8
_GENERATION: Mapping[type[Generation], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Generation, ServedGeneration)
}
Answer = Callable[[Iterator[Request]], Iterator[list[Outcome]]]


class Memory(AbstractContextManager["Memory"]):
    """The cache for one loaded model of a run; its keys are made by one thread, or by several for a served one."""

    def __init__(self, store: Store, keys: Keys, model: str, kind: type[Generation], phases: Phases) -> None:
        self._store, self._keys, self._model, self._kind, self._phases = store, keys, model, kind, phases
        self._reads = self._writes = True
        self._waiting: dict[str, bytes] = {}
        self._kept_at = time.monotonic()

    def __exit__(self, *_: object) -> None:
        """Write what is kept in memory."""
        self.flush()

    def outcomes(
        self, requests: Iterator[Request], answer: Answer, sound: Callable[[], bool]
    ) -> Iterator[list[Outcome]]:
        """Yield what is known of requests, and what a local model answers to the others; it is kept if it is `sound`.

        All that is known up to the first request that is not comes before the model answers anything.
        """
        chunks = iter(lambda: list(islice(requests, _TOGETHER)), [])
        under_way: dict[Name, tuple[str, Request]] = {}
        known: list[Outcome] = []
        first: list[Request] = []
        for chunk in chunks:
            known, first = self._sorted(chunk, under_way)
            yield known
            if first:
                break
        known = []

        def unknown() -> Iterator[Request]:
            for chunk in chunks:
                more, others = self._sorted(chunk, under_way)
                known.extend(more)
                yield from others

        with self:
            for outcomes in answer(chain(first, unknown())):
                asked = [(one, under_way.pop((one.task, one.sample_id), None)) for one in outcomes]
                with self._phases.time("cache"):
                    # A picture that changed meanwhile may not be the one that was seen.
                    same = [(one, of[0]) for one, of in asked if of and sound() and self._keys.of(of[1]) == of[0]]
                    self.keep((key, one, "") for one, key in same)
                yield [*outcomes, *known]
                known.clear()
        yield known

    def recall(self, prepared: object) -> tuple[str, Reply | None]:
        """Return the key of what would be sent to a server, and its reply if it is known; no key if there is none."""
        if not self._reads:
            return "", None
        try:
            key = self._keys.of_sent(prepared)
        except (TypeError, ValueError) as error:
            self._stop(f"what is sent to {self._model} has no key: {error}")
            return "", None
        return key, self._known([key]).get(key)

    def keep(self, answered: Iterable[tuple[str, Outcome, str]]) -> None:
        """Keep outcomes that have an answer, each with its key and its server's mark; for a while in memory."""
        for key, outcome, mark in answered:
            if key and (written := self._written(outcome, mark)):
                self._waiting[key] = written
        if len(self._waiting) >= _KEPT_TOGETHER or time.monotonic() - self._kept_at > _KEPT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what is kept in memory."""
        self._kept_at = time.monotonic()
        if self._writes:
            try:
                self._store.put(self._waiting, self._model)
            except StoreError as error:
                self._writes = False
                warn(f"{error.problem} Nothing more is kept in it.")
        self._waiting = {}

    def count(self, hits: int, misses: int) -> None:
        """Count answers for `env.json`."""
        self._phases.count(HITS, hits)
        self._phases.count(MISSES, misses)

    def _sorted(
        self, requests: Sequence[Request], under_way: dict[Name, tuple[str, Request]]
    ) -> tuple[list[Outcome], list[Request]]:
        """Return what is known of requests, and the others, which are noted."""
        with self._phases.time("cache"):
            keys = {request.name: self._keys.of(request) if self._reads else None for request in requests}
            replies = self._known([key for key in keys.values() if key])
        outcomes, others = [], []
        for request in requests:
            key = keys[request.name]
            if key in replies:
                task, name = request.name
                outcomes.append(Outcome(task=task, sample_id=name, generation=replies[key].generation))
                continue
            others.append(request)
            if key:
                under_way[request.name] = (key, request)
        self.count(len(outcomes), len(others))
        return outcomes, others

    def _known(self, keys: Sequence[str]) -> dict[str, Reply]:
        if not self._reads:
            return {}
        try:
            found = self._store.get(keys)
        except StoreError as error:
            self._stop(error.problem)
            return {}
        replies = {key: self._read(value) for key, value in found.items()}
        return {key: reply for key, reply in replies.items() if reply is not None}

    def _stop(self, why: str) -> None:
        if not self._reads:
            return
        self._reads = self._writes = False
        warn(f"{why.rstrip('.')}. The run goes on without the cache of answers.")

    def _written(self, outcome: Outcome, mark: str) -> bytes | None:
        """Return an outcome as it is stored; None if it is no answer, or would not come back as it is."""
        said = outcome.generation
        if said is None or not said.text.strip() or state_of(outcome) not in {"answered", "truncated"}:
            return None
        if isinstance(said, ServedGeneration) and said.served.withheld:
            return None
        plain = {"said": _GENERATION[self._kind].dump_python(said, mode="json"), "mark": mark}
        try:
            written = canonical_json(plain).encode()
        except ValueError:
            # A character that is none.
            return None
        back = self._read(written)
        return written if type(said) is self._kind and back is not None and back.generation == said else None

    def _read(self, written: bytes) -> Reply | None:
        try:
            value = json_value(written)
            said = _GENERATION[self._kind].validate_python(value["said"])
            return Reply(generation=said, usage=Usage(fingerprint=value["mark"]))
        except (ValueError, KeyError, TypeError, ValidationError):
            return None


def cached(phases: Phases) -> str:
    """Return a line on how many answers of a run were known; empty without a cache."""
    hits, misses = phases.counts.get(HITS, 0), phases.counts.get(MISSES, 0)
    return f"Cache: {hits:,} of {hits + misses:,} answers were known." if hits or misses else ""


def memory_of(
    adapter: Adapter, identity: Mapping[str, object], settings: Settings, workload: Workload, phases: Phases, *,
    specs: Sequence[TaskSpec], own: bool = False,
) -> Memory | None:  # fmt: skip
    """Return the cache for a loaded model of a run; None where none is asked for, or none can be used: it says why."""
    if settings.cache is None:
        return None
    if why := _why_not(adapter, settings, own=own):
        say(f"The cache of answers is not used: {why}.")
        return None
    try:
        with phases.time("cache"):
            keys = keys_for(
                adapter, identity, specs, lambda task: load_prepared(workload.data_dir, task).manifest.data_fingerprint
            )
    except (MedbenchError, OSError, TypeError, ValueError) as error:
        why = error.problem if isinstance(error, MedbenchError) else str(error)
        warn(f"The cache of answers is not used: {why.rstrip('.')}.")
        return None
    if isinstance(adapter, RemoteAdapter) and not adapter.made_of.get("server"):
        say(
            f"{adapter.title} tells nothing of the weights that it serves. The cache of answers knows it by its name "
            "and address: when its weights change, give another --cache, or remove its answers (medbench cache prune)."
        )
    called = f"{identity['model']} {adapter.weights_fingerprint[:_DIGITS]}"
    kind = ServedGeneration if isinstance(adapter, RemoteAdapter) else Generation
    return Memory(Store(settings.cache), keys, called, kind, phases)


def _why_not(adapter: Adapter, settings: Settings, *, own: bool) -> str:
    """Return why nothing that a model says may be said for it another time; empty if it may."""
    if own:
        return "a model that is given as an object may be another one next time"
    if isinstance(adapter, LocalAdapter):
        from medbench.harness.local import sampling_of

        return f"{adapter.title} draws its tokens at random" if sampling_of(settings, adapter).temperature else ""
    if isinstance(adapter, RemoteAdapter):
        return "" if adapter.greedy else f"{adapter.title} is not asked for the likeliest token (temperature 0)"
    return f"{adapter.title} answers by itself, as fast as it would be looked up"
