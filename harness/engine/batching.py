"""What all ways of batching have in common: rows, their next tokens, requests that wait, what goes wrong."""

import hashlib
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch

from medbench.adapters.base import NO_TOKEN, Generation, LocalAdapter, StopReason
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.faults import KEPT, Survived
from medbench.harness.engine.images import AHEAD, Images
from medbench.harness.engine.requests import ImageKey, Outcome, PrefixedRequest, Request, SharedPrefix, failed
from medbench.harness.engine.timing import WAITED
from medbench.harness.phases import Phases
from medbench.tasks.answers.thoughts import thought_end
from medbench.tasks.foundation.errors import RunError

Detokenise = Callable[[Sequence[int]], str]


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """An answer that is being written."""

    request: Request
    written: list[int] = field(default_factory=list)  # Token ids so far.
    stop: StopReason | None = None  # Why it ended, None while it has not.
    broken: bool = False  # Whether it ended because its logits were no numbers.
    generator: torch.Generator | None = None  # Of sampling, made when first used.

    @property
    def length(self) -> int:
        """Tokens whose keys are in the cache: the prompt and all of the answer but the last token."""
        return self.request.length + len(self.written) - 1

    def write(self, token: int, detokenise: Detokenise) -> None:
        """Append a token and note whether the answer ends with it, or cannot go on."""
        self.broken = token == NO_TOKEN
        if self.broken:
            self.stop = "length"
            return
        self.written.append(token)
        decoding = self.request.decoding
        if token in decoding.end_ids:
            self.stop = "eos"
        elif decoding.stop_strings and any(stop in detokenise(self.written) for stop in decoding.stop_strings):
            self.stop = "stop"
        elif len(self.written) >= decoding.max_new_tokens:
            self.stop = "length"

    def take(self, ids: Sequence[int], detokenise: Detokenise) -> None:
        """Append what others wrote, up to where the row would have ended by itself."""
        for token in ids:
            if self.stop is None:
                self.write(token, detokenise)


def write_next(rows: Sequence[Row], logits: torch.Tensor, detokenise: Detokenise) -> None:
    """Append a token to each row by its logits [R, V], and note which rows end with it."""
    for row, token in zip(rows, chosen_tokens(rows, logits), strict=True):
        row.write(token, detokenise)


def likeliest(logits: torch.Tensor) -> list[int]:
    """Return the likeliest token of each row of logits [R, V]; `NO_TOKEN` where they are no numbers.

    NaN is the largest of all to `argmax`, infinity the next, and minus infinity is the largest where nothing else is:
    the logit that was chosen tells of all three, and costs no second look at the others.
    """
    tokens = logits.argmax(dim=-1, keepdim=True)
    sound = logits.gather(-1, tokens).isfinite()
    chosen: list[int] = torch.where(sound, tokens, NO_TOKEN)[:, 0].tolist()
    return chosen


def chosen_tokens(rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
    """Return the next token of each row by its logits [R, V], chosen where they are; the host waits once.

    Rows of a run are told the same, but for lengths; others are chosen group by group.
    """
    if all(row.request.decoding.greedy for row in rows):
        return likeliest(logits)
    groups: dict[tuple[float, ...], list[int]] = {}
    for place, one in enumerate(row.request.decoding for row in rows):
        told = (one.temperature, one.top_k, one.top_p, one.repetition_penalty)
        groups.setdefault(told, []).append(place)
    tokens = [NO_TOKEN] * len(rows)
    for places in groups.values():
        own = logits[torch.tensor(places, device=logits.device)] if len(groups) > 1 else logits
        # Shares are summed in float64, which MPS has not.
        own = (own.cpu() if own.device.type == "mps" else own).float()
        found = _chosen_alike([rows[place] for place in places], own)
        for place, token in zip(places, found, strict=True):
            tokens[place] = token
    return tokens


def _chosen_alike(rows: Sequence[Row], scores: torch.Tensor) -> list[int]:
    """Return a token for each row of scores [R, V], which are chosen among alike: by one draw of each row's own."""
    decoding = rows[0].request.decoding
    seen = [(place, token) for place, row in enumerate(rows) for token in set(row.written)]
    if decoding.repetition_penalty != 1 and seen:
        where = tuple(torch.tensor(seen, device=scores.device).T)
        own, factor = scores[where], decoding.repetition_penalty
        scores = scores.index_put(where, torch.where(own < 0, own * factor, own / factor))
    if decoding.temperature == 0:
        return likeliest(scores)
    best = scores.amax(dim=-1, keepdim=True)
    scaled, tokens = (scores - best) / decoding.temperature, None
    if decoding.top_k:
        scaled, tokens = scaled.topk(min(decoding.top_k, scaled.shape[-1]), dim=-1)
    elif decoding.top_p < 1:
        scaled, tokens = scaled.sort(dim=-1, descending=True, stable=True)
    shares = scaled.softmax(dim=-1).double()
    reached = shares.cumsum(dim=-1)
    if decoding.top_p < 1:
        shares = shares.masked_fill(reached - shares >= decoding.top_p, 0.0)
        reached = shares.cumsum(dim=-1)
    drawn = torch.tensor([[_draw(row)] for row in rows], dtype=torch.float64).to(scores.device)
    # The first token behind the drawn share of what all have together; one without a share is never that.
    whole = reached[:, -1:]
    wanted = torch.minimum(drawn * whole, whole.nextafter(torch.zeros_like(whole)))
    places = torch.searchsorted(reached, wanted, right=True).clamp(max=scaled.shape[-1] - 1)  # NaN is behind all
    written = places if tokens is None else tokens.gather(-1, places)
    chosen: list[int] = torch.where(best.isfinite(), written, NO_TOKEN)[:, 0].tolist()
    return chosen


def _draw(row: Row) -> float:
    """Return a number from 0 to 1, not included, of the row's own generator: it does not depend on its neighbours."""
    if row.generator is None:
        name = f"{row.request.decoding.seed}/{row.request.spec.name}/{row.request.sample.sample_id}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        row.generator = torch.Generator().manual_seed(seed)
    return float(torch.rand((), generator=row.generator, dtype=torch.float64))


def outcome_of(row: Row, adapter: LocalAdapter) -> Outcome:
    """Return what a finished row says; an error if its logits were no numbers, since nobody said anything then."""
    request, stop = row.request, row.stop or "length"
    if row.broken:
        weights_broken = adapter.dtype == "float32"
        hint = "The weights are broken: download them again." if weights_broken else "Give --dtype float32 or bfloat16."
        problem = f"The model's logits are not finite (NaN or infinite) in {adapter.dtype}, so it gave no answer."
        return failed(request, f"{problem} {hint}", "numbers")
    ids = row.written[:-1] if stop == "eos" else row.written
    text = adapter.detokenise(ids)
    if stop == "stop":
        text = text[: min(text.index(end) for end in request.decoding.stop_strings if end in text)]
    thought, end = 0, thought_end(text)
    if end:
        # The tokens that pass until the thought is over: the fewest whose text is as long.
        thought = bisect_left(range(len(ids)), end, key=lambda count: len(adapter.detokenise(ids[:count])))
    generation = Generation(
        text=text, stop=stop, prompt_tokens=request.length, output_tokens=len(row.written), thought_tokens=thought
    )
    return Outcome(task=request.spec.name, sample_id=request.sample.sample_id, generation=generation)


class RequestQueue:
    """Requests in their order; `expect` is told of their images ahead, and who still needs a prefix is known."""

    def __init__(self, windows: Iterator[list[PrefixedRequest]], expect: Callable[[Sequence[ImageKey]], None]) -> None:
        self._windows = windows
        self._expect = expect
        self._waiting: deque[PrefixedRequest] = deque()
        self._users: Counter[SharedPrefix] = Counter()

    def peek(self) -> PrefixedRequest | None:
        """Return the next request, or None if there is none left."""
        while len(self._waiting) < AHEAD and (window := next(self._windows, None)) is not None:
            self._waiting.extend(window)
            self._expect([key for one in window for key in one.request.images])
            self._users.update(one.prefix for one in window if one.prefix)
        return self._waiting[0] if self._waiting else None

    def take(self) -> PrefixedRequest:
        """Return the next request and remove it."""
        return self._waiting.popleft()

    def put_back(self, requests: Sequence[PrefixedRequest]) -> None:
        """Let requests come again, first of all."""
        self._waiting.extendleft(reversed(requests))

    def forget(self, requests: Sequence[PrefixedRequest]) -> list[SharedPrefix]:
        """Return the prefixes that nobody needs any more, now that these requests are answered or failed."""
        prefixes = Counter(one.prefix for one in requests if one.prefix)
        self._users -= prefixes
        return [prefix for prefix in prefixes if prefix not in self._users]


class Batching(ABC):
    """Answers the requests of a queue within a budget, which becomes smaller when memory runs out.

    Ways of batching differ in what enters when (`_next`) and in how it is answered (`_advance`). Requests that were
    under way when a model or a library raised something are tried one by one, and who raises it alone is an error.
    """

    # Whether memory is taken for as many rows as may be, however few there are.
    _makes_room = False

    def __init__(
        self, adapter: LocalAdapter, images: Images, queue: RequestQueue, budget: Budget, phases: Phases
    ) -> None:
        self._adapter = adapter
        self._images = images
        self._queue = queue
        self._phases = phases
        self._first_budget = self.budget = budget
        # The budget that holds again after a row that is tried alone.
        self._suspended: Budget | None = None
        # How many of the first requests of the queue are tried alone.
        self._suspects = 0

    def run(self) -> Iterator[list[Outcome]]:
        """Yield outcomes as rows finish; their order is the engine's."""
        while self._queue.peek() is not None or self._under_way():
            requests = self._begun()
            outcomes: list[Outcome] = []
            with Survived(self._adapter.device) as fault, torch.inference_mode():
                outcomes = self._advance(requests)
            with Survived(self._adapter.device) as second:
                self._phases.settle(WAITED)
                if fault.memory:
                    outcomes = self._shrink(requests)
                elif fault.problem:
                    outcomes = self._isolate(requests, fault.problem)
            if second.memory or second.problem:
                raise RunError(f"The engine cannot go on: {second.problem or 'memory ran out'}.", KEPT)
            if outcomes:
                yield outcomes

    def _begun(self) -> list[PrefixedRequest]:
        """Take what is answered or begun next: one suspect alone, or as many as fit."""
        if not self._suspects:
            return self._next()
        if self._under_way():
            return []
        self._suspects -= 1
        return [self._queue.take()]

    def _under_way(self) -> list[PrefixedRequest]:
        """Return the requests that are begun and not answered."""
        return []

    @abstractmethod
    def _next(self) -> list[PrefixedRequest]:
        """Take the requests that are answered or begun next."""

    @abstractmethod
    def _advance(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Answer or begin requests; return what is finished."""

    def _rows_of(self, requests: Sequence[PrefixedRequest]) -> int | None:
        """Return the rows that requests take in one batch, or None if they cannot stand in one."""
        return len(requests)

    def _let_go(self) -> None:
        """Forget what is under way, and what it holds; what comes next has the budget of now."""
        torch.cuda.empty_cache()

    def _shrink(self, requests: Sequence[PrefixedRequest]) -> list[Outcome]:
        """Start again after memory ran out, half as many at a time; a row that was alone fails."""
        asked = list(dict.fromkeys([*self._under_way(), *requests]))
        self._phases.count("out of memory")
        outcomes: list[Outcome] = []
        if len(asked) > 1:
            self.budget = self.budget.halved(self._rows_of(asked) or 1)
        elif self._makes_room and max(self.budget.rows, self.budget.tokens) > 1:
            # The last of many rows: room for them took the memory. Alone in room of its own it may well fit.
            self.budget, self._suspended = replace(self.budget, rows=1, tokens=1), self.budget
        else:
            # What was impossible alone is what took the memory: the others need no smaller budget for it.
            self.budget, self._suspended = self._suspended or self._first_budget, None
            self._queue.forget(asked)
            request = asked.pop().request
            outcomes = [failed(request, f"Memory ran out on this sample alone ({request.length} tokens).", "memory")]
        self._queue.put_back(asked)
        self._let_go()
        return outcomes

    def _isolate(self, requests: Sequence[PrefixedRequest], problem: str) -> list[Outcome]:
        """Let what was under way come again, one by one; a request that was alone fails."""
        asked = list(dict.fromkeys([*self._under_way(), *requests]))
        self._phases.count("faults of the model")
        outcomes: list[Outcome] = []
        if len(asked) == 1:
            self._queue.forget(asked)
            outcomes = [failed(asked.pop().request, f"The model failed on this sample alone: {problem}.", "model")]
        self._suspects = max(self._suspects, len(asked))
        self._queue.put_back(asked)
        self._let_go()
        return outcomes

    def _outcomes(self, rows: Sequence[Row]) -> list[Outcome]:
        self._phases.count("prompt tokens", sum(row.request.length for row in rows))
        self._phases.count("output tokens", sum(len(row.written) for row in rows))
        self._phases.count("answers", len(rows))
        for row in rows:
            self._phases.tasks[row.request.spec.name].output_tokens += len(row.written)
        with self._phases.time("detokenise"):
            return [outcome_of(row, self._adapter) for row in rows]
