"""The options of a question in the forms in which an answer may name them: by letter, by text, or by both.

A letter is a word of many other things: an article (`A lesion`), an initial (`E. coli`), a part of a name (`D-dimer`,
`B cells`). So a letter counts only if what follows it is an end, a reason, or the text of its own option. A mention
is a set of keys, because two options may have the same text: naming it says no more than that it is one of the two.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from medbench.tasks.answers.closed import POLAR_WORDS
from medbench.tasks.answers.texts import plain_text
from medbench.tasks.answers.wording import pattern, word_set

Keys = frozenset[str]

_EASTERN = r"\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af"  # Letters that are written without blanks between words.
_END = re.compile(
    r"(?:\u3067\u3059|\u3060|\uc785\ub2c8\ub2e4|\u9879|\u9805)?\s*(?:\Z|[)\],;!\"'}(\n]|:(?=\s|\Z)|\.+(?=\s|\Z|[)\"'\]}])|\s-+(?=\s|\Z))"
)
_REASON = pattern(r"\s+(?:{option_reasons})\b")
# Words and the signs that make another word of one: `CD4+` and `CD4-`.
_SAID = re.compile(r"\w+|[%+<>=\u2191\u2193\u00b1]|(?<=\w)-(?=[\s,;.)]|\Z)")
_WORD, _WORD_BEGINS = re.compile(r"\w[\w'-]*"), re.compile(r"(?<![\w-])(?=\w)")
_SEPARATORS, _CLOSERS = re.compile(r"[\s)\].:,;\"'}(\[-]*"), re.compile(r"[)\]\"']*")
_GAP = pattern(r"(?:[\s,;/&+|>~-]|\b(?:{between_options})\b|[(\[]){1,12}")
_CLOSES = re.compile(r"[)\]\"']\s*|\.\s*(?=[,;/&+|]|(?:and|or|plus|as\s+well\s+as)\b)")
# A sentence about an option, not one that takes it: `(A) should be avoided`, `A (aspirin) for adults`.
_SPEAKS_OF = pattern(r"\s+(?:{speaks_of_option})\b")
_INNER = re.compile(r"\s*\(\s*([^()\n]{0,200})\)")
_CONFIDENCE = re.compile(r"confiden|\bcertain|\d\s*%", re.IGNORECASE)
_PARENTHESIS_ENDS = re.compile(r"\s*(?:\Z|[.,;:!\n]|-+\s|(?:is|was|would\s+be|because|since|as)\b)", re.IGNORECASE)
_SENTENCE_ENDS = re.compile(r"\s*[.!]?\s*(?:\Z|\n)|:")
# What stands behind an initial that is no option: authors, parts of names, species (`E. coli`); and what does not,
# since it begins a sentence.
_AUTHORS = re.compile(r",?\s+(?:et\s+al|and\s+colleagues)\b")
_PARTS_OF_NAMES = frozenset({"section", "cell", "cells", "dimer", "peptide"})
_SENTENCE_WORDS, _EPITHETS = word_set("sentence_words"), word_set("epithets")
_LATIN_ENDINGS = ("i", "us", "um", "is", "ae", "a", "ans", "ens", "es", "ii", "e", "on", "ax", "or", "ix", "ex")


@dataclass(frozen=True, slots=True)
class Mention:
    """An option as it is named at a place of a text; no keys if letter and text name different ones."""

    keys: Keys
    start: int
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
        self.polar = {text: keys for text, keys in self._texts.items() if text in POLAR_WORDS}
        # `yes` and `no` mean too much without their key.
        self._any_text = _texts_pattern(self._texts)
        self._free_text = _texts_pattern(text for text in self._texts if text not in POLAR_WORDS)
        self.any_key = any_key = _one_of(choices)
        self._key = pattern("{option_key}", key=any_key, eastern=_EASTERN)
        self._standing = pattern(r"(?<![\w'.-])[(\[]?(?P<key>{key})(?![\w'+%°-])(?P<close>[)\]]?)", key=any_key)
        self._listed = pattern(r"(?<![\w'-])[(\[]?(?P<key>{key})[)\].:][)\]]?\s*(?=\S)", key=any_key)
        self._label = pattern("{option_label}", key=any_key)

    def keys_of(self, letter: str) -> Keys:
        """Return the key that is written so in any case."""
        return Keys({self._keys[letter.lower()]})

    def whole(self, text: str) -> Keys:
        """Return the options that a whole text is: a key alone, or the text of an option."""
        letter = text.strip(" \t\n()[]{}\"'.,:;!").lower()
        if letter in self._keys:
            return self.keys_of(letter)
        plain = _bare(" ".join(text.lower().split()))
        return self._texts.get(plain) or self._normal.get(_folded(plain), Keys())

    def named_at(self, text: str, place: int) -> Mention | None:
        """Return the option that a text names at a place, by its text or its key; text goes before keys."""
        return self.text_at(text, place) or self.key_at(text, place)

    def text_at(self, text: str, place: int, *, free: bool = True) -> Mention | None:
        """Return the option whose text stands at a place, white space and an article aside, and ends as a phrase.

        It is `free` without its key; `yes` and `no` mean too much without one.
        """
        match = (self._free_text if free else self._any_text).match(text, place)
        if match is None or not _ends(text, match.end(1)):
            return None
        mention = self._labelled(text, match)
        return None if mention.end > match.end(1) and self._is_spoken_of(text, mention.end) else mention

    def confirmed_text_at(self, text: str, place: int) -> Mention | None:
        """Return the option whose text stands at a place, whatever follows."""
        match = self._free_text.match(text, place)
        return self._labelled(text, match) if match else None

    def _labelled(self, text: str, named: re.Match[str]) -> Mention:
        """Return the option of a text together with the key behind it: `warfarin (option C)`."""
        label = self._label.match(text, named.end(1))
        keys = self._of_text(named) & (self.keys_of(label.group(1)) if label else self._of_text(named))
        return Mention(keys, named.start(), label.end() if label else named.end(1))

    def key_at(self, text: str, place: int) -> Mention | None:
        """Return the option whose key stands at a place, and stands there as a key: as no article, initial or name."""
        match = self._key.match(text, place)
        if match is None:
            return None
        keys, end = self.keys_of(match.group("key")), match.end()
        own = self.text_behind(text, end)
        if own is not None and (keys <= self._of_text(own) or _END.match(text, own.end(1))):
            # With the text of another option the two name nothing. `A warfarin overdose` is none of aspirin, and
            # `A. Warfarin should be avoided` does not take it.
            article = not match.group("close") and text[end : own.start(1)].isspace()
            if (article and not _ends(text, own.end(1))) or self._is_spoken_of(text, own.end(1)):
                return None
            return Mention(keys & self._of_text(own), place, own.end(1))
        if match.group("close"):
            # `(S)-ketamine` and `(E)-isomer` are names; so is `(B)-cell`.
            stands = not re.match(r"-?\w", text[end : end + 2]) and not self._is_spoken_of(text, end)
        else:
            stands = self._stands_bare(match.group("key"), text[end : end + 240])
        return Mention(keys, place, end) if stands else None

    def text_behind(self, text: str, place: int) -> re.Match[str] | None:
        """Return the text of an option that follows a key."""
        separators = _SEPARATORS.match(text, place)
        start = separators.end() if separators else place
        if start == place and text[place - 1 : place] not in set(")]}"):
            return None
        # The text may have brackets of its own: `C. (30/200) / (30/400)`.
        opened = place + len(text[place:start].rstrip("(["))
        return self._any_text.match(text, opened) or self._any_text.match(text, start)

    def _is_spoken_of(self, text: str, place: int) -> bool:
        closed = _CLOSERS.match(text, place)
        end = closed.end() if closed else place
        return _SPEAKS_OF.match(text, end) is not None and _REASON.match(text, end) is None

    def _stands_bare(self, letter: str, behind: str) -> bool:
        if letter in {"a", "i"}:
            return _SENTENCE_ENDS.match(behind) is not None
        if behind.startswith("."):
            return self._stands_before_period(letter, behind[1:])
        inner = _INNER.match(behind)
        if inner is None:
            return _ends(behind, 0)
        told_how_sure = _CONFIDENCE.search(inner.group(1)) is not None
        if not told_how_sure and _REASON.match(f" {inner.group(1)}"):
            return True
        article = letter in {"A", "I"} and not told_how_sure
        return not article and _PARENTHESIS_ENDS.match(behind, inner.end()) is not None

    def _stands_before_period(self, letter: str, behind: str) -> bool:
        # The period ends a sentence: not in `E. coli`, `B. Pertussis is` and `A.M.`.
        word = _WORD.match(behind.lstrip())
        if word is None or re.match(r"[ \t]*\n|[\"')\]}]", behind):
            return not behind[:1].isalnum()
        return behind[0].isspace() and self._begins_sentence(letter, word, behind.lstrip())

    def _begins_sentence(self, letter: str, word: re.Match[str], text: str) -> bool:
        written, said = word.group(), word.group().lower()
        if said in self._keys or said in _SENTENCE_WORDS or len(letter) > 1 or said[0].isdigit():
            return True
        abbreviated = any(own.startswith(letter.lower()) and said in own.split()[1:] for own in self._texts)
        if abbreviated or said in _EPITHETS or written in _PARTS_OF_NAMES or _AUTHORS.match(text, word.end()):
            return False
        more = _WORD.search(text.split("\n", 1)[0], word.end())
        if not self._texts:
            # Nobody told what the options say: what follows may be the text of one.
            return not written.islower() or not said.isascii()
        if written[0].isupper() and not said.endswith(_LATIN_ENDINGS) and more is not None:
            return True
        return any(
            " " in own and said in own.split() and self.keys_of(letter) <= keys for own, keys in self._texts.items()
        )

    def alternatives_at(self, text: str, place: int) -> list[Mention]:
        """Return the options that follow one as alternatives: `or C`, `, C`, `/C`, `B C`."""
        gap = _GAP.match(text, place) or _CLOSES.match(text, place)
        if gap is None:
            return []
        while (wider := _GAP.match(text, gap.end())) is not None:
            gap = wider
        named = self._free_text.match(text, gap.end())
        if named is not None and _END.match(text, named.end(1)):
            return [Mention(self._of_text(named), gap.end(), named.end(1))]
        match = self._key.match(text, gap.end())
        if match is None or not self._is_letter(text, match):
            return []
        return [Mention(self.keys_of(match.group("key")), gap.end(), match.end())]

    def _is_letter(self, text: str, match: re.Match[str]) -> bool:
        # No article, pronoun or part of a word.
        letter, behind = match.group("key"), text[match.end() : match.end() + 3]
        if re.match(r"[-']?\w", behind):
            return False
        if match.group("close"):
            return True
        article = letter in {"A", "I"} and re.match(r"\s+[a-z]", behind) is not None
        return letter not in {"a", "i"} and not (
            article and not (letter == "A" and _SPEAKS_OF.match(text, match.end()))
        )

    def mentions_in(self, text: str, start: int, end: int) -> Iterator[Mention]:
        """Yield every standing letter and every text of an option in a stretch of text."""
        for match in self._standing.finditer(text, start, end):
            upper = not match.group("key").islower() or bool(match.group("close"))
            if upper and self._is_letter(text, match):
                yield Mention(self.keys_of(match.group("key")), match.start(), match.end())
        for word in _WORD_BEGINS.finditer(text, start, end):
            named = self._free_text.match(text, word.start(), end)
            if named is not None:
                yield Mention(self._of_text(named), word.start(), named.end(1))

    def listed_in(self, text: str) -> list[Mention]:
        """Return the options that stand in a text as an entry of a list, key and own text: `B) heparin`."""
        found = [(match, self._any_text.match(text, match.end())) for match in self._listed.finditer(text)]
        return [
            Mention(self.keys_of(match.group("key")), *match.span())
            for match, own in found
            if own is not None and self.keys_of(match.group("key")) <= self._of_text(own)
        ]

    def _of_text(self, match: re.Match[str]) -> Keys:
        return self._texts[" ".join(match.group(1).lower().split())]


def _ends(text: str, place: int) -> bool:
    return _END.match(text, place) is not None or _REASON.match(text, place) is not None


def _bare(text: str) -> str:
    """Return a text without the quotes around it and the period behind it."""
    return text.strip('"').rstrip(" .").strip('" ')


def _folded(text: str) -> str:
    """Return the words of a text; an article goes at its beginning only, since `hepatitis A` is no `hepatitis`."""
    return " ".join(_SAID.findall(re.sub(r"\A(?:an?|the)\s+(?=\w)", "", text)))


def _one_of(names: Iterable[str]) -> str:
    """Return the alternatives of a pattern, the longest first; without names it matches nothing."""
    return "|".join(re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(name)) for name in sorted(names, key=len)[::-1]) or r"(?!)"


def _texts_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Return what matches the text of an option, perhaps in quotes or after an article."""
    return re.compile(rf"\s*[(\[\"']??(?:(?:an?|the)\s+)?({_one_of(texts)})(?!\w)(?!-\w)", re.IGNORECASE)
