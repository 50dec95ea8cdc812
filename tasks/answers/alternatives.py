"""Whether an answer says one of a few alternatives (`left`, `CT`, `hyperdense`) and none of the others.

Closed questions about pictures are answered with a word out of two or three that only the question names. An answer
says the right one if it has its words side by side, does not deny them, and names none of its usual alternatives as
well: `left or right` says neither, `the right lung, not the left lung` says right.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache

from medbench.tasks.answers.wording import pattern, word_lists, word_set
from medbench.tasks.answers.texts import normalise_strictly, plain_text
from medbench.tasks.answers.wording import afterthought, versions

_LONG_WORD = 5
_DENIALS = word_set("alternative_denials")
_DENIED_AHEAD = re.compile(
    r" (?:(?:anything|everything|any|all) but|(?:other|different|distinct) (?:than|from)|(?:apart|aside|far) from"
    r"|free of|absence of|opposite (?:of|to)|(?:opposed|contrast) to|r(?:ule[sd]?|uling) out|less(?: likely)?|semi)"
    r"(?: the| an?)? "
)
_DENIED_BEHIND = re.compile(
    r"\A (?:(?:if|unless|or not) |(?:\S+ ){0,3}?(?:(?:is|are|was|were|be|looks|seems) (?:\S+ly )?"
    r"(?:not|unlikely|excluded|absent|wrong|incorrect|ruled out|never)"
    r"|(?:is|are|was|were|does|do|did|can|could|would)n't|cannot|(?:can|could|does|did|would|do) not) )"
)
_CLAUSES = re.compile(r"[,:()\n]|(?<!thing )(?<!\ball )(?<!\bany )\bbut\b|\s-+\s|\.{2,}", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?;])(?=\s|\Z)|\n")
_REASONS = pattern(r"\b(?:because|since)\b")
_NOT_A_SIDE = re.compile(
    r"\b(?:that's|that is|you are|you're|all|am|i'm|is that|got it) right\b|\bright (?:now|away|answer|option|choice)\b"
)
_DENIES = pattern(r"\b(?:no|not|neither|without|never)\b")
_LISTS = pattern(r"\b(?:or|nor)\b")
_REACH = 160
_COMPOUND = frozenset({"upper", "lower", "top", "bottom", "mid", "middle", "central"})


def says_alternative(text: str, reference: str) -> bool:
    """Return whether an answer says a reference such as `left` or `CT`, and none of its alternatives."""
    right = _normal(plain_text(reference))
    said = versions(plain_text(text))[-1]
    again = afterthought(said)
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
    for family in _families():
        groups = [group for group in family if any(f" {name} " in f" {right} " for name in group)]
        if groups:
            found |= {name for group in family if group not in groups for name in group}
    for word in right.split():
        opposites = [prefixes.split() for prefixes in word_lists()["opposite_prefixes"]]
        for prefix, other in opposites + [pair[::-1] for pair in opposites]:
            if word.startswith(prefix) and len(word) > len(prefix) + 3:
                found.add(other + word.removeprefix(prefix))
        if len(word) >= _LONG_WORD:
            found |= {prefix + word for prefix in word_set("denying_prefixes")}
    denied = re.match(r"(?:non|no|without) (.+)", right)
    others = {name for name in found if f" {name} " not in f" {right} "}
    return tuple(sorted(others | ({denied.group(1)} if denied else set())))


@lru_cache(maxsize=1)
def _families() -> tuple[tuple[frozenset[str], ...], ...]:
    return tuple(
        tuple(frozenset(name.strip() for name in group.split("=")) for group in line.split(","))
        for line in word_lists()["families"]
    )
