"""MinHash signatures and their bands (Broder 1997; locality-sensitive hashing as in Leskovec et al., chapter 3)."""

import numpy as np

from medbench.leaderboard.audit.overlap.grams import Hashes, Indices, Postings

PERMUTATIONS = 128
BANDS = 32
_ROWS = PERMUTATIONS // BANDS
_ODD = np.uint64(1)
_HIGH = np.uint64(32)
_SEED = 20260101
_BAND_WEIGHT = np.uint64(0xD6E8FEB86659FD93)


def _constants() -> tuple[Hashes, Hashes]:
    draw = np.random.Generator(np.random.PCG64(_SEED))
    return (
        draw.integers(0, 2**64, PERMUTATIONS, dtype=np.uint64) | _ODD,
        draw.integers(0, 2**64, PERMUTATIONS, dtype=np.uint64),
    )


_FACTORS, _OFFSETS = _constants()


def signatures(hashes: Hashes, starts: Indices) -> Hashes:
    """Return the signature of each text [T, 128].

    Args:
        hashes: The shingles of all texts, one text behind the other; no text without any.
        starts: Where each text begins [T].
    """
    found = np.empty((len(starts), PERMUTATIONS), dtype=np.uint64)
    for place in range(PERMUTATIONS):
        # Multiply and shift: the high half of the product is close to uniform.
        permuted = (hashes * _FACTORS[place] + _OFFSETS[place]) >> _HIGH
        found[:, place] = np.minimum.reduceat(permuted, starts)
    return found


def bands(signature: Hashes) -> Hashes:
    """Return one hash per band [T, 32]; texts that agree in one are candidates.

    With four rows to a band, two texts of Jaccard similarity s agree in at least one of 32 bands with probability
    1 - (1 - s^4)^32: 0.87 at 0.5, 0.98 at 0.6, 0.9999 at 0.75.
    """
    rows = signature.reshape(len(signature), BANDS, _ROWS)
    # The band's number goes into its hash, so that one table serves all bands.
    found: Hashes = np.tile(np.arange(BANDS, dtype=np.uint64), (len(signature), 1))
    for row in range(_ROWS):
        found ^= rows[:, :, row]
        found *= _BAND_WEIGHT
        found ^= found >> _HIGH
    return found


def band_table(signature: Hashes, text: Indices) -> Postings:
    """Return the table of bands of the texts with these numbers."""
    return Postings(bands(signature).ravel(), np.repeat(text, BANDS))


def candidates(table: Postings, signature: Hashes, text: Indices) -> tuple[Indices, Indices]:
    """Return pairs of a text and a text of the table that agree in a band."""
    return table.pairs(bands(signature).ravel(), np.repeat(text, BANDS))
