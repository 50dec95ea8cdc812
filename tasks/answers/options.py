"""The options of a question in the forms in which an answer may name them: by letter, by text, or by both.

A letter is a word of many other things: an article (`A lesion`), an initial (`E. coli`), a part of a name (`D-dimer`,
`B cells`). So a letter counts only if what follows it is an end, a reason, or the text of its own option. A mention
is a set of keys, because two options may have the same text: naming it says no more than that it is one of the two.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from medbench.tasks.answers.initials import AUTHORS, EPITHETS, LATIN_ENDINGS, PARTS_OF_NAMES, SENTENCE_WORDS
from medbench.tasks.answers.polar import POLAR_WORDS
from medbench.tasks.answers.texts import plain_text

Keys = frozenset[str]

# Letters that are written without blanks between words.
_EASTERN = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af"
_END = re.compile(
    r"(?:\u3067\u3059|\u3060|\uc785\ub2c8\ub2e4|\u9879|\u9805)?\s*(?:\Z|[)\],;!\"'}(\n]|:(?=\s|\Z)|\.+(?=\s|\Z|[)\"'\]}])|\s-+(?=\s|\Z))"
)
_REASON = re.compile(
    r"\s+(?:because|since|as|due|given|based|which|not|rather|instead|here|for\s+this|in\s+this|according|therefore|so"
    r"|over(?=\s+(?:option\s+)?\W?(?-i:[A-Z])\b)"
    r"|(?:is|would\s+be)\s+(?:the\s+)?(?:most\s+)?(?:correct|right|best|appropriate|likely)(?=\s*(?:\Z|[.,;!\n]|answer|option|choice|one)))\b",
    re.IGNORECASE,
)
_SENTENCE_ENDS = re.compile(r"\s*[.!]?\s*(?:\Z|\n)")
_SEPARATORS = re.compile(r"[\s)\].:,;\"'}(\[-]*")
# Words and the signs that make another word of one: `CD4+` and `CD4-`.
_SAID = re.compile(r"\w+|[%+<>=\u2191\u2193\u00b1]|(?<=\w)-(?=[\s,;.)]|\Z)")
_WORD_BEGINS = re.compile(r"(?<![\w-])(?=\w)")
_WORD = re.compile(r"\w[\w'-]*")
_GAP = re.compile(
    r"""(?:[\s,;/&+|>~-]|\b(?:or|and|plus|then|perhaps|possibly|maybe|probably|even|also|as\s+well\s+as|with|to|through|versus|vs\b\.?
        |followed\s+by|option|options|choice|answer|either|both|too|alternatively|and/or|else)\b|[(\[]){1,12}""",
    re.IGNORECASE | re.VERBOSE,
)
_CLOSES = re.compile(r"[)\]\"']\s*|\.\s*(?=[,;/&+|]|(?:and|or|plus|as\s+well\s+as)\b)")
# A sentence about an option, not one that takes it: `(A) should be avoided`, `A (aspirin) for adults`.
_SPEAKS_OF = re.compile(
    r"""\s+(?:is|are|was|were|be|has|have|had|would|should|could|can|cannot|may|might|must|does|do|did|will|seems?|looks?
        |appears?|followed|then|for|if|unless|when|plus|than|until|after|before)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_CLOSERS = re.compile(r"[)\]\"']*")
_MEANS_WORD = re.compile(r"\s+[a-z]")
_INNER = re.compile(r"\s*\(\s*([^()\n]{0,200})\)")
_CONFIDENCE = re.compile(r"confiden|\bcertain|\d\s*%", re.IGNORECASE)
_PARENTHESIS_ENDS = re.compile(r"\s*(?:\Z|[.,;:!\n]|-+\s|(?:is|was|would\s+be|because|since|as)\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Mention:
    """An option as it is named at a place of a text.

    Attributes:
        keys: The options that it may be; empty if letter and text name different ones.
        end: Where it ends.
    """

    keys: Keys
    end: int


class Options:
    """The options of one question, keys to texts."""

    def __init__(self, choices: Mapping[str, str]) -> None:
        self._keys = {key.lower(): key for key in choices}
        self._texts: dict[str, Keys] = {}
        self._normal: dict[str, Keys] = {}
        for key, text in choices.items():
            plain = _bare(" ".join(plain_text(text).split()).lower())
            # An option whose text is the letter of another one can be taken by its own letter only.
            if plain and self._keys.get(plain, key) == key and plain != key.lower():
                self._texts[plain] = self._texts.get(plain, Keys()) | {key}
                normal = _folded(plain)
                self._normal[normal] = self._normal.get(normal, Keys()) | {key}
        self._own_words = {
            key: frozenset(text.split()) for text, keys in self._texts.items() for key in keys if " " in text
        }
        self._text_pattern = _texts_pattern(tuple(self._texts)) if self._texts else None
        free = tuple(text for text in self._texts if text not in POLAR_WORDS)
        self._free_pattern = _texts_pattern(free) if free else None
        self._key_pattern = _keys_pattern(tuple(self._keys))

    @property
    def polar(self) -> Mapping[str, Keys]:
        """The options whose texts are yes, no or maybe."""
        return {text: keys for text, keys in self._texts.items() if text in POLAR_WORDS}

    def key_pattern(self) -> str:
        """Return the alternatives of a pattern for the keys."""
        return _alternatives(tuple(self._keys.values()))

    def whole(self, text: str) -> Keys:
        """Return the options that a whole text is: a key alone, or the text of an option."""
        bare = text.strip(" \t\n()[]{}\"'.,:;!").lower()
        if bare in self._keys:
            return Keys({self._keys[bare]})
        plain = _bare(" ".join(text.lower().split()))
        return self._texts.get(plain) or self._normal.get(_folded(plain), Keys())

    def key_of(self, letter: str) -> str:
        """Return the key that is written so in any case."""
        return self._keys[letter.lower()]

    def named_at(self, text: str, place: int) -> Mention | None:
        """Return the option that a text names at a place, by its text or its key; text goes before keys."""
        return self.text_at(text, place) or self.key_at(text, place)

    def text_at(self, text: str, place: int, *, free: bool = True) -> Mention | None:
        """Return the option whose text stands at a place and ends there as a phrase.

        Args:
            text: The answer.
            place: Where the option should begin, white space and an article aside.
            free: Whether it stands without its key; `yes` and `no` mean too much without one.
        """
        pattern = self._free_pattern if free else self._text_pattern
        match = pattern.match(text, place) if pattern else None
        if match is None or not (_END.match(text, match.end(1)) or _REASON.match(text, match.end(1))):
            return None
        keys = self._keys_of(match)
        labelled = self._label_behind(text, match.end(1))
        if labelled is None:
            return Mention(keys, match.end(1))
        if self._is_spoken_of(text, labelled.end):
            return None
        return Mention(keys & labelled.keys, labelled.end)

    def _label_behind(self, text: str, place: int) -> Mention | None:
        match = _label_pattern(tuple(self._keys)).match(text, place)
        return Mention(Keys({self.key_of(match.group(1))}), match.end()) if match else None

    def key_at(self, text: str, place: int) -> Mention | None:
        """Return the option whose key stands at a place, and stands there as a key: as no article, initial or name."""
        match = self._key_pattern.match(text, place)
        if match is None:
            return None
        key, end = self.key_of(match.group("key")), match.end()
        own = self.text_behind(text, end)
        if own is not None and (key in self._keys_of(own) or _END.match(text, own.end(1))):
            return self._with_text(text, match, own)
        stands = self._stands_dressed(text, match) if match.group("close") else self._stands_bare(text, match)
        return Mention(Keys({key}), end) if stands else None

    def text_behind(self, text: str, place: int) -> re.Match[str] | None:
        """Return the text of an option that follows a key."""
        separators = _SEPARATORS.match(text, place)
        start = separators.end() if separators else place
        if not self._text_pattern or (start == place and text[place - 1 : place] not in set(")]}")):
            return None
        # The text may have brackets of its own: `C. (30/200) / (30/400)`.
        opened = start - len(text[place:start]) + len(text[place:start].rstrip("(["))
        return self._text_pattern.match(text, opened) or self._text_pattern.match(text, start)

    def _with_text(self, text: str, letter: re.Match[str], named: re.Match[str]) -> Mention | None:
        """Return a key together with the text behind it; with the text of another option the two name nothing."""
        keys = self._keys_of(named) & {self.key_of(letter.group("key"))}
        ends = _END.match(text, named.end(1)) or _REASON.match(text, named.end(1))
        # `A warfarin overdose` is none of aspirin, and `A. Warfarin should be avoided` does not take it.
        article = not letter.group("close") and text[letter.end() : named.start(1)].isspace()
        if (article and not ends) or self._is_spoken_of(text, named.end(1)):
            return None
        return Mention(keys, named.end(1))

    def _stands_dressed(self, text: str, match: re.Match[str]) -> bool:
        # `(S)-ketamine` and `(E)-isomer` are names; so is `(B)-cell`.
        if re.match(r"-\w|\w", text[match.end() : match.end() + 2]):
            return False
        return not self._is_spoken_of(text, match.end())

    def _is_spoken_of(self, text: str, place: int) -> bool:
        """Return whether a sentence goes on to speak of an option, so that it does not take it."""
        closes = _CLOSERS.match(text, place)
        end = closes.end() if closes else place
        return _SPEAKS_OF.match(text, end) is not None and _REASON.match(text, end) is None

    def _stands_bare(self, text: str, match: re.Match[str]) -> bool:
        key, letter, end = self.key_of(match.group("key")), match.group("key"), match.end()
        behind = text[end : end + 240]
        if letter in {"a", "i"}:
            return _SENTENCE_ENDS.match(behind) is not None or behind[:1] == ":"
        if behind.startswith("."):
            return self._stands_before_period(behind[1:], key)
        inner = _INNER.match(behind)
        if inner is not None:
            reasons = _REASON.match(f" {inner.group(1)}") is not None
            if _CONFIDENCE.search(inner.group(1)):
                return _PARENTHESIS_ENDS.match(behind, inner.end()) is not None
            return reasons or (letter not in {"A", "I"} and _PARENTHESIS_ENDS.match(behind, inner.end()) is not None)
        return _END.match(behind) is not None or (_REASON.match(behind) is not None)

    def _stands_before_period(self, behind: str, key: str) -> bool:
        """Return whether the period behind a letter ends a sentence: not in `E. coli`, `B. Pertussis is` and `A.M.`."""
        word = _WORD.match(behind.lstrip())
        if word is None or re.match(r"[ \t]*\n|[\"')\]}]", behind):
            return not behind.strip() or not behind[0].isalnum()
        return behind[0].isspace() and self._begins_sentence(word, behind.lstrip(), key)

    def _begins_sentence(self, word: re.Match[str], text: str, key: str) -> bool:
        written, said = word.group(), word.group().lower()
        if said in self._keys or said in SENTENCE_WORDS or len(key) > 1 or said[0].isdigit():
            return True
        if (
            AUTHORS.match(text, word.end())
            or self._abbreviates(key, said)
            or said in EPITHETS
            or written in PARTS_OF_NAMES
        ):
            return False
        if not self._texts:
            # Nobody told what the options say: what follows may be the text of one.
            return not written.islower() or not said.isascii()
        more = _WORD.search(text.split("\n", 1)[0], word.end())
        sentence = written[0].isupper() and not said.endswith(LATIN_ENDINGS) and more is not None
        return sentence or said in self._own_words.get(key, ())

    def _abbreviates(self, initial: str, word: str) -> bool:
        return any(text.startswith(initial.lower()) and word in text.split()[1:] for text in self._texts)

    def confirmed_text_at(self, text: str, place: int) -> Mention | None:
        """Return the option whose text stands at a place, whatever follows."""
        match = self._free_pattern.match(text, place) if self._free_pattern else None
        if match is None:
            return None
        labelled = self._label_behind(text, match.end(1))
        keys = self._keys_of(match)
        return Mention(keys & labelled.keys, labelled.end) if labelled else Mention(keys, match.end(1))

    def alternatives_at(self, text: str, place: int) -> list[tuple[int, Mention]]:
        """Return the options that follow one as alternatives (`or C`, `, C`, `/C`, `B C`), with their places."""
        gap = _GAP.match(text, place) or _CLOSES.match(text, place)
        if gap is None:
            return []
        while (wider := _GAP.match(text, gap.end())) is not None:
            gap = wider
        named = self._free_pattern.match(text, gap.end()) if self._free_pattern else None
        if named is not None and _END.match(text, named.end(1)):
            return [(gap.end(), Mention(self._keys_of(named), named.end(1)))]
        match = self._key_pattern.match(text, gap.end())
        if match is None or not self.is_letter(text, match):
            return []
        return [(gap.end(), Mention(Keys({self.key_of(match.group("key"))}), match.end()))]

    def is_letter(self, text: str, match: re.Match[str]) -> bool:
        """Return whether a match of a key is no article, pronoun or part of a word."""
        letter, behind = match.group("key"), text[match.end() : match.end() + 3]
        if re.match(r"[-'/]?\w", behind) and not behind.startswith("/"):
            return False
        if match.group("close"):
            return True
        means_word = letter in {"A", "I"} and _MEANS_WORD.match(behind) is not None
        if letter == "A" and _SPEAKS_OF.match(text, match.end()):
            means_word = False
        return not means_word and (len(letter) > 1 or not letter.islower() or letter not in {"a", "i"})

    def mentions_in(self, text: str, start: int, end: int) -> list[tuple[int, Mention]]:
        """Return every standing letter and every text of an option in a stretch of text, with its place."""
        found: list[tuple[int, Mention]] = []
        for match in _standing_pattern(tuple(self._keys)).finditer(text, start, end):
            upper = not match.group("key").islower() or bool(match.group("close"))
            if upper and self.is_letter(text, match):
                found.append((match.start(), Mention(Keys({self.key_of(match.group("key"))}), match.end())))
        free = self._free_pattern
        for word in _WORD_BEGINS.finditer(text, start, end) if free else ():
            named = free.match(text, word.start(), end) if free else None
            if named is not None:
                found.append((word.start(), Mention(self._keys_of(named), named.end(1))))
        return found

    def _keys_of(self, match: re.Match[str]) -> Keys:
        return self._texts[" ".join(match.group(1).lower().split())]

    def listed_in(self, text: str) -> list[tuple[int, Keys]]:
        """Return the options that stand in a text as an entry of a list, key and own text: `B) heparin`."""
        found = []
        for match in _listed_pattern(tuple(self._keys)).finditer(text):
            key = self.key_of(match.group("key"))
            own = self._text_pattern.match(text, match.end()) if self._text_pattern else None
            if own is not None and key in self._keys_of(own):
                found.append((match.start(), Keys({key})))
        return found


def _bare(text: str) -> str:
    """Return a text without the quotes around it and the period behind it."""
    return text.strip('"').rstrip(" .").strip('" ')


def _folded(text: str) -> str:
    """Return the words of a text; an article goes at its beginning only, since `hepatitis A` is no `hepatitis`."""
    return " ".join(_SAID.findall(re.sub(r"\A(?:an?|the)\s+(?=\w)", "", text)))


def _alternatives(names: tuple[str, ...]) -> str:
    return "|".join(re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(name)) for name in sorted(names, key=len)[::-1])


@lru_cache(maxsize=256)
def _texts_pattern(texts: tuple[str, ...]) -> re.Pattern[str]:
    """Return what matches the text of an option, the longest first, perhaps in quotes or after an article."""
    return re.compile(rf"\s*[(\[\"']??(?:(?:an?|the)\s+)?({_alternatives(texts)})(?!\w)(?!-\w)", re.IGNORECASE)


@lru_cache(maxsize=256)
def _keys_pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        rf"\s*[(\[{{\"']*\s?(?P<key>{_alternatives(keys)})(?![^\W{_EASTERN}]|'\w|[+%°])[\"']?(?:\s?(?P<close>[)\]}}]))?[\"']?",
        re.IGNORECASE,
    )


@lru_cache(maxsize=256)
def _standing_pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w'.-])[(\[]?(?P<key>{_alternatives(keys)})(?![\w'+%°-])(?P<close>[)\]]?)", re.IGNORECASE)


@lru_cache(maxsize=256)
def _listed_pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w'-])[(\[]?(?P<key>{_alternatives(keys)})[)\].:][)\]]?\s*(?=\S)", re.IGNORECASE)


@lru_cache(maxsize=256)
def _label_pattern(keys: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(
        rf"\s*[,;]?\s*[(\[]\s*(?:(?:option|choice|answer|letter)\s*:?\s*)?[(\[]?({_alternatives(keys)})[)\]]?\s*[)\]]",
        re.IGNORECASE,
    )
