"""What the engine is asked, how a prompt's tokens stand, and which prompts share a prefix. Imports no torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice, product, takewhile
from math import prod
from pathlib import Path
from typing import Literal

from medbench.adapters.base import Generation, ImageSlot, LocalAdapter, Prompt, TextSegment, tokens_of
from medbench.adapters.guarding import rendered
from medbench.tasks.foundation.errors import FailureKind
from medbench.tasks.images import size_of_image
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec

Segments = tuple[TextSegment | ImageSlot, ...]
Place = tuple[int, int, int]
Name = tuple[str, str]
Attention = Literal["causal", "images", "prompt"]
ImageKey = tuple[Path, ImageRef]
"""An image and the folder that its reference starts from."""

LONG_ANSWERS_FIRST: tuple[Kind, ...] = ("report", "rec", "reg", "vqa", "cls", "qa")
POOL = 4096
WINDOW = 256
LEAST_SHARED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen; greedily by default."""

    temperature: float = 0.0  # 0 takes the likeliest token.
    top_k: int = 0  # Sample among this many likeliest tokens; 0 for all.
    top_p: float = 1.0  # Sample among the likeliest tokens that together have this probability.
    # Divides the positive and multiplies the negative scores of tokens already written, as transformers does when it is
    # given embeddings.
    repetition_penalty: float = 1.0
    beams: int = 1  # Width of the beam search; more than one is left to transformers, batch by batch.
    seed: int = 0  # Every sample draws from a generator of its own that begins with it.

    @property
    def greedy(self) -> bool:
        """Whether every token is simply the likeliest."""
        return self.temperature == 0 and self.repetition_penalty == 1 and self.beams == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Sampling):
    """How tokens are chosen, and when an answer ends: by an end token (which counts), a stop string, or its length."""

    max_new_tokens: int
    end_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()


GREEDY = Sampling()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sample with its rendered prompt."""

    sample: Sample
    spec: TaskSpec
    source: Path  # Folder that the sample's image references start from.
    prompt: Prompt
    length: int  # Tokens of the prompt, visual ones included.
    decoding: Decoding
    shift: int = 0  # Positions of the prompt minus its tokens; less than 0 where images stand in grids.

    @property
    def name(self) -> Name:
        """Names of task and sample."""
        return self.spec.name, self.sample.sample_id

    @property
    def images(self) -> list[ImageKey]:
        """The images of the prompt, in order."""
        return [(self.source, image) for image in self.prompt.images()]

    @property
    def longest(self) -> int:
        """Tokens of the prompt and of the longest answer."""
        return self.length + self.decoding.max_new_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a sample: a generation, or the reason why there is none."""

    task: str
    sample_id: str
    generation: Generation | None = None
    error: str = ""
    kind: str = ""  # Of the reason, a `FailureKind`; empty where there is none.


def make_request(
    adapter: LocalAdapter, sample: Sample, spec: TaskSpec, source: Path, sampling: Sampling = GREEDY
) -> Request:
    """Return a sample as a request, answered until one of the adapter's end tokens or stop strings.

    Raises SampleError if it cannot be rendered.
    """
    prompt = rendered(adapter, sample, spec, partial(size_of_image, source))
    limit, ends, stops = adapter.longest_answer(spec), adapter.end_ids, adapter.stop_strings(spec)
    decoding = Decoding(max_new_tokens=limit, end_ids=ends, stop_strings=stops, **asdict(sampling))
    shift = layout_of(prompt.segments, "causal").shift
    return Request(
        sample=sample, spec=spec, source=source, prompt=prompt, length=prompt.length, decoding=decoding, shift=shift
    )


def failed(request: Request, error: str, kind: FailureKind) -> Outcome:
    """Return the outcome of a request that got no answer."""
    return Outcome(task=request.spec.name, sample_id=request.sample.sample_id, error=error, kind=kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is not simply one token after the other."""

    # Visual tokens in frames, rows and columns: the first token and these sides, in order.
    grids: tuple[tuple[int, Place], ...] = ()
    mutual: tuple[tuple[int, int], ...] = ()  # Stretches (start, end) whose tokens all read one another.

    @property
    def shift(self) -> int:
        """Positions minus tokens: how much nearer what follows stands."""
        return sum(max(sides) - prod(sides) for _, sides in self.grids)

    def positions(self, start: int, length: int) -> list[Place]:
        """Return the position of every token, the first at `start`; a grid's next token follows its longest side."""
        places: list[Place] = []
        for first, sides in (*self.grids, (length, (0, 0, 0))):
            # Outside of grids positions are equal in all dimensions.
            straight = first - len(places)
            places += [(start + step,) * 3 for step in range(straight)]
            start += straight
            places += [
                (start + frame, start + row, start + column) for frame, row, column in product(*map(range, sides))
            ]
            start += max(sides)
        return places


PLAIN = Layout()


def layout_of(segments: Sequence[TextSegment | ImageSlot], attention: Attention) -> Layout:
    """Return the layout of segments under a model's attention."""
    grids, images, end = [], [], 0
    for segment in segments:
        start, end = end, end + tokens_of(segment)
        if isinstance(segment, ImageSlot) and segment.grid:
            grids.append((start, segment.grid))
        if isinstance(segment, ImageSlot) and segment.tokens:
            images.append((start, end))
    mutual = {"causal": (), "images": tuple(images), "prompt": ((0, end),)}[attention]
    return Layout(grids=tuple(grids), mutual=mutual)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SharedPrefix:
    """What several prompts begin with: computed once, and kept until the last of them is answered.

    Visual tokens, which its length counts, may depend on the kind of the tasks.
    """

    place: tuple[Path, Kind]  # Where its images start from, and what they are made for.
    segments: Segments
    length: int
    layout: Layout = PLAIN


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrefixedRequest:
    """A request in two parts: the prefix that it shares with others, if any, and its own other segments."""

    request: Request
    prefix: SharedPrefix | None
    own: Segments

    @property
    def own_length(self) -> int:
        """Tokens of its own part."""
        return self.request.length - (self.prefix.length if self.prefix else 0)


def in_order(
    requests: Iterable[Request], *, share: bool, window_tokens: int, attention: Attention = "causal"
) -> Iterator[list[PrefixedRequest]]:
    """Yield windows of requests: questions of one image meet, and within a window like lengths stand together.

    Long answers start early, so that short ones fill up what they leave. Requests are read a few thousand at a time,
    so that a large suite starts at once. The shared prefixes of a window have at most `window_tokens` tokens.
    """
    stream = iter(requests)
    while pool := list(islice(stream, POOL)):
        pool.sort(key=lambda request: LONG_ANSWERS_FIRST.index(request.spec.kind))
        # Prompts that are equal up to their last image, in the order of their first.
        alike: dict[tuple[object, ...], list[Request]] = {}
        for request in pool:
            head = _up_to_last_image(request.prompt.segments)
            # Without an image only the questions of one task begin alike.
            key = (request.source, request.spec.kind, head) if head else (request.spec.name,)
            alike.setdefault(key, []).append(request)
        pieces = (one for some in alike.values() for one in _split(some, attention, share=share))
        yield from _windows(pieces, window_tokens)


def _up_to_last_image(segments: Segments) -> Segments:
    places = [index for index, segment in enumerate(segments) if isinstance(segment, ImageSlot)]
    return segments[: places[-1] + 1] if places else ()


def _split(requests: Sequence[Request], attention: Attention, *, share: bool) -> Iterator[PrefixedRequest]:
    first, head = requests[0], _up_to_last_image(requests[0].prompt.segments)
    tails = [
        tuple(token for text in request.prompt.segments[len(head) :] for token in getattr(text, "ids", ()))
        for request in requests
    ]
    # Of all tails the least and the greatest differ first. Every prompt keeps a token of its own: the first answer
    # token is read from it.
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(min(tails), max(tails), strict=False))
    common = min(sum(1 for _ in alike), min(map(len, tails)) - 1)
    segments = (*head, TextSegment(ids=tails[0][:common])) if common > 0 else head
    length = sum(map(tokens_of, segments))
    shares = share and len(requests) > 1 and length >= LEAST_SHARED and common >= 0
    place, layout = (first.source, first.spec.kind), layout_of(segments, attention)
    prefix = SharedPrefix(place=place, segments=segments, length=length, layout=layout)
    for request, tail in zip(requests, tails, strict=True):
        own = (TextSegment(ids=tail[common:]),) if shares else request.prompt.segments
        yield PrefixedRequest(request=request, prefix=prefix if shares else None, own=own)


def _windows(requests: Iterable[PrefixedRequest], window_tokens: int) -> Iterator[list[PrefixedRequest]]:
    """Yield the requests window by window; text alone and images do not meet, since their lengths are unlike."""
    window: list[PrefixedRequest] = []
    for one in requests:
        shared = sum(prefix.length for prefix in {other.prefix for other in window} if prefix)
        unlike = bool(window) and bool(one.request.images) != bool(window[0].request.images)
        if len(window) == WINDOW or unlike or shared > window_tokens:
            yield sorted(window, key=lambda one: -one.own_length)
            window = []
        window.append(one)
    if window:
        yield sorted(window, key=lambda one: -one.own_length)
