"""Texts that one training text contains: the test side is indexed, training texts stream by, thousands at once.

A training text contains a test text if it holds at least 0.8 of its runs of eight words (facts on the base rates are in
docs/audit-data.md). Texts under eight words are compared exactly only. Runs of words are hashed; a test text is looked
up by its rarest runs, only as many as a text that holds 0.8 of all cannot miss.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

CONTAINMENT = 0.8
GRAM = 8

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

_KEPT_WORDS = 1 << 19
_WEIGHTS = np.frombuffer(blake2b(b"runs of words", digest_size=64).digest(), dtype=np.uint64) | np.uint64(1)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(29)


class WordHashes(dict[str, int]):
    """Hash of each word, the same in every process; forgets all when it holds half a million, to stay small."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _KEPT_WORDS:
            self.clear()
        value = int.from_bytes(blake2b(word.encode(), digest_size=8).digest(), "little")
        self[word] = value
        return value


@dataclass(frozen=True, slots=True)
class _Runs:
    """The distinct runs of eight words of T texts: hashes [R], the text of each [R], ordered by text, then by hash."""

    hashes: Hashes
    text: Indices
    starts: Indices

    def of(self, text: int) -> Hashes:
        return self.hashes[self.starts[text] : self.starts[text + 1]]


def _runs_of(texts: Sequence[str], known: WordHashes) -> _Runs:
    split = [text.split() for text in texts]
    lengths = np.array([len(words) for words in split], dtype=np.int64)
    flat = np.fromiter((known[word] for words in split for word in words), dtype=np.uint64, count=int(lengths.sum()))
    owner = np.repeat(np.arange(len(split)), lengths)
    count = max(0, len(flat) - GRAM + 1)
    runs = np.zeros(count, dtype=np.uint64)
    for place in range(GRAM if count else 0):
        runs += flat[place : place + count] * _WEIGHTS[place]
    whole = owner[:count] == owner[GRAM - 1 :]
    runs = (runs[whole] ^ (runs[whole] >> _SHIFT)) * _MIX
    hashes, text = runs ^ (runs >> _SHIFT), owner[:count][whole]
    order = np.lexsort((hashes, text))
    hashes, text = hashes[order], text[order]
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
    hashes, text = hashes[first], text[first]
    return _Runs(hashes, text, np.searchsorted(text, np.arange(len(texts) + 1)))


@dataclass(frozen=True, slots=True)
class Contained:
    """A training text, by its number among those asked about, that contains a test text, by its number.

    `containment` is the share of the test text's runs of eight words that the training text holds.
    """

    row: int
    text: int
    containment: float


class TextIndex:
    """The distinct normalised texts of the test side."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._known = WordHashes()
        self._runs = _runs_of(texts, self._known)
        hashes, text = _rarest(self._runs)
        order = np.lexsort((text, hashes))
        self._text = text[order]
        self._keys, self._firsts, self._counts = np.unique(hashes[order], return_index=True, return_counts=True)

    def contained_in(self, texts: Sequence[str], settled: npt.NDArray[np.bool_]) -> Iterator[Contained]:
        """Yield which test texts training texts contain, in order of training text and test text.

        Args:
            texts: Normalised training texts.
            settled: Test texts that need not be looked for any more [T]; read when a pair comes up.
        """
        theirs = _runs_of(texts, self._known)
        for row, text in self._candidates(theirs):
            ours = self._runs.of(text)
            if not settled[text] and (share := _shared(ours, theirs.of(row)) / len(ours)) >= CONTAINMENT:
                yield Contained(row, text, share)

    def _candidates(self, theirs: _Runs) -> list[tuple[int, int]]:
        """Return all pairs of a training text and a test text with a common run that is indexed."""
        if not len(self._keys) or not len(theirs.hashes):
            return []
        places = np.minimum(np.searchsorted(self._keys, theirs.hashes), len(self._keys) - 1)
        found = self._keys[places] == theirs.hashes
        row, places = theirs.text[found], places[found]
        counts = self._counts[places]
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        text = self._text[np.repeat(self._firsts[places], counts) + offsets]
        both = np.unique(np.stack([np.repeat(row, counts), text]), axis=1)
        return list(zip(*both.tolist(), strict=True))


def _rarest(runs: _Runs) -> tuple[Hashes, Indices]:
    """Return only as many of each text's runs, the rarest first, that a text which holds 0.8 of all must hold one."""
    _, inverse, counts = np.unique(runs.hashes, return_inverse=True, return_counts=True)
    order = np.lexsort((runs.hashes, counts[inverse], runs.text))
    sizes = np.diff(runs.starts)
    rank = np.arange(len(runs.hashes)) - np.repeat(runs.starts[:-1], sizes)
    kept = order[rank <= np.repeat(sizes - np.ceil(CONTAINMENT * sizes), sizes)]
    return runs.hashes[kept], runs.text[kept]


def _shared(ours: Hashes, theirs: Hashes) -> int:
    places = np.minimum(np.searchsorted(theirs, ours), len(theirs) - 1)
    return int((theirs[places] == ours).sum())
