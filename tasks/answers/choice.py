"""Reading which choice an answer takes, without ever inventing one.

Peers fall back to the most similar option, to the first one or to a random letter, so that an empty answer or a
refusal scores. Here an answer takes a choice only if it says so in one of these ways, tried in this order:

1. it is a JSON object whose field `answer` (`answer_choice`, `choice`, ...) says so;
2. it declares it: `the answer is C`, `Answer: (C)`, `option C is correct`, `\\boxed{C}`, `the answer is warfarin`;
3. it is the choice: a key alone (`C`, `(C)`, `c.`), or the text of an option alone;
4. it begins with it: `C) warfarin`, `Yes, there is a nodule.`;
5. it names one of the choices and no other (choices that are words themselves, such as classes; never a bare `no`,
   which is a word of every second sentence).

Whatever is declared twice in different ways, or with an alternative (`B or C`), or after a `not`, is unread.
"""

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from tasks.metrics.normalise import normalise_strictly

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_ORPHANED_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"[*`$]|\\(?:text|mathrm|mathbf)\b|(?<!\w)_+|_+(?!\w)")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_ANSWER_FIELD = re.compile(
    r"""["'](?:final_)?(?:answer|choice|option)(?:_(?:choice|idx|letter|key))?["']\s*:""", re.IGNORECASE
)
_FIELD_VALUE = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^,}\n]*))""")

_DECLARED = re.compile(
    r"""(?:\b(?:final|best|correct|right|most\ (?:likely|appropriate|probable))\s+)*
        \b(?:answer|option|choice)\b\s*(?:to\ (?:the|this)\ question\s*)?
        (?:is|would\ be|should\ be|:|=|-|\u2013|\u2014)\s*(?:is|:)?\s*
        (?:(?:most\ likely|probably|clearly|therefore|thus)\s+)?(?:(?:option|choice|answer|letter)\s*)?""",
    re.IGNORECASE | re.VERBOSE,
)
_CHOSEN = re.compile(
    r"\b(?:choose|select|pick|go with|going with)\s+(?:(?:option|choice|answer|letter)\s+)?", re.IGNORECASE
)
_CONFIRMED = re.compile(
    r"\b(?:option|choice|answer)\s*[(\[]?([A-Za-z0-9])[)\]]?\s*(?:is|:)\s*(?:the\s+)?(?:correct|right|best)\b",
    re.IGNORECASE,
)
_DENIAL = re.compile(r"(?:\bnot|n['\u2019]t|\bnever|\bneither|\bwithout|\bno)\s*$", re.IGNORECASE)
_DENIED_EARLIER = re.compile(r"(?:\bnot\b|n['\u2019]t\b|\bnever\b|\bcannot\b)[^.;:\n]{0,40}$", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\s*(?:,|/|&|\bor\b|\band\b)\s*(?:option\s+|choice\s+)?[(\[]?", re.IGNORECASE)
_LABEL = re.compile(r"\A\s*(?:option|choice|answer|letter)\s+", re.IGNORECASE)
_OPENING = r"[(\[{\"']?"
_ENDING = r"(?=$|[\s)\].,:;!\"'}])"
_DENIAL_REACH = 60
_MARKS = 40
_DETERMINERS = frozenset({"no"})


def read_choice(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the key of the choice that an answer takes, or None if it takes none or more than one.

    Args:
        text: The answer.
        choices: Key to text: `{"A": "warfarin", ...}`, or words for themselves: `{"yes": "yes", ...}`.
    """
    plain = _without_thoughts(text)
    if not plain or not choices:
        return None
    words = _Choices(choices)
    field = _answer_field(plain)
    if field is not None:
        return words.taken_by(field)
    return words.taken_by(plain)


def _without_thoughts(text: str) -> str:
    spoken = _ORPHANED_THOUGHTS.sub("", _THOUGHTS.sub("", text))
    boxed = _BOXED.findall(spoken)
    if boxed:
        return _MARKUP.sub("", str(boxed[-1])).strip(" {}")
    return _MARKUP.sub("", spoken).strip()


def _answer_field(text: str) -> str | None:
    """Return the value of an answer field, also of JSON that is cut off or not quite JSON; None without one."""
    if "{" not in text:
        return None
    value = _json_field(text)
    if value is not None:
        return value
    found = list(_ANSWER_FIELD.finditer(text))
    if not found:
        return None
    match = _FIELD_VALUE.match(text, found[-1].end())
    return next((group for group in match.groups() if group is not None), "").strip() if match else None


def _json_field(text: str) -> str | None:
    start, end = text.find("{"), text.rfind("}")
    try:
        document = json.loads(text[start : end + 1], strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return None
    values = [value for key, value in document.items() if _ANSWER_FIELD.fullmatch(f'"{key}":')]
    return str(values[-1]).strip() if values and isinstance(values[-1], str | int) else None


class _Choices:
    """The choices in the forms in which an answer may name them."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        self._keys = {key.lower(): key for key in choices}
        self._texts = {normalise_strictly(text): key for key, text in choices.items() if text}
        # Behind a declaration, no more is looked at than two of the longest choices need.
        self._reach = 2 * max(len(key) + len(text) for key, text in choices.items()) + _MARKS
        self._spoken = all(key == text for key, text in choices.items())

    def taken_by(self, text: str) -> str | None:
        declared = self._declared(text)
        if declared:
            return next(iter(declared)) if len(declared) == 1 else None
        whole = self._whole(text)
        if whole is not None:
            return whole
        return self._at_the_start(text) or (self._only_one_named(text) if self._spoken else None)

    def _declared(self, text: str) -> set[str]:
        found: set[str] = set()
        for match in (*_DECLARED.finditer(text), *_CHOSEN.finditer(text)):
            before = text[max(0, match.start() - _DENIAL_REACH) : match.start()]
            if not _DENIED_EARLIER.search(before):
                found.update(self._after(text[match.end() : match.end() + self._reach]))
        for match in _CONFIRMED.finditer(text):
            key = self._keys.get(match.group(1).lower())
            if key is not None:
                found.add(key)
        return found

    def _after(self, rest: str) -> set[str]:
        """Return what stands right after a declaration: one choice, or all of its alternatives."""
        taken = self._key_or_text(rest)
        if taken is None:
            return set()
        key, end = taken
        more = _ALTERNATIVE.match(rest, end)
        other = self._key_or_text(rest[more.end() :]) if more else None
        return {key} if other is None else {key, other[0]}

    def _key_or_text(self, rest: str) -> tuple[str, int] | None:
        match = self._pattern_of_keys().match(rest)
        if match is not None and self._is_no_article(match.group(1), rest, match.end()):
            return self._keys[match.group(1).lower()], match.end()
        return self._text_at(rest)

    def _is_no_article(self, key: str, rest: str, end: int) -> bool:
        # `the answer is a beta blocker` names no option A.
        return not (key == "a" and re.match(r"\s+\w", rest[end:]))

    def _pattern_of_keys(self) -> re.Pattern[str]:
        return _alternatives(tuple(sorted(self._keys, key=len, reverse=True)))

    def _text_at(self, rest: str) -> tuple[str, int] | None:
        sentence = re.split(r"[.;\n]", rest, maxsplit=1)[0]
        key = self._texts.get(normalise_strictly(sentence.strip(" \"'()[]")))
        return None if key is None else (key, len(sentence))

    def _whole(self, text: str) -> str | None:
        bare = _LABEL.sub("", text).strip(" \t\n()[]{}\"'.,:;!")
        return self._keys.get(bare.lower()) or self._texts.get(normalise_strictly(text))

    def _at_the_start(self, text: str) -> str | None:
        lines = [line for line in text.splitlines() if line.strip()]
        begun = {key for line in lines[:1] if (key := self._begun_by(line)) is not None}
        if len(begun) != 1:
            return None
        # A model that lists all options has taken none.
        others = {key for line in lines[1:] if (key := self._begun_by(line)) is not None}
        return next(iter(begun)) if not others - begun else None

    def _begun_by(self, line: str) -> str | None:
        match = self._pattern_of_keys().match(line.strip())
        if match is None:
            return None
        rest = line.strip()[match.end(1) :]
        if rest and not re.match(r"\s*[)\].,:;!]", rest):
            return None
        key = self._keys[match.group(1).lower()]
        return None if self._alternatives_in(rest.lstrip(" )].:")) - {key} else key

    def _alternatives_in(self, rest: str) -> set[str]:
        """Return the choices that stand as alternatives in what follows a choice: `or B) heparin`, `, no`."""
        pattern = self._pattern_of_keys()
        return {
            self._keys[key.group(1).lower()]
            for more in _ALTERNATIVE.finditer(rest)
            if (key := pattern.match(rest, more.end()))
            and (more.start() == 0 or re.match(r"\s*[)\].:]\s*\S", rest[key.end(1) :]))
        }

    def _only_one_named(self, text: str) -> str | None:
        spoken = f" {normalise_strictly(text)} "
        named: set[str] = set()
        for words, key in sorted(self._texts.items(), key=lambda item: -len(item[0])):
            if f" {words} " in spoken:
                before = spoken[: spoken.index(f" {words} ")]
                if words in _DETERMINERS or _DENIAL.search(before):
                    return None
                named.add(key)
                # `left lung` names no `lung`.
                spoken = spoken.replace(f" {words} ", " | ")
        return next(iter(named)) if len(named) == 1 else None


@lru_cache(maxsize=256)
def _alternatives(keys: Iterable[str]) -> re.Pattern[str]:
    return re.compile(rf"\s*{_OPENING}({'|'.join(map(re.escape, keys))}){_ENDING}[)\]}}\"']?", re.IGNORECASE)
