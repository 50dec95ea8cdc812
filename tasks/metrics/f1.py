"""F1 over the words of two normalised answers."""

from collections import Counter


def asymmetric_f1(prediction: str, reference: str) -> float:
    """Return the F1 of the official evaluation, which credits every repetition of a right word.

    Words of both texts count as often as in the prediction, words of one text as often as there. Hence `no no
    no` against `no` scores 1, and swapping the two texts changes the value.

    Source: `calculate_f1score` of the official Uni-Med evaluation; the paper's Eq. 16-18 count common words.
    """
    predicted, wanted = Counter(prediction.split()), Counter(reference.split())
    right = sum(count for word, count in predicted.items() if word in wanted)
    surplus = predicted.total() - right
    missing = sum(count for word, count in wanted.items() if word not in predicted)
    return 2 * right / (2 * right + surplus + missing) if right else 0.0


def clipped_f1(prediction: str, reference: str) -> float:
    """Return F1 over words, each counted at most as often as it occurs in both texts.

    Source: the usual definition for short answers (SQuAD), which is what the paper's Eq. 16-18 say.
    """
    predicted, wanted = prediction.split(), reference.split()
    common = (Counter(predicted) & Counter(wanted)).total()
    return 2 * common / (len(predicted) + len(wanted)) if common else 0.0
