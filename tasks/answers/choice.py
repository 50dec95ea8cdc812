"""Reading which choice an answer takes, without ever inventing one.

Peers fall back to the most similar option, to the first one or to a random letter, so that an empty answer or a
refusal scores. Here an answer takes a choice only if it says so in one of these ways, tried in this order:

1. it is a JSON object whose field `answer` (`answer_choice`, `correct_answer`, ...) says so, or it marks its answer as
   `<answer>...</answer>` or `\\boxed{...}`;
2. it declares it: `the answer is C`, `Answer: (C)`, `option C is correct`, `it is C.`, `the diagnosis is warfarin`;
3. it is the choice: a key alone (`C`, `(C)`, `c.`), or the text of an option alone;
4. it begins with it: `C) warfarin`, `Option C: warfarin`, `Yes, there is a nodule.`;
5. it names one of the choices and no other, and denies nothing (choices that are words themselves, such as classes;
   never a bare `no`, which is a word of every second sentence).

Whatever is declared twice in different ways, or with an alternative (`B or C`), or is denied, is unread.
"""

import json
import re
from collections.abc import Mapping
from functools import lru_cache

from tasks.metrics.normalise import normalise_strictly

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL | re.IGNORECASE)
_ORPHANED_THOUGHTS = re.compile(r"\A.*</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_MARKED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}|<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)
_MARKUP = re.compile(r"[*`$#]|\\(?:text|math)\w*|</?s>|<\|?(?:im_end|eot_id|endoftext)\|?>|(?<!\w)_+|_+(?!\w)")
_QUOTES = str.maketrans({"\u201c": '"', "\u201d": '"', "\u2018": "'", "\u2019": "'"})

_ANSWER_FIELD = re.compile(
    r"""["'](?:(?:final|correct|predicted)_)?(?:answer|choice|option)(?:_(?:choice|idx|letter|key))?["']\s*:""",
    re.IGNORECASE,
)
_FIELD_VALUE = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^,}\n]*))""")

_LABELS = r"(?:(?:the\s+)?(?:option|choice|answer|letter)\s*:?\s+)?"
_HEDGES = r"(?:(?:most\s+likely|definitely|certainly|clearly|probably|indeed|therefore|thus)\s*,?\s+)?"
_STRONG = re.compile(
    rf"""\b(?:answer|option|choice)\b\s*(?:to\s+(?:the|this)\s+question\s*)?
         (?:(?:is|would\s+be|should\s+be|must\s+be)\s*:?|[:=\u2013\u2014-]|\n)\s*{_HEDGES}{_LABELS}
       |\b(?:choose|select|pick|go\s+with|going\s+with)\s+{_LABELS}""",
    re.IGNORECASE | re.VERBOSE,
)
_WEAK = re.compile(
    rf"""\b(?:it|this|that|diagnosis|step|cause|treatment|management|mechanism|finding|drug|explanation|category|class
             |label|decision|conclusion|verdict)
         (?:\s*(?:'s|is|must\s+be|should\s+be|would\s+be)\s*:?|\s*:)\s+{_HEDGES}{_LABELS}
       |\b(?:therefore|thus|hence|so)\b\s*,?\s+{_LABELS}
       |\b(?:i\s+would|i'd|i)\s+say\s+{_LABELS}""",
    re.IGNORECASE | re.VERBOSE,
)
_CONFIRMATION = r"\s*(?:is|:)\s*(?:the\s+)?(?:correct|right|best)\b"

_DENIED_BEFORE = re.compile(
    r"(?:\b(?:not|never|cannot|neither|nor|unsure)\b|n't\b)[^.;:\n]{0,40}$"
    r"|\b(?:wrong|incorrect|false|worst|bad|least(?:\s+\w+)?)\s*$",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"[^.;\n]{0,80}?\b(?:(?:is|are|was|be)\s+(?:not|incorrect|wrong|false|unlikely|excluded)\b|isn't\b)", re.IGNORECASE
)
_DENIAL = re.compile(
    r"\b(?:not?|non|never|cannot|without|neither|nor|negative|unlikely|unable|sorry|unsure"
    r"|exclud\w+|rul(?:e|ed|es|ing)\s+out|incorrect|wrong)\b|n't\b|\?",
    re.IGNORECASE,
)
_NOT_THIS_BUT = re.compile(r"\s*not\s+[^.;\n]{1,60}?,?\s+but\s+(?:rather\s+)?", re.IGNORECASE)
_ALTERNATIVE = re.compile(r"\s*[(\[]?\s*(?:,|/|&|\bor\b|\band\b)\s*(?:option\s+|choice\s+)?", re.IGNORECASE)
_REASON = r"\s+(?:because|since|as|due|given|based|which|not|rather|instead)\b"
_END = r"\s*(?:$|[)\].,:;!\"'}\u2013\u2014(-]|\n)"
_GIVES_REASONS = re.compile(r"(?:because|since|as|due|given|based)\b", re.IGNORECASE)
_DOES_NOT_KNOW = re.compile(r"i\s+(?:do\s+not|don't|cannot|can't|am\s+not)\b", re.IGNORECASE)
_LIST_ENDS = re.compile(r"\n\s*(?:\n|explanation|because|reason|rationale)", re.IGNORECASE)
_LABEL = re.compile(r"\A\s*(?:the\s+)?(?:option|choice|answer|letter)\s+", re.IGNORECASE)
_GOES_ON = re.compile(r"\s*(?:$|[^\w\s]|\n)|\s+(?:on|in|of|at|with|which|that|is|as|here|visible|seen|shown)\b")

_SEPARATORS = " )].:,;!-=\u2013\u2014\"'"
_DENIAL_REACH = 60
_MARKS = 60
_DETERMINERS = frozenset({"no"})
# `yes it does` is a yes, while `heart attack` is no heart.
_DECISIONS = frozenset({"yes", "maybe"})


def read_choice(text: str, choices: Mapping[str, str]) -> str | None:
    """Return the key of the choice that an answer takes, or None if it takes none or more than one.

    Args:
        text: The answer.
        choices: Key to text: `{"A": "warfarin", ...}`, or words for themselves: `{"yes": "yes", ...}`; the text is
            empty where only the key is known.
    """
    plain = _spoken(text)
    if not plain or not choices:
        return None
    field = _answer_field(plain)
    return _Choices(choices).taken_by(plain if field is None else field)


def _spoken(text: str) -> str:
    """Return an answer without thoughts and markup; of a marked answer only what is marked."""
    said = _ORPHANED_THOUGHTS.sub("", _THOUGHTS.sub("", text)).translate(_QUOTES)
    marked = [next(group for group in match.groups() if group is not None) for match in _MARKED.finditer(said)]
    if marked:
        return _MARKUP.sub("", marked[-1]).strip(" {}\n")
    return _MARKUP.sub("", said).strip()


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
        texts = {key: " ".join(text.translate(_QUOTES).split()) for key, text in choices.items() if text.strip()}
        # An option whose text is the letter of another one can be taken by its own letter only.
        named = {key: text for key, text in texts.items() if self._keys.get(text.lower(), key) == key}
        self._texts = {text.lower(): key for key, text in named.items()}
        self._normal_texts = {normalise_strictly(text): key for key, text in named.items()}
        # Words that stand for themselves, unlike letters that stand for an option.
        self._words = all(key == text and len(key) > 1 for key, text in choices.items())
        self._key = _pattern(tuple(self._keys))
        self._text = _pattern(tuple(self._texts)) if self._texts else None
        # Behind a declaration, no more is looked at than two of the longest choices need.
        self._reach = 2 * max(len(key) + len(text) for key, text in choices.items()) + _MARKS

    def taken_by(self, text: str) -> str | None:
        declared = self._declared(text)
        if declared:
            return next(iter(declared)) if len(declared) == 1 else None
        whole = self._whole(text)
        if whole is not None:
            return whole
        return self._at_the_start(text) or (self._only_one_named(text) if self._words else None)

    def _declared(self, text: str) -> set[str]:
        found: set[str] = set()
        for pattern, strong in ((_STRONG, True), (_WEAK, False)):
            for match in pattern.finditer(text):
                if not self._denied_before(text, match.start()):
                    found |= self._after(text[match.end() : match.end() + self._reach], strong=strong)
        for match in _confirmed(tuple(self._keys)).finditer(text):
            key = self._keys[match.group(1).lower()]
            named = match.group(0)[0] in "([" or len(key) > 1 or match.group(1) == key
            if named and not self._denied_before(text, match.start()):
                found.add(key)
        return found

    def _denied_before(self, text: str, place: int) -> bool:
        return _DENIED_BEFORE.search(text[max(0, place - _DENIAL_REACH) : place]) is not None

    def _after(self, rest: str, *, strong: bool) -> set[str]:
        """Return what stands right after a declaration: one choice, or all of its alternatives."""
        denied = _NOT_THIS_BUT.match(rest)
        taken = self._named_at(rest[denied.end() :] if denied else rest, strong=strong)
        if taken is None:
            return set()
        key, end = taken
        rest = rest[denied.end() :] if denied else rest
        if _DENIED_BEHIND.match(rest, self._end_of_own_text(key, rest, end)):
            return set()
        return {key} | self._alternatives(rest, end)

    def _end_of_own_text(self, key: str, rest: str, end: int) -> int:
        """Return where the text of an option ends that follows its key: it may have a `not` of its own."""
        start = end + len(rest[end:]) - len(rest[end:].lstrip(_SEPARATORS))
        own = self._text_at(rest[start:])
        return start + own[1] if own is not None and own[0] == key else end

    def _alternatives(self, rest: str, end: int) -> set[str]:
        """Return the choices that follow one at once: `or C`, `, C`, `/C`, or `B C` without a word between."""
        more = _ALTERNATIVE.match(rest, end) or re.compile(r"\s+").match(rest, end)
        following = self._key.match(rest, more.end()) if more else None
        if following is None or self._is_article(following):
            return set()
        return {self._keys[following.group(1).lower()]}

    def _named_at(self, rest: str, *, strong: bool) -> tuple[str, int] | None:
        """Return the choice that `rest` begins with, and where it ends; a text goes before a key that it begins with.

        Behind a weak declaration a sentence may go on as it likes, so there the choice must end it.
        """
        text = self._text_at(rest)
        if text is not None:
            return text
        match = self._key.match(rest)
        if match is None or self._is_article(match):
            return None
        behind = rest[match.end(1) :]
        ends = re.match(_END, behind) is not None
        if not ends and not (strong and (re.match(_REASON, behind) or self._alternatives(rest, match.end()))):
            return None
        return self._keys[match.group(1).lower()], match.end()

    def _is_article(self, match: re.Match[str]) -> bool:
        # `the answer is a beta blocker` names no option A.
        return match.group(1) == "a" and re.match(r"\s+\w", match.string[match.end() :]) is not None

    def _text_at(self, rest: str) -> tuple[str, int] | None:
        match = None if self._text is None else self._text.match(rest)
        if match is None or (self._words and not re.match(rf"{_END}|{_REASON}", rest[match.end(1) :])):
            return None
        return self._texts[" ".join(match.group(1).lower().split())], match.end(1)

    def _whole(self, text: str) -> str | None:
        bare = _LABEL.sub("", text).strip(" \t\n()[]{}\"'.,:;!")
        if bare.lower() in self._keys:
            return self._keys[bare.lower()]
        return self._normal_texts.get(normalise_strictly(text))

    def _at_the_start(self, text: str) -> str | None:
        opening = _LIST_ENDS.split(_LABEL.sub("", text), maxsplit=1)[0]
        first, *others = [line.strip() for line in opening.splitlines() if line.strip()] or [""]
        key = self._begun_by(first)
        # A model that lists all options has taken none.
        listed = {other for line in others if (other := self._begun_by(line)) is not None}
        return key if key is not None and not listed - {key} else None

    def _begun_by(self, line: str) -> str | None:
        text = None if self._words else self._text_at(line)
        if text is not None and not _DENIED_BEHIND.match(line, text[1]):
            return text[0]
        match = self._key.match(line)
        if match is None:
            return None
        key, rest = self._keys[match.group(1).lower()], line[match.end(1) :]
        behind = rest.lstrip(_SEPARATORS)
        own = self._text_at(behind)
        has_own_text = own is not None and own[0] == key
        after = behind[own[1] :] if own is not None and has_own_text else rest.lstrip(" )].:")
        if self._alternatives_in(after) - {key}:
            return None
        if has_own_text:
            return None if _DENIED_BEHIND.match(after) else key
        if not re.match(_END, rest):
            return None
        denied = not _GIVES_REASONS.match(behind) and (_DENIED_BEHIND.match(behind) or _DOES_NOT_KNOW.match(behind))
        return None if denied and not self._words else key

    def _alternatives_in(self, rest: str) -> set[str]:
        """Return the choices that stand as alternatives in what follows a choice: `or B) heparin`, `, no`."""
        return {
            self._keys[key.group(1).lower()]
            for more in _ALTERNATIVE.finditer(rest)
            if (key := self._key.match(rest, more.end()))
            and (more.start() == 0 or re.match(r"\s*[)\].:]\s*\S", rest[key.end(1) :]))
        } | ({self._keys[key.group(1).lower()]} if (key := self._key.match(rest)) and self._words else set())

    def _only_one_named(self, text: str) -> str | None:
        if _DENIAL.search(text):
            return None
        rest = " ".join(text.lower().split())
        named: set[str] = set()
        for words in sorted(self._texts, key=len, reverse=True):
            found = re.search(rf"(?<![\w-]){re.escape(words)}(?![\w-])", rest)
            if found is None:
                continue
            if words in _DETERMINERS or not (words in _DECISIONS or _GOES_ON.match(rest, found.end())):
                return None
            named.add(self._texts[words])
            # `left lung` names no `lung`.
            rest = rest.replace(words, "|")
        return next(iter(named)) if len(named) == 1 else None


@lru_cache(maxsize=256)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    """Return what matches one of the names, the longest first, perhaps in brackets or quotes or after an article."""
    alternatives = "|".join(re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(name)) for name in sorted(names, key=len)[::-1])
    article = r"(?:(?:a|an|the)\s+)?" if max(map(len, names)) > 1 else ""
    return re.compile(rf"\s*[(\[{{\"']?{article}({alternatives})(?!\w)[)\]}}\"']?", re.IGNORECASE)


@lru_cache(maxsize=256)
def _confirmed(keys: tuple[str, ...]) -> re.Pattern[str]:
    names = "|".join(re.escape(key) for key in sorted(keys, key=len, reverse=True))
    return re.compile(rf"(?<![\w'-])[(\[]?({names})[)\]]?{_CONFIRMATION}", re.IGNORECASE)
