"""Reading answers to closed questions: yes, no and maybe, and one of a few words that only the question names.

One reader of yes, no and maybe serves PubMedQA, closed questions about pictures, and options that say yes and no. A
bare `no` is a word of every second sentence (`No doubt there is a fracture.`), so a word counts only where it is an
answer: at the beginning of a clause or behind a declaration (`the answer is`), and with an end or a reason behind it,
never as the determiner of a noun. Whatever is denied, asked or set beside its opposite (`yes and no`) is unread; of an
answer that takes itself back, the last version counts.

Other closed questions about pictures are answered with a word out of two or three (`left`, `CT`, `hyperdense`). An
answer says the right one if it has its words side by side, does not deny them, and names none of its usual alternatives
as well: `left or right` says neither, `the right lung, not the left lung` says right.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Literal

from medbench.tasks.answers import wording
from medbench.tasks.answers.texts import normalise_strictly, plain_text
from medbench.tasks.answers.wording import phrase, word_lists, word_set

Polar = Literal["yes", "no", "maybe"]

POLAR_WORDS: frozenset[str] = frozenset({"yes", "no", "maybe"})
"""The answers that `read_polar` reads."""

# By the first letter of `{polar_words}`.
_MEANINGS: dict[str, Polar] = {"y": "yes", "n": "no", "m": "maybe"}
_LONG_WORD, _REACH = 5, 160
_DENIALS = word_set("alternative_denials")
_CLAUSES = re.compile(r"[,:()\n]|(?<!thing )(?<!\ball )(?<!\bany )\bbut\b|\s-+\s|\.{2,}", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?;])(?=\s|\Z)|\n")
_COMPOUND = frozenset({"upper", "lower", "top", "bottom", "mid", "middle", "central"})
_FAMILIES = [
    [frozenset(name.strip() for name in group.split("=")) for group in line.split(",")]
    for line in word_lists()["families"]
]
_OPPOSITES = [pair.split() for pair in word_lists()["opposite_prefixes"]]


def read_polar(text: str) -> Polar | None:
    """Return whether an answer (without thoughts) says yes, no or maybe; None if it says none, or more than one."""
    text = plain_text(text)
    *earlier, last = wording.versions(text)
    found = _one_version(last)
    if found is None and earlier and not any(_one_version(version) for version in earlier):
        # Nothing was taken back that had been said.
        return _one_version(text)
    return found


def _one_version(text: str) -> Polar | None:
    return _agreed(wording.afterthought(text) or "") or _agreed(text)


def _agreed(text: str) -> Polar | None:
    """Return the word that a text answers with, if it answers with one only and mentions no other as one."""
    said = phrase("polar_list").sub(_shortened, phrase("polar_repeated").sub(r"\1", text))
    asserted: set[Polar] = set()
    mentioned: set[Polar] = set()
    for token in wording.first_and_last(list(phrase("polar_token").finditer(said))):
        meaning = _MEANINGS[token.group(1)[0].lower()]
        if _is_asserted(said, token, meaning):
            asserted.add(meaning)
            if len(asserted) > 1:
                return None
        elif _is_mentioned(said, token):
            mentioned.add(meaning)
    return asserted.pop() if asserted and mentioned <= asserted else None


def _shortened(match: re.Match[str]) -> str:
    """Return a list of answers as a mark that answers nothing; the same word twice is that word."""
    words = {_MEANINGS[word[0].lower()] for word in phrase("polar_words").findall(match.group())}
    return words.pop() if len(words) == 1 else "/"


def _is_asserted(text: str, token: re.Match[str], meaning: Polar) -> bool:
    """Return whether a word stands alone as an answer: at an end, before a reason, or as the `yes` that begins one."""
    start, end = token.span(1)
    behind, ahead = text[end : end + 120], wording.before(text, start)
    stands = (phrase("polar_maybe_stands") if meaning == "maybe" else phrase("polar_stands")).match(behind)
    if meaning == "yes" and not text[:start].strip(" \t\n\"'([-"):
        stands = stands or phrase("polar_yes_goes_on").match(behind)
    # `It is no` may have been cut off.
    cut_off = not behind.strip() and phrase("polar_this_is").search(ahead)
    if not stands or cut_off or phrase("polar_not_said").match(behind):
        return False
    declared = _begins(ahead)
    if declared is None or phrase("polar_not_its_own").search(wording.before(text, start - declared)):
        return False
    return not wording.is_denied_before(text, start) and not wording.is_supposed(text, start)


@lru_cache(maxsize=1024)
def _begins(ahead: str) -> int | None:
    """Return how far before a word its clause or declaration begins; None if it is in the midst of one."""
    if phrase("polar_begins").search(ahead):
        return 0
    declared = phrase("polar_declared").search(ahead)
    return len(ahead) - declared.start() if declared else None


def _is_mentioned(text: str, token: re.Match[str]) -> bool:
    """Return whether a word is said as an answer that is not claimed: `it may be no`, `no for the right`."""
    start, end = token.span(1)
    behind, ahead = text[end : end + 12], wording.before(text, start)
    aside = phrase("polar_qualified").match(behind) and phrase("polar_begins").search(ahead)
    closed = phrase("polar_ends").match(behind) and not phrase("polar_number").match(behind)
    if not (closed or aside) or wording.is_denied_before(text, start):
        return False
    return phrase("polar_may_be").search(ahead) is not None or not wording.is_supposed(text, start)


def says_alternative(text: str, reference: str) -> bool:
    """Return whether an answer says a reference such as `left` or `CT`, and none of its alternatives."""
    right = _normal(plain_text(reference))
    said = wording.versions(plain_text(text))[-1]
    again = wording.afterthought(said)
    if again is not None:
        words = "\n".join(f" {clause} " for clause in _clauses(_statements(again), denied=True))
        said = again if any(f" {name} " in words for name in (right, *_alternatives_of(right))) else said
    statements = _statements(said)
    # The reason for one alternative may name another: `axial, since the coronal is normal`.
    claims = [phrase("side_reason").split(sentence)[0] for sentence in statements]
    one_of_two = phrase("side_or_other", r"[\s_-]+".join(map(re.escape, right.split())))
    for clauses in (list(_clauses(claims)), list(_clauses(statements))):
        if right and any(_names(clause, right) for clause in clauses):
            others = (_names(clause, other, beside=right) for clause in clauses for other in _alternatives_of(right))
            return not any(one_of_two.search(sentence) for sentence in statements) and not any(others)
    return False


def _normal(text: str) -> str:
    return re.sub(r"\bx ?rays?\b", "x ray", normalise_strictly(text))


def _statements(text: str) -> list[str]:
    """Return the sentences of a text that are no question."""
    return [sentence for sentence in _SENTENCES.split(text) if not sentence.rstrip().endswith("?")]


def _clauses(sentences: Iterable[str], *, denied: bool = False) -> Iterator[str]:
    """Yield the clauses of sentences in the normal form in which answers are compared, denied lists only if asked."""
    for sentence in sentences:
        # `no left, right or upper lesion` denies all three.
        denial, lists = phrase("side_denies").search(sentence), list(phrase("side_lists").finditer(sentence))
        first, last = (denial.start(), lists[-1].end()) if denial and lists and "," in sentence else (0, 0)
        place = 0
        for part in _CLAUSES.split(sentence):
            if (words := _normal(part)) and (denied or not first <= place < last):
                yield phrase("not_a_side").sub("", words)
            place += len(part) + 1


def _names(clause: str, words: str, *, beside: str = "") -> bool:
    """Return whether a clause names an alternative without denying it, outside of the words of the right one."""
    padded = f" {clause} "
    if beside:
        padded = padded.replace(f" {beside} ", " | ")
    for match in re.finditer(f" (?={re.escape(words)} )", padded):
        start, end = match.start(), match.end() + len(words)
        ahead, behind = padded[max(0, start - _REACH) : start].split(), padded[end : end + _REACH]
        # `lower left` is no side of the picture.
        compound = words in {"left", "right"} and not beside and ahead[-1:] and ahead[-1] in _COMPOUND
        denied = any(word in _DENIALS or word.endswith("n't") for word in ahead[-8:])
        denied = denied or phrase("side_denied_before").search(f" {' '.join(ahead[-8:])} ") is not None
        if not compound and not denied and not phrase("side_denied_behind").match(behind):
            return True
    return False


@lru_cache(maxsize=4096)
def _alternatives_of(right: str) -> tuple[str, ...]:
    """Return what else could have been answered where `right` is right: the rest of its families, and its opposites."""
    found: set[str] = set()
    for family in _FAMILIES:
        groups = [group for group in family if any(f" {name} " in f" {right} " for name in group)]
        if groups:
            found |= {name for group in family if group not in groups for name in group}
    for word in right.split():
        for prefix, other in _OPPOSITES + [pair[::-1] for pair in _OPPOSITES]:
            if word.startswith(prefix) and len(word) > len(prefix) + 3:
                found.add(other + word.removeprefix(prefix))
        if len(word) >= _LONG_WORD:
            found |= {prefix + word for prefix in word_set("denying_prefixes")}
    denied = re.match(r"(?:non|no|without) (.+)", right)
    others = {name for name in found if f" {name} " not in f" {right} "}
    return tuple(sorted(others | ({denied.group(1)} if denied else set())))
