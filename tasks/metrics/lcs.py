"""Longest common subsequences of word sequences, one machine-word operation per word instead of a table row.

Source: the bit-vector recurrence of Hyyro (2004), "Bit-parallel LCS-length computation revisited".
"""

from collections.abc import Sequence


def _rows(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Return a bit vector per prefix of `first`: bit j is 0 where `second[j]` makes the length grow."""
    everywhere = (1 << len(second)) - 1
    places: dict[str, int] = {}
    for index, word in enumerate(second):
        places[word] = places.get(word, 0) | 1 << index
    row = everywhere
    rows = [row]
    for word in first:
        matches = row & places.get(word, 0)
        row = (row + matches | row - matches) & everywhere
        rows.append(row)
    return rows


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the number of words in a longest common subsequence."""
    return len(second) - _rows(first, second)[-1].bit_count()


def lcs_words(first: Sequence[str], second: Sequence[str]) -> set[str]:
    """Return the distinct words of one longest common subsequence, traced back from the ends.

    Of several longest ones it is the one that `rouge` 1.0.1 finds: equal last words are taken at once, and
    the last word of `second` is dropped unless dropping that of `first` keeps more.
    """
    rows = _rows(first, second)
    found: set[str] = set()
    i, j = len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.add(first[i - 1])
            i, j = i - 1, j - 1
        elif _length(rows[i - 1], j) > _length(rows[i], j - 1):
            i -= 1
        else:
            j -= 1
    return found


def _length(row: int, words: int) -> int:
    return words - (row & (1 << words) - 1).bit_count()
