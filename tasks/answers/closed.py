"""Reading answers to closed questions: yes, no and maybe, one of a few words that the question names, and classes.

One reader of yes, no and maybe serves PubMedQA, closed questions about images, and options that say yes and no. A
bare `no` is a word of every second sentence (`No doubt there is a fracture.`), so a word counts only where it is an
answer: at the beginning of a clause or behind a declaration (`the answer is`), and with an end or a reason behind it,
never as the determiner of a noun. Whatever is denied, asked or set beside its opposite (`yes and no`) is unread; of an
answer that takes itself back, the last version counts.

Other closed questions about images are answered with a word out of two or three (`left`, `CT`, `hyperdense`). An
answer says the right one if it has its words side by side, does not deny them, and names none of its usual alternatives
as well: `left or right` says neither, `the right lung, not the left lung` says right.

A class (`melanoma`, `left kidney`) may be named in another order or number (`kidney-left`, `vascular lesion`) and in
the midst of a sentence, but never as a part of something else (`left lung transplant`, `non-melanoma`), as a
comparison or in a history.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from medbench.tasks.answers import wording
from medbench.tasks.answers.texts import normalise_strictly, plain_text
from medbench.tasks.answers.wording import phrase, word_lists, word_set

Polar = Literal["yes", "no", "maybe"]

POLAR_WORDS: frozenset[str] = frozenset({"yes", "no", "maybe"})
"""The answers that `read_polar` reads."""
# By the first letter of `{polar_words}`.
_MEANINGS: dict[str, Polar] = {"y": "yes", "n": "no", "m": "maybe"}
_LONG_WORD, _SIDE_REACH, _REACH, _MANY = 5, 160, 120, 40
_DENIALS = word_set("alternative_denials")
_CLAUSES = re.compile(r"[,:()\n]|(?<!thing )(?<!\ball )(?<!\bany )\bbut\b|\s-+\s|\.{2,}", re.IGNORECASE)
_SENTENCES = re.compile(r"(?<=[.!?;])(?=\s|\Z)|\n")
_COMPOUND = frozenset({"upper", "lower", "top", "bottom", "mid", "middle", "central"})
_FAMILIES = [
    [frozenset(name.strip() for name in group.split("=")) for group in line.split(",")]
    for line in word_lists()["families"]
]
_OPPOSITES = [pair.split() for pair in word_lists()["opposite_prefixes"]]
_MARKS = " ,.:;!-\n"
_BEGINS = re.compile(r"(?:\A|(?<!\b\w)(?<!\b\w\w)[.!\n])[\s\"'(\[-]*\Z")
_LISTED = re.compile(r"\n[ \t]*(?:[-+]|\(?\w[.)])?[ \t]*\Z")
_PLURALS = (("ses", "sis"), ("i", "us"), ("ies", "y"), ("s", ""))


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
        ahead, behind = padded[max(0, start - _SIDE_REACH) : start].split(), padded[end : end + _SIDE_REACH]
        # `lower left` is no side of the image.
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


class _Place(NamedTuple):
    name: str
    start: int
    end: int


def read_class(text: str, classes: tuple[str, ...]) -> str | None:
    """Return which of the classes an answer (without thoughts) names, or None if it names none or more than one."""
    forms, pattern = _forms(classes)
    *earlier, last = wording.versions(plain_text(text))
    last = last.strip(_MARKS)
    if "no" not in map(str.lower, classes):
        last = phrase("class_no_longer").split(phrase("class_taken_back").sub("", last) if earlier else last)[-1]
    again = wording.afterthought(last)
    for said in [last] if again is None else [again.strip(_MARKS), last]:
        places = _places(said, forms, pattern)
        if found := _whole(said, forms) or _declared(said, places) or _only_one(said, places):
            return found
    return None


@lru_cache(maxsize=64)
def _forms(classes: tuple[str, ...]) -> tuple[Mapping[str, str], re.Pattern[str]]:
    forms = {form: name for name in reversed(classes) for form in _other_forms(_folded(name))}
    forms |= {_folded(name): name for name in classes}
    longest_first = sorted(forms, key=len, reverse=True)
    names = "|".join(re.escape(form).replace(r"\ ", r"[\s_-]+") for form in longest_first)
    return forms, re.compile(rf"(?<![\w-])(?=({names})(?![\w-]|'\w))", re.IGNORECASE)


def _folded(name: str) -> str:
    return " ".join(re.sub(r"[\W_]+", " ", name.lower()).split())


def _other_forms(name: str) -> Iterator[str]:
    """Yield the other orders and numbers of a name: `kidney left`, `vascular lesion`."""
    yield from _numbers(name)
    first, _, rest = name.partition(" ")
    if rest and first in {"left", "right"}:
        yield from (f"{form} {first}" for form in (rest, *_numbers(rest)))


def _numbers(name: str) -> Iterator[str]:
    for plural, singular in _PLURALS:
        if name.endswith(plural) and not name.endswith("ss"):
            yield name.removesuffix(plural) + singular
    for plural, singular in _PLURALS[:2]:
        if name.endswith(singular):
            yield name.removesuffix(singular) + plural
    if not name.endswith("s"):
        yield f"{name}s"


def _places(text: str, forms: Mapping[str, str], pattern: re.Pattern[str]) -> list[_Place]:
    """Return where classes are named; a name inside a longer one (`lung` in `left lung`) is not."""
    found: list[_Place] = []
    for match in pattern.finditer(text):
        if not found or match.end(1) > found[-1].end:
            found.append(_Place(forms[_folded(match.group(1))], *match.span(1)))
    return found


def _whole(text: str, forms: Mapping[str, str]) -> str | None:
    """Return the class that a whole text is, a label or an article before it aside."""
    if "?" in (text[:1], text[-1:]):
        return None
    return forms.get(_folded(text)) or forms.get(_folded(phrase("class_label").sub("", text)))


def _declared(text: str, places: Sequence[_Place]) -> str | None:
    """Return the class that a text declares or begins with, unless it also declares or sets beside it another."""
    said = [place for place in places if _is_declared(text, place)]
    if len({place.name for place in said}) != 1:
        return None
    others = [place for place in places if place.name != said[0].name]
    told = wording.first_and_last(said, _MANY) if others else ()
    return None if any(_is_beside(text, place, others) for place in told) else said[0].name


def _is_declared(text: str, place: _Place) -> bool:
    _, start, end = place
    ahead = wording.before(text, start)
    declares = phrase("class_declares").search(ahead)
    if not phrase("class_ends").match(text, end) or not (declares or _BEGINS.search(ahead)):
        return False
    if wording.is_conditional(text, end) or wording.is_rejected(text, end):
        return False
    begun = start - len(ahead) + declares.start() if declares else start
    denied = wording.is_denied_before(text, begun) or wording.is_denied(text, start, end)
    return not denied and not wording.is_supposed(text, begun)


def _is_beside(text: str, place: _Place, different: Sequence[_Place]) -> bool:
    """Return whether the same sentence sets another class beside one: `melanoma or nevi`."""
    if any(_LISTED.search(wording.before(text, other.start)) for other in different):
        return True
    end = place.end + len(phrase("class_sentence_ends").split(text[place.end : place.end + _REACH], maxsplit=1)[0])
    others = (other for other in different if place.end <= other.start < end)
    return any(not wording.is_denied(text, other.start, other.end) for other in others)


def _only_one(text: str, places: Sequence[_Place]) -> str | None:
    if len({place.name for place in places}) != 1 or _folded(places[0].name) == "no":
        return None
    ends = [0, *(place.end for place in places)]
    starts = [*(place.start for place in places), len(text)]
    rest = " | ".join(text[end:start] for end, start in zip(ends, starts, strict=True))
    if phrase("class_denial").search(rest) or phrase("class_other_matter").search(rest):
        return None
    return places[0].name if all(_is_shown(text, place) for place in places) else None


def _is_shown(text: str, place: _Place) -> bool:
    """Return whether an image is said to show a class: `consistent with melanoma`, `the liver is visible`."""
    ahead = wording.before(text, place.start)
    if not phrase("class_named_whole").match(text, place.end) or wording.is_supposed(text, place.start):
        return False
    if phrase("class_seen").match(text, place.end):
        return phrase("class_about").search(ahead) is None
    return phrase("class_shown").search(ahead) is not None and phrase("class_speaks_of").match(text, place.end) is None
