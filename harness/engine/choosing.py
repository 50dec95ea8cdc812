"""From logits to the next token of every row, and when a row is finished."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from adapters.base import Generation, StopReason
from harness.engine.request import Outcome, Request

Detokenise = Callable[[Sequence[int]], str]


@dataclass(slots=True, kw_only=True, eq=False)
class Row:
    """An answer that is being written.

    Attributes:
        request: What is answered.
        written: Token ids so far.
        stop: Why it ended, None while it has not.
        generator: Of sampling, made when first used.
    """

    request: Request
    written: list[int] = field(default_factory=list)
    stop: StopReason | None = None
    generator: torch.Generator | None = None

    @property
    def length(self) -> int:
        """Tokens whose keys are in the cache: the prompt and all of the answer but the last token."""
        return self.request.length + len(self.written) - 1

    @property
    def position(self) -> int:
        """Of the last token, which the decoder has not read."""
        return self.length + self.request.shift

    def write(self, token: int, detokenise: Detokenise) -> None:
        """Append a token and note whether the answer ends with it."""
        self.written.append(token)
        self.stop = _stop_of(self, detokenise)

    def take(self, ids: Sequence[int], detokenise: Detokenise) -> None:
        """Append what others wrote, up to where the row would have ended by itself."""
        for token in ids:
            if self.stop is None:
                self.write(token, detokenise)


def write_next(rows: Sequence[Row], logits: torch.Tensor, detokenise: Detokenise) -> None:
    """Append a token to each row by its logits [R, V], and note which rows end with it."""
    plain = all(row.request.decoding.greedy for row in rows)
    tokens = (
        logits.argmax(dim=-1).tolist() if plain else [_choose(row, own) for row, own in zip(rows, logits, strict=True)]
    )
    for row, token in zip(rows, tokens, strict=True):
        row.write(token, detokenise)


def _choose(row: Row, logits: torch.Tensor) -> int:
    decoding = row.request.decoding
    scores = logits.float().cpu()
    if decoding.repetition_penalty != 1 and row.written:
        seen = torch.tensor(sorted(set(row.written)))
        own = scores[seen]
        factor = decoding.repetition_penalty
        scores = scores.index_put((seen,), torch.where(own < 0, own * factor, own / factor))
    if decoding.temperature == 0:
        return int(scores.argmax())
    if row.generator is None:
        row.generator = torch.Generator().manual_seed(_seed_of(row.request))
    return int(torch.multinomial(_probabilities(scores, row.request), 1, generator=row.generator))


def _probabilities(scores: torch.Tensor, request: Request) -> torch.Tensor:
    decoding = request.decoding
    ordered, tokens = ((scores - scores.max()) / decoding.temperature).sort(descending=True, stable=True)
    if decoding.top_k:
        ordered[decoding.top_k :] = float("-inf")
    before = ordered.softmax(dim=0).cumsum(dim=0).roll(1)
    before[0] = 0
    ordered[before >= decoding.top_p] = float("-inf")
    return torch.zeros_like(scores).index_put((tokens,), ordered.softmax(dim=0))


def _seed_of(request: Request) -> int:
    """Return a seed of the sample's own, so that its draws do not depend on its neighbours."""
    name = f"{request.decoding.seed}/{request.spec.name}/{request.sample.sample_id}"
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def _stop_of(row: Row, detokenise: Detokenise) -> StopReason | None:
    decoding = row.request.decoding
    if row.written[-1] in decoding.end_ids:
        return "eos"
    if decoding.stop_strings:
        text = detokenise(row.written)
        if any(stop in text for stop in decoding.stop_strings):
            return "stop"
    return "length" if len(row.written) >= decoding.max_new_tokens else None


def outcome_of(row: Row, detokenise: Detokenise) -> Outcome:
    """Return what a finished row says."""
    request, stop = row.request, row.stop or "length"
    text = detokenise(row.written[:-1] if stop == "eos" else row.written)
    if stop == "stop":
        text = text[: min(text.index(end) for end in request.decoding.stop_strings if end in text)]
    generation = Generation(text=text, stop=stop, prompt_tokens=request.length, output_tokens=len(row.written))
    return Outcome(task=request.spec.name, sample_id=request.sample.sample_id, generation=generation)
