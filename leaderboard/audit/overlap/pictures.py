"""Equal and nearly equal pictures: the test side is indexed in three views, training pictures stream by."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from medbench.leaderboard.audit.overlap.grams import Hashes, Indices
from medbench.leaderboard.audit.overlap.pixels import NEAR, REVIEW, VIEWS, Print, distance

_CHUNKS = 16
_CHUNK_VALUES = 1 << 16
_PROBES = np.concatenate([[0], 1 << np.arange(16)]).astype(np.uint16)
# Up to so many hashes all are compared with all, which misses nothing.
_COMPARED_WITH_ALL = 4096
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Match:
    """A training picture that is, or may be, a test picture.

    Attributes:
        row: Number of the training picture among those asked about.
        picture: Number of the test picture.
        how: `exact` (equal pixels), `near` (up to 31 of 256 bits differ), `review` (up to 60: only a person can
            tell), or `blank` (equal, and nothing is on it).
        bits: How many bits differ.
        view: Which view of the test picture it is.
    """

    row: int
    picture: int
    how: str
    bits: int = 0
    view: str = VIEWS[0]


class PictureIndex:
    """The pictures of the test side."""

    def __init__(self, prints: Sequence[Print | None]) -> None:
        self._by_pixels: dict[str, list[int]] = defaultdict(list)
        for number, found in enumerate(prints):
            if found is not None:
                self._by_pixels[found.sha256].append(number)
        kept = [number for number, found in enumerate(prints) if found is not None and found.comparable]
        self._prints = tuple(prints)
        self._picture = np.repeat(np.array(kept, dtype=np.int64), len(VIEWS))
        views = [found.views for number in kept if (found := prints[number]) is not None]
        self._hashes = np.concatenate(views) if views else np.empty((0, 4), dtype=np.uint64)
        self._order, self._starts = _chunk_tables(self._hashes)

    @property
    def searches_all(self) -> bool:
        """Whether every pair up to 60 bits is found; of larger indexes some pairs beyond 31 bits are missed."""
        return len(self._hashes) <= _COMPARED_WITH_ALL

    def match(self, prints: Sequence[Print | None]) -> Iterator[Match]:
        """Yield what is found for training pictures, in order of training picture and test picture."""
        for start in range(0, len(prints), _BATCH):
            batch = prints[start : start + _BATCH]
            near = self._near(batch)
            for place, found in enumerate(batch):
                if found is not None:
                    yield from self._matches_of(start + place, found, near.get(place, {}))

    def _matches_of(self, row: int, found: Print, near: dict[int, tuple[int, int]]) -> Iterator[Match]:
        same = self._by_pixels.get(found.sha256, [])
        how = "blank" if found.flat else "exact"
        for picture in sorted({*same, *near}):
            if picture in same:
                yield Match(row, picture, how)
            else:
                bits, view = near[picture]
                yield Match(row, picture, "near" if bits <= NEAR else "review", bits, VIEWS[view])

    def _near(self, batch: Sequence[Print | None]) -> dict[int, dict[int, tuple[int, int]]]:
        places = np.array([place for place, found in enumerate(batch) if found is not None and found.comparable])
        if not len(places) or not len(self._hashes):
            return {}
        asked = np.stack([found.views[0] for found in batch if found is not None and found.comparable])
        if self.searches_all:
            bits = distance(asked[:, None], self._hashes[None])
            rows, columns = np.nonzero(bits <= REVIEW)
            bits = bits[rows, columns]
        else:
            rows, columns = self._probed(asked)
            bits = distance(asked[rows], self._hashes[columns])
            close = bits <= REVIEW
            rows, columns, bits = rows[close], columns[close], bits[close]
        return self._best(places[rows], columns, bits)

    def _best(self, places: Indices, columns: Indices, bits: Indices) -> dict[int, dict[int, tuple[int, int]]]:
        best: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
        for place, column, differing in zip(places.tolist(), columns.tolist(), bits.tolist(), strict=True):
            picture, found = int(self._picture[column]), (differing, column % len(VIEWS))
            best[place][picture] = min(found, best[place].get(picture, found))
        return best

    def _probed(self, asked: Hashes) -> tuple[Indices, Indices]:
        """Return pairs that agree in one of 16 chunks up to one bit: with at most 31 differing bits one always does."""
        chunks = asked.view(np.uint16).reshape(len(asked), _CHUNKS)
        pairs = [self._in_chunk(place, chunks[:, place]) for place in range(_CHUNKS)]
        both = np.unique(np.concatenate(pairs))
        return both // len(self._hashes), both % len(self._hashes)

    def _in_chunk(self, place: int, values: "np.ndarray[tuple[int], np.dtype[np.uint16]]") -> Indices:
        probes = (values[:, None] ^ _PROBES[None]).astype(np.int64)
        firsts = self._starts[place][probes]
        counts = self._starts[place][probes + 1] - firsts
        rows = np.repeat(np.arange(len(values)), counts.sum(axis=1))
        flat = counts.ravel()
        offsets = np.arange(int(flat.sum())) - np.repeat(np.cumsum(flat) - flat, flat)
        columns = self._order[place][np.repeat(firsts.ravel(), flat) + offsets]
        pairs: Indices = rows * len(self._hashes) + columns
        return pairs


def _chunk_tables(hashes: Hashes) -> tuple[list[Indices], list[Indices]]:
    chunks = hashes.view(np.uint16).reshape(len(hashes), _CHUNKS)
    orders = [np.argsort(chunks[:, place], kind="stable") for place in range(_CHUNKS)]
    borders = np.arange(_CHUNK_VALUES + 1)
    return orders, [np.searchsorted(chunks[order, place], borders) for place, order in enumerate(orders)]
