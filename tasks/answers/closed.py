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
from medbench.tasks.answers.wording import pattern, word_lists, word_set

Polar = Literal["yes", "no", "maybe"]

POLAR_WORDS: frozenset[str] = frozenset({"yes", "no", "maybe"})
"""The answers that `read_polar` reads."""

# By the first letter of `{polar_words}`.
_MEANINGS: dict[str, Polar] = {"y": "yes", "n": "no", "m": "maybe"}
_ANY = pattern("{polar_words}")
_TOKEN = pattern(r"(?<![\w-])(?<!\w')({polar_words})(?!\w|'\w|-\w)")
# `yes or no`, `yes/no/maybe`, `yes, no`: a list, whoever made it. `Yes, no fracture` is none.
_LIST = pattern("{polar_list}")
_REPEATED = pattern(r"(?<![\w'-])({polar_words})(?: \1\b)+(?!\s*[-\w])")
_ENDS = r"\s*(?:\Z|[.,;:!)\]}\"'\n]|\s-+(?=\s|\Z)|-\s)"
_STANDS = pattern(_ENDS + r"| (?:{polar_reasons})\b|\s*(?:\([^()]*\)|\[[\d\s,-]+\])\s*(?:\Z|[.,;!\n])")
_MAYBE_STANDS = pattern(_ENDS + r"| (?:because|since|as|due|rather|instead|but)\b|\s*\(")
_QUALIFIED = pattern(r"\s+(?:for|on|in|at|if|when|otherwise)\b")
_IS_CLOSED, _IS_NUMBER = re.compile(_ENDS, re.IGNORECASE), re.compile(r"\.\s*\d")
# Behind a `yes` at the very beginning nearly everything is an explanation: `yes fracture is visible`.
_YES_GOES_ON = pattern(r"\s+(?!(?:{yes_does_not_go_on})\b|\d+\s*(?:%|[.,;]|\Z))\w")
_BEGINS = pattern(r"""(?:\A|[.!?;:,\n(\[{"'>|=]|(?:\A|\s)-+)(?:\s*[:,]?\s*(?:{polar_surely}|actually))*\s*[,:]?\s*\Z""")
_DECLARED = pattern("{polar_declared}")
_THIS_IS = pattern(r"\b(?:it|this|that|which)(?:'s| is)\s*\Z")
# `Yes, if it is large`, `"Yes" is incorrect`, `P(yes)=0.4`: no answer, but what would make one.
_NOT_SAID = pattern("{polar_not_said}")
_WRONG = pattern(r"\b(?:{polar_wrong})\s*\Z")
_MAY_BE = pattern(r"\b(?:may|might|could) (?:also |well )?be\s*\Z")
_DOES_NOT_KNOW = pattern("{polar_does_not_know}")
_LONG_WORD, _REACH = 5, 160
_DENIALS = word_set("alternative_denials")
_DENIED_AHEAD, _DENIED_BEHIND = pattern("{alternative_denied_before}"), pattern("{alternative_denied_behind}")
_CLAUSES = re.compile(r"[,:()\n]|(?<!thing )(?<!\ball )(?<!\bany )\bbut\b|\s-+\s|\.{2,}", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?;])(?=\s|\Z)|\n")
_REASONS = pattern(r"\b(?:because|since)\b")
_NOT_A_SIDE = pattern("{not_a_side}")
_DENIES, _LISTS = pattern(r"\b(?:no|not|neither|without|never)\b"), pattern(r"\b(?:or|nor)\b")
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
    said = _LIST.sub(_shortened, _REPEATED.sub(r"\1", text))
    asserted: set[Polar] = set()
    mentioned: set[Polar] = set()
    for token in wording.first_and_last(list(_TOKEN.finditer(said))):
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
    words = {_MEANINGS[word[0].lower()] for word in _ANY.findall(match.group())}
    return words.pop() if len(words) == 1 else "/"


def _is_asserted(text: str, token: re.Match[str], meaning: Polar) -> bool:
    """Return whether a word stands alone as an answer: at an end, before a reason, or as the `yes` that begins one."""
    start, end = token.span(1)
    behind, ahead = text[end : end + 120], wording.before(text, start)
    stands = (_MAYBE_STANDS if meaning == "maybe" else _STANDS).match(behind)
    if meaning == "yes" and not text[:start].strip(" \t\n\"'([-"):
        stands = stands or _YES_GOES_ON.match(behind)
    # `It is no` may have been cut off.
    cut_off = not behind.strip() and _THIS_IS.search(ahead)
    if not stands or cut_off or _IS_NUMBER.match(behind) or _DOES_NOT_KNOW.match(behind) or _NOT_SAID.match(behind):
        return False
    declared = _begins(ahead)
    if declared is None or _WRONG.search(wording.before(text, start - declared)):
        return False
    return not wording.is_denied_before(text, start) and not wording.is_supposed(text, start)


@lru_cache(maxsize=1024)
def _begins(ahead: str) -> int | None:
    """Return how far before a word its clause or declaration begins; None if it is in the midst of one."""
    if _BEGINS.search(ahead):
        return 0
    declared = _DECLARED.search(ahead)
    return len(ahead) - declared.start() if declared else None


def _is_mentioned(text: str, token: re.Match[str]) -> bool:
    """Return whether a word is said as an answer that is not claimed: `it may be no`, `no for the right`."""
    start, end = token.span(1)
    behind, ahead = text[end : end + 12], wording.before(text, start)
    aside = _QUALIFIED.match(behind) and _BEGINS.search(ahead)
    closed = _IS_CLOSED.match(behind) and not _IS_NUMBER.match(behind)
    if not (closed or aside) or wording.is_denied_before(text, start):
        return False
    return _MAY_BE.search(ahead) is not None or not wording.is_supposed(text, start)


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
    claims = [_REASONS.split(sentence)[0] for sentence in statements]
    for clauses in (list(_clauses(claims)), list(_clauses(statements))):
        if right and any(_names(clause, right) for clause in clauses):
            return not any(_is_one_of_two(sentence, right) for sentence in statements) and not any(
                _names(clause, other, beside=right) for clause in clauses for other in _alternatives_of(right)
            )
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
        denial, lists = _DENIES.search(sentence), [match.end() for match in _LISTS.finditer(sentence)]
        last = lists[-1] if denial and lists and "," in sentence else 0
        place = 0
        for part in _CLAUSES.split(sentence):
            listed = denial is not None and denial.start() <= place < last
            if (words := _normal(part)) and (denied or not listed):
                yield _NOT_A_SIDE.sub("", words)
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
        near = ahead[-8:]
        denied = any(word in _DENIALS or word.endswith("n't") for word in near)
        spoken = _DENIED_AHEAD.search(f" {' '.join(near)} ") or _DENIED_BEHIND.match(behind)
        if not compound and not denied and not spoken:
            return True
    return False


def _is_one_of_two(text: str, right: str) -> bool:
    """Return whether the right words stand beside an `or` or a stroke: whatever the other is, nothing is decided."""
    words, either = r"[\s_-]+".join(map(re.escape, right.split())), r"(?:or|vs|versus|nor)"
    beside = (
        rf"\b{words}(?:\s+\w+)?\s*(?:,\s*)?\b{either}\b|\b{either}\s+(?:(?!\bnot\b)\w+\s+){{0,2}}{words}\b"
        rf"|\b{words}\s*/\s*\w|\w\s*/\s*{words}\b"
    )
    return re.search(beside, text, re.IGNORECASE) is not None


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
