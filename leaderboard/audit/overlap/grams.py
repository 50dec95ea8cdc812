"""Texts as arrays of hashed runs of words, so that thousands are compared at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

_KEPT_WORDS = 1 << 19
_LONGEST_RUN = 16
_WEIGHTS = np.frombuffer(blake2b(b"runs of words", digest_size=64).digest() * 2, dtype=np.uint64) | np.uint64(1)
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
class Words:
    """The words of several texts, one behind the other.

    Attributes:
        hashes: Of every word [W].
        text: Which text each word belongs to [W].
        lengths: Words of each text [T].
    """

    hashes: Hashes
    text: Indices
    lengths: Indices


def words_of(texts: Sequence[str], known: WordHashes) -> Words:
    """Return the hashed words of normalised texts."""
    split = [text.split() for text in texts]
    lengths = np.array([len(words) for words in split], dtype=np.int64)
    flat = (known[word] for words in split for word in words)
    hashes = np.fromiter(flat, dtype=np.uint64, count=int(lengths.sum()))
    return Words(hashes, np.repeat(np.arange(len(split)), lengths), lengths)


def runs_of(words: Words, size: int) -> tuple[Hashes, Indices]:
    """Return the distinct runs of `size` words of each text.

    Returns:
        Hashes [R] and the text of each [R], ordered by text, then by hash.
    """
    count = len(words.hashes) - size + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.int64)
    runs = np.zeros(count, dtype=np.uint64)
    for place in range(size):
        runs += words.hashes[place : place + count] * _WEIGHTS[place % _LONGEST_RUN]
    whole = words.text[:count] == words.text[size - 1 :]
    return _distinct(_mixed(runs[whole]), words.text[:count][whole])


def _mixed(runs: Hashes) -> Hashes:
    runs = (runs ^ (runs >> _SHIFT)) * _MIX
    return runs ^ (runs >> _SHIFT)


def _distinct(hashes: Hashes, text: Indices) -> tuple[Hashes, Indices]:
    order = np.lexsort((hashes, text))
    hashes, text = hashes[order], text[order]
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (text[1:] != text[:-1])
    return hashes[first], text[first]


def slices(text: Indices, count: int) -> Indices:
    """Return where the runs of each of `count` texts begin, and one end [count + 1]."""
    return np.searchsorted(text, np.arange(count + 1))


class Postings:
    """Which texts hold a hash: a sorted table."""

    def __init__(self, hashes: Hashes, text: Indices) -> None:
        order = np.lexsort((text, hashes))
        self._text = text[order]
        self.keys, self._starts = np.unique(hashes[order], return_index=True)
        self._ends = np.append(self._starts[1:], len(order))

    def find(self, hashes: Hashes) -> Indices:
        """Return the place of each hash in the table, -1 where it is not [N]."""
        if not len(self.keys):
            return np.full(len(hashes), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self.keys, hashes), len(self.keys) - 1)
        return np.where(self.keys[places] == hashes, places, -1)

    def pairs(self, hashes: Hashes, owner: Indices) -> tuple[Indices, Indices]:
        """Return all pairs of an owner of a hash and a text that holds it, each pair once, in order."""
        places = self.find(hashes)
        owner, places = owner[places >= 0], places[places >= 0]
        counts = self._ends[places] - self._starts[places]
        offsets = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
        text = self._text[np.repeat(self._starts[places], counts) + offsets]
        if not len(text):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        both = np.unique(np.stack([np.repeat(owner, counts), text]), axis=1)
        return both[0], both[1]
