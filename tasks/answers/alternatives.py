"""Whether an answer says one of a few alternatives (`left`, `CT`, `hyperdense`) and none of the others.

Closed questions about pictures are answered with a word out of two or three that only the question names. An answer
says the right one if it has its words side by side, does not deny them, and names none of its usual alternatives as
well: `left or right` says neither, `the right lung, not the left lung` says right.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from medbench.tasks.answers.texts import normalise_strictly, plain_text
from medbench.tasks.answers.wording import afterthought, versions

# What stands between commas is an alternative of its neighbours; what means the same is joined by `=`.
_FAMILIES = """
left=left sided, right=right sided, bilateral=bilaterally=both=both sides=both lungs=both kidneys, midline, unilateral
axial=transverse=transverse plane=axial plane, coronal=coronal plane=frontal plane, sagittal=saggital=sagittal plane
ct=computed tomography=ct scan, mri=mr=magnetic resonance=magnetic resonance imaging,
  x ray=radiograph=radiography, ultrasound=us=sonography=ultrasonography, pet
t1=t1 weighted=t1wi, t2=t2 weighted=t2wi, flair, dwi, pd, t1ce
pa=posteroanterior, ap=anteroposterior, lateral
hyperdense=hyper dense, hypodense=hypo dense, isodense=iso dense
hyperintense=hyper intense, hypointense=hypo intense, isointense=iso intense
white, gray=grey, black
male=man=boy, female=woman=girl
lung=lungs, heart, liver, spleen, kidney=kidneys, bladder, stomach, brain, pancreas,
  colon, rectum, small bowel=small intestine, duodenum, esophagus, spinal cord, gallbladder, aorta, trachea
cystic, solid
larger=bigger, smaller, same=almost the same=equal
more, less, same
normal, abnormal, enlarged, decreased, increased, absent
benign, malignant
superior=upper=top=above, inferior=lower=bottom=below, middle
anterior=front, posterior=back
medial, lateral
proximal, distal
exterior=outside=external=on top of, interior=inside=internal=within
symmetric=symmetrical, asymmetric=asymmetrical
regular, irregular
homogeneous=homogenous, heterogeneous=heterogenous
focal, diffuse
unilateral=one side, bilateral=both sides
supratentorial, infratentorial
acute, chronic, subacute
present, absent
with contrast=contrast enhanced, without contrast=non contrast=noncontrast=no contrast
enhanced=enhancing, unenhanced=non enhanced=nonenhancing=non enhancing
radiolucent, radiopaque=radioopaque
apex, base
central, peripheral
single=singular=just 1=only 1, multiple=multilobulated=several, both
genetic, vascular
abscess, cancer=tumor
pneumonia, pleural effusion
hyperinflation, hypoinflation
oral, iv=intravenous, both
gray matter=grey matter, white matter
"""
_AFFIXES = (
    ("hyper", "hypo"),
    ("homo", "hetero"),
    ("uni", "bi"),
    ("supra", "infra"),
    ("intra", "extra"),
    ("endo", "exo"),
)
_PREFIXES = ("ab", "a", "un", "non", "ir", "in", "im", "dis")

_DENYING_WORDS = """
not no never cannot neither nor without non unlike either whether if unsure unclear uncertain excluding except hardly
doubt doubtful unlikely wrong incorrect false rather instead exclude excludes denies lacks lacking lack
"""
_DENIALS = frozenset(_DENYING_WORDS.split())
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
_REASONS = re.compile(r"\b(?:because|since)\b", re.IGNORECASE)
_NOT_A_SIDE = re.compile(
    r"\b(?:that's|that is|you are|you're|all|am|i'm|is that|got it) right\b|\bright (?:now|away|answer|option|choice)\b"
)
_DENIES = re.compile(r"\b(?:no|not|neither|without|never)\b", re.IGNORECASE)
_LISTS = re.compile(r"\b(?:or|nor)\b", re.IGNORECASE)
_ONE_WORD = re.compile(r"\bx ?rays?\b")
_OR = r"(?:or|vs|versus|nor)"
_DENIED_NAME = re.compile(r"(?:non|no|without) (.+)")
_LONG_WORD = 5
_REACH = 160
_COMPOUND = frozenset({"upper", "lower", "top", "bottom", "mid", "middle", "central"})
_SIDES = frozenset({"left", "right"})


@dataclass(frozen=True, slots=True)
class _Clause:
    words: str
    denied: bool


def says_alternative(text: str, reference: str) -> bool:
    """Return whether an answer says a reference such as `left` or `CT`, and none of its alternatives.

    Args:
        text: The answer, without thoughts.
        reference: The right one of the alternatives.
    """
    right = _ONE_WORD.sub("x ray", normalise_strictly(plain_text(reference)))
    said = versions(plain_text(text))[-1]
    again = afterthought(said)
    if again is not None and _mentions(again, right):
        said = again
    return bool(right) and _says(said, right)


def _says(text: str, right: str) -> bool:
    # The reason for one alternative may name another: `axial, since the coronal is normal`.
    claims = [_REASONS.split(sentence)[0] for sentence in _statements(text)]
    clauses = _clauses_naming(right, claims) or _clauses_naming(right, _statements(text))
    if not clauses:
        return False
    if any(_is_one_of_two(sentence, right) for sentence in _statements(text)):
        return False
    return not any(_names(clause, other, beside=right) for clause in clauses for other in _alternatives_of(right))


def _clauses_naming(right: str, sentences: list[str]) -> list[_Clause]:
    """Return the clauses of sentences if one of them names the right alternative."""
    clauses = [clause for sentence in sentences for clause in _clauses(sentence)]
    return clauses if any(_names(clause, right) for clause in clauses) else []


def _mentions(text: str, right: str) -> bool:
    return any(
        _has(clause.words, word)
        for part in _statements(text)
        for clause in _clauses(part)
        for word in (right, *_alternatives_of(right))
    )


def _statements(text: str) -> list[str]:
    """Return the sentences of a text that are no question."""
    return [sentence for sentence in _SENTENCES.split(text) if not sentence.rstrip().endswith("?")]


def _clauses(sentence: str) -> Iterator[_Clause]:
    """Yield the clauses of a sentence in the normal form in which answers are compared."""
    # `no left, right or upper lesion` denies all three.
    denial, lists = _DENIES.search(sentence), [match.end() for match in _LISTS.finditer(sentence)]
    last = lists[-1] if denial and lists and "," in sentence else 0
    place = 0
    for part in _CLAUSES.split(sentence):
        words = _ONE_WORD.sub("x ray", normalise_strictly(part))
        if words:
            yield _Clause(_NOT_A_SIDE.sub("", words), denial is not None and denial.start() <= place < last)
        place += len(part) + 1


def _names(clause: _Clause, words: str, *, beside: str = "") -> bool:
    """Return whether a clause names an alternative without denying it, outside of the words of the right one."""
    padded = f" {clause.words} "
    if beside:
        padded = padded.replace(f" {beside} ", " | ")
    if clause.denied:
        return False
    start = padded.find(f" {words} ")
    while start >= 0:
        end = start + len(words) + 1
        ahead, behind = padded[max(0, start - _REACH) : start].split(), padded[end : end + _REACH]
        if not _is_denied(ahead, behind) and not (
            words in _SIDES and not beside and ahead[-1:] and ahead[-1] in _COMPOUND
        ):
            return True
        start = padded.find(f" {words} ", start + 1)
    return False


def _is_denied(ahead: list[str], behind: str) -> bool:
    near = ahead[-8:]
    denied = any(word in _DENIALS or word.endswith("n't") for word in near)
    if denied or _DENIED_AHEAD.search(f" {' '.join(near)} "):
        return True
    return _DENIED_BEHIND.match(behind if behind.startswith(" ") else f" {behind}") is not None


def _is_one_of_two(text: str, right: str) -> bool:
    """Return whether the right words stand beside an `or` or a stroke: whatever the other is, nothing is decided."""
    words = r"[\s_-]+".join(map(re.escape, right.split()))
    beside = (
        rf"\b{words}(?:\s+\w+)?\s*(?:,\s*)?\b{_OR}\b|\b{_OR}\s+(?:(?!\bnot\b)\w+\s+){{0,2}}{words}\b"
        rf"|\b{words}\s*/\s*\w|\w\s*/\s*{words}\b"
    )
    return re.search(beside, text, re.IGNORECASE) is not None


def _has(words: str, part: str) -> bool:
    return f" {part} " in f" {words} "


@lru_cache(maxsize=4096)
def _alternatives_of(right: str) -> tuple[str, ...]:
    """Return what else could have been answered where `right` is right: the rest of its families, and its opposites."""
    found: set[str] = set()
    for family in _families():
        groups = [group for group in family if any(_has(right, name) for name in group)]
        if groups:
            found |= {name for group in family if group not in groups for name in group}
    found |= {opposite for word in right.split() for opposite in _opposites(word)}
    denied = _DENIED_NAME.match(right)
    return tuple(sorted({name for name in found if not _has(right, name)} | ({denied.group(1)} if denied else set())))


def _opposites(word: str) -> Iterator[str]:
    for pair in _AFFIXES:
        for prefix, other in (pair, pair[::-1]):
            if word.startswith(prefix) and len(word) > len(prefix) + 3:
                yield other + word.removeprefix(prefix)
    if len(word) >= _LONG_WORD:
        yield from (prefix + word for prefix in _PREFIXES)


@lru_cache(maxsize=1)
def _families() -> tuple[tuple[frozenset[str], ...], ...]:
    return tuple(
        tuple(frozenset(name.strip() for name in group.split("=")) for group in line.split(","))
        for line in _FAMILIES.replace(",\n", ",").strip().splitlines()
    )
