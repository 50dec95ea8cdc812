"""Which requests begin alike, and in which order all are answered."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from medbench.adapters.base import ImageSlot, TextSegment, tokens_of
from medbench.harness.engine.request import Request
from medbench.tasks.spec import Kind

Segments = tuple[TextSegment | ImageSlot, ...]

LONG_ANSWERS_FIRST: tuple[Kind, ...] = ("report", "rec", "reg", "vqa", "cls", "qa")
POOL = 4096
WINDOW = 256
LEAST_SHARED = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Beginning:
    """What several prompts begin with: computed once, while the last of them is not yet admitted.

    Attributes:
        source: Folder of the images.
        kind: Kind of the tasks, which the visual tokens may depend on.
        segments: The common segments.
        length: Their tokens, visual ones included.
    """

    source: Path
    kind: Kind
    segments: Segments
    length: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """A request in two parts: what it shares with others, if anything, and what is its own.

    Attributes:
        request: The whole.
        beginning: What it shares, or None.
        own: Its other segments.
    """

    request: Request
    beginning: Beginning | None
    own: Segments

    @property
    def own_length(self) -> int:
        """Tokens of its own part."""
        return self.request.length - (self.beginning.length if self.beginning else 0)


def in_order(requests: Iterable[Request], *, share: bool, window_tokens: int) -> Iterator[list[Member]]:
    """Yield windows of members: questions of one image meet, and within a window like lengths stand together.

    Long answers start early, so that short ones fill up what they leave. Requests are read a few thousand at a time,
    so that a large suite starts at once.

    Args:
        requests: In the order of their tasks.
        share: Whether prompts may share their beginnings.
        window_tokens: Tokens of shared beginnings that one window may hold at the same time.
    """
    stream = iter(requests)
    while pool := list(islice(stream, POOL)):
        members: list[Member] = []
        pool.sort(key=lambda request: LONG_ANSWERS_FIRST.index(request.spec.kind))
        for alike in _alike(pool):
            members += _members(alike) if share and len(alike) > 1 else _alone(alike)
        yield from _windows(members, window_tokens)


def _alike(requests: Iterable[Request]) -> list[list[Request]]:
    """Return requests whose prompts are equal up to their last image, in the order of their first."""
    alike: dict[tuple[object, ...], list[Request]] = {}
    for request in requests:
        head = _head(request.prompt.segments)
        # Without an image only the questions of one task begin alike.
        key = (request.source, request.spec.kind, head) if head else (request.spec.name,)
        alike.setdefault(key, []).append(request)
    return list(alike.values())


def _head(segments: Segments) -> Segments:
    places = [index for index, segment in enumerate(segments) if isinstance(segment, ImageSlot)]
    return segments[: places[-1] + 1] if places else ()


def _alone(requests: Iterable[Request]) -> list[Member]:
    return [Member(request=request, beginning=None, own=request.prompt.segments) for request in requests]


def _members(requests: Sequence[Request]) -> list[Member]:
    first = requests[0]
    head = _head(first.prompt.segments)
    tails = [_ids(request.prompt.segments[len(head) :]) for request in requests]
    # Every prompt keeps a token of its own: the first answer token is read from it.
    common = min(_common_length(tails), min(map(len, tails)) - 1)
    segments = (*head, TextSegment(ids=tails[0][:common])) if common > 0 else head
    length = sum(map(tokens_of, segments))
    if length < LEAST_SHARED or common < 0:
        return _alone(requests)
    beginning = Beginning(source=first.source, kind=first.spec.kind, segments=segments, length=length)
    return [
        Member(request=request, beginning=beginning, own=(TextSegment(ids=tail[max(common, 0) :]),))
        for request, tail in zip(requests, tails, strict=True)
    ]


def _common_length(tails: Sequence[tuple[int, ...]]) -> int:
    """Return how many ids all have in common at their beginnings; the least and the greatest differ first."""
    least, greatest = min(tails), max(tails)
    pairs = enumerate(zip(least, greatest, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(least), len(greatest)))


def _ids(segments: Segments) -> tuple[int, ...]:
    return tuple(token for segment in segments if isinstance(segment, TextSegment) for token in segment.ids)


def _windows(members: Iterable[Member], window_tokens: int) -> Iterator[list[Member]]:
    """Yield the members window by window; text alone and images do not meet, since their lengths are unlike."""
    window: list[Member] = []
    beginnings: set[Beginning] = set()
    for member in members:
        if window and (
            len(window) == WINDOW or _sees(member) != _sees(window[0]) or _tokens(beginnings) > window_tokens
        ):
            yield _sorted(window)
            window, beginnings = [], set()
        window.append(member)
        if member.beginning is not None:
            beginnings.add(member.beginning)
    if window:
        yield _sorted(window)


def _sees(member: Member) -> bool:
    return bool(member.request.prompt.images())


def _tokens(beginnings: set[Beginning]) -> int:
    return sum(beginning.length for beginning in beginnings)


def _sorted(window: list[Member]) -> list[Member]:
    return sorted(window, key=lambda member: -member.own_length)
