"""From logits to the next token of every row, and when a row is finished."""

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from medbench.adapters.base import NO_TOKEN, Generation, LocalAdapter, StopReason
from medbench.harness.engine.requests import Outcome, Request, failed
from medbench.tasks.answers.thoughts import thought_end

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

    @property
    def position(self) -> int:
        """Of the last token, which the decoder has not read."""
        return self.length + self.request.shift

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
    plain = all(row.request.decoding.greedy for row in rows)
    tokens = likeliest(logits) if plain else [_choose(row, own) for row, own in zip(rows, logits, strict=True)]
    for row, token in zip(rows, tokens, strict=True):
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


def _choose(row: Row, logits: torch.Tensor) -> int:
    decoding = row.request.decoding
    scores = logits.float().cpu()
    if likeliest(scores[None]) == [NO_TOKEN]:
        return NO_TOKEN
    if decoding.repetition_penalty != 1 and row.written:
        seen = torch.tensor(sorted(set(row.written)))
        own = scores[seen]
        factor = decoding.repetition_penalty
        scores = scores.index_put((seen,), torch.where(own < 0, own * factor, own / factor))
    if decoding.temperature == 0:
        return int(scores.argmax())
    if row.generator is None:
        # A seed of the sample's own, so that its draws do not depend on its neighbours.
        name = f"{decoding.seed}/{row.request.spec.name}/{row.request.sample.sample_id}"
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
        row.generator = torch.Generator().manual_seed(seed)
    ordered, tokens = ((scores - scores.max()) / decoding.temperature).sort(descending=True, stable=True)
    if decoding.top_k:
        ordered[decoding.top_k :] = float("-inf")
    before = ordered.softmax(dim=0).cumsum(dim=0).roll(1)
    before[0] = 0
    ordered[before >= decoding.top_p] = float("-inf")
    probabilities = torch.zeros_like(scores).index_put((tokens,), ordered.softmax(dim=0))
    return int(torch.multinomial(probabilities, 1, generator=row.generator))


def outcome_of(row: Row, adapter: LocalAdapter) -> Outcome:
    """Return what a finished row says; an error if its logits were no numbers, since nobody said anything then."""
    request, stop = row.request, row.stop or "length"
    if row.broken:
        weights_broken = adapter.dtype == "float32"
        hint = "The weights are broken: download them again." if weights_broken else "Give --dtype float32 or bfloat16."
        problem = f"The model's logits are not finite (NaN or infinite) in {adapter.dtype}, so it gave no answer."
        return failed(request, f"{problem} {hint}")
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
