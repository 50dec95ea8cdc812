"""Near-duplicate texts: the test side is indexed, training texts stream by.

Two definitions, either of which is enough (facts on their base rates are in docs/audit-data.md):

- containment: one training text holds at least 0.8 of the test text's runs of eight words;
- Jaccard similarity of at least 0.5 between the sets of runs of five words, searched for with MinHash (128
  permutations in 32 bands) and verified exactly.

Texts under eight words are compared exactly only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.audit.normalise import MIN_WORDS
from medbench.leaderboard.audit.overlap.grams import (
    Hashes,
    Indices,
    Postings,
    WordHashes,
    Words,
    runs_of,
    slices,
    words_of,
)
from medbench.leaderboard.audit.overlap.minhash import band_table, candidates, signatures

CONTAINMENT = 0.8
JACCARD = 0.5
GRAM, SHINGLE = 8, 5


@dataclass(frozen=True, slots=True)
class NearText:
    """A training text that is nearly a test text.

    Attributes:
        row: Number of the training text among those asked about.
        text: Number of the test text.
        containment: Share of the test text's runs of eight words that the training text holds.
        jaccard: Similarity of their sets of runs of five words.
    """

    row: int
    text: int
    containment: float
    jaccard: float


class TextIndex:
    """The distinct normalised texts of the test side."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._known = WordHashes()
        words = words_of(texts, self._known)
        long = words.lengths >= MIN_WORDS
        self._grams, gram_text = runs_of(words, GRAM)
        self._gram_slices = slices(gram_text, len(texts))
        self._rare = _rarest(self._grams, gram_text, self._gram_slices)
        shingles, shingle_text = runs_of(words, SHINGLE)
        kept = long[shingle_text]
        self._shingles, shingle_text = shingles[kept], shingle_text[kept]
        self._shingle_slices = slices(shingle_text, len(texts))
        self._any_shingle = Postings(self._shingles, shingle_text)
        present = np.flatnonzero(np.diff(self._shingle_slices))
        self._bands = band_table(signatures(self._shingles, self._shingle_slices[:-1][present]), present)

    def near(self, texts: Sequence[str], settled: npt.NDArray[np.bool_]) -> Iterator[NearText]:
        """Yield the near-duplicates among training texts, in order of training text and test text.

        Args:
            texts: Normalised training texts.
            settled: Test texts that need not be looked for any more [T]; read when a pair comes up.
        """
        words = words_of(texts, self._known)
        grams, gram_row = runs_of(words, GRAM)
        shingles, shingle_row = runs_of(words, SHINGLE)
        gram_slices, shingle_slices = slices(gram_row, len(texts)), slices(shingle_row, len(texts))
        by_grams = self._rare.pairs(grams, gram_row)
        by_bands = self._by_bands(shingles, shingle_row, shingle_slices, words)
        both = np.concatenate([np.stack(by_grams), np.stack(by_bands)], axis=1)
        for row, text in np.unique(both, axis=1).T.tolist():
            if settled[text]:
                continue
            containment = _contained(_part(self._grams, self._gram_slices, text), _part(grams, gram_slices, row))
            ours = _part(self._shingles, self._shingle_slices, text)
            jaccard = _jaccard(ours, _part(shingles, shingle_slices, row))
            if containment >= CONTAINMENT or jaccard >= JACCARD:
                yield NearText(row, text, containment, jaccard)

    def _by_bands(
        self, shingles: Hashes, shingle_row: Indices, starts: Indices, words: Words
    ) -> tuple[Indices, Indices]:
        # A similarity of a half needs half of the row's own shingles on the test side: all others need no signature.
        known = self._any_shingle.find(shingles) >= 0
        hits = np.bincount(shingle_row[known], minlength=len(words.lengths))
        rows = np.flatnonzero((hits > 0) & (hits >= JACCARD * np.diff(starts)))
        if not len(rows):
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
        kept = np.isin(shingle_row, rows)
        firsts = np.searchsorted(shingle_row[kept], rows)
        return candidates(self._bands, signatures(shingles[kept], firsts), rows)


def _rarest(grams: Hashes, text: Indices, starts: Indices) -> Postings:
    """Index only as many of each text's runs, the rarest first, that a text which holds 0.8 of all must hold one."""
    _, inverse, counts = np.unique(grams, return_inverse=True, return_counts=True)
    order = np.lexsort((grams, counts[inverse], text))
    sizes = np.diff(starts)
    rank = np.arange(len(grams)) - np.repeat(starts[:-1], sizes)
    kept = order[rank <= np.repeat(sizes - np.ceil(CONTAINMENT * sizes), sizes)]
    return Postings(grams[kept], text[kept])


def _part(values: Hashes, starts: Indices, place: int) -> Hashes:
    return values[starts[place] : starts[place + 1]]


def _contained(ours: Hashes, theirs: Hashes) -> float:
    return _shared(ours, theirs) / len(ours) if len(ours) else 0.0


def _jaccard(ours: Hashes, theirs: Hashes) -> float:
    shared = _shared(ours, theirs)
    return shared / (len(ours) + len(theirs) - shared) if shared else 0.0


def _shared(ours: Hashes, theirs: Hashes) -> int:
    if not len(ours) or not len(theirs):
        return 0
    places = np.minimum(np.searchsorted(theirs, ours), len(theirs) - 1)
    return int((theirs[places] == ours).sum())
