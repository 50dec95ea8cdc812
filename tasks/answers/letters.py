"""Reading which lettered option an answer takes, by letter, by text, or by both.

Each way of taking an option yields claims, sets of keys; what all claims have in common is taken. So `the answer is B,
or perhaps C` takes none, and `B. mean minus mode` takes B where D has the same text: naming a text that two options
share says no more than that it is one of the two.

A letter is a word of many other things: an article (`A lesion`), an initial (`E. coli`), a part of a name (`D-dimer`,
`B cells`). So a letter counts only if what follows it is an end, a reason, or the text of its own option.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from medbench.tasks.answers import wording
from medbench.tasks.answers.closed import POLAR_WORDS, read_polar
from medbench.tasks.answers.texts import plain_text
from medbench.tasks.answers.wording import phrase, word_set

Keys = frozenset[str]
Claims = Sequence[Keys]

# Words and the signs that make another word of one: `CD4+` and `CD4-`.
_SAID = re.compile(r"\w+|[%+<>=\u2191\u2193\u00b1]|(?<=\w)-(?=[\s,;.)]|\Z)")
_WORD, _WORD_BEGINS = re.compile(r"\w[\w'-]*"), re.compile(r"(?<![\w-])(?=\w)")
_SEPARATORS = re.compile(r"[\s)\].:,;\"'}(\[-]*")
_CLOSES = re.compile(r"[)\]\"']\s*|\.\s*(?=[,;/&+|]|(?:and|or|plus|as\s+well\s+as)\b)")
_INNER = re.compile(r"\s*\(\s*([^()\n]{0,200})\)")
_SENTENCE_ENDS = re.compile(r"\s*[.!]?\s*(?:\Z|\n)|:")
# What stands behind an initial that is no option: authors, parts of names, species (`E. coli`); and what does not,
# since it begins a sentence.
_AUTHORS = re.compile(r",?\s+(?:et\s+al|and\s+colleagues)\b")
_PARTS_OF_NAMES = frozenset({"section", "cell", "cells", "dimer", "peptide"})
_SENTENCE_WORDS, _EPITHETS = word_set("sentence_words"), word_set("epithets")
_LATIN_ENDINGS = ("i", "us", "um", "is", "ae", "a", "ans", "ens", "es", "ii", "e", "on", "ax", "or", "ix", "ex")
_ASKED = re.compile(r"\A\s*Q(?:uestion)?\s*:[^\n]*\n+(?=\s*A\s*:)")
# The sentence that goes on behind the marks of a key; a letter before a period may be an option: `or C. Clindamycin`.
_SENTENCE = re.compile(r"[\s)\].:-]*(?P<sentence>(?:[^.!?;\n]|(?<=\b\w)[.]|[.](?=\S)){0,200})")
_ANSWER_LABEL = re.compile(r"\A\s*A\s*:")
_CLAUSE_BEGINS = re.compile(r"\A|(?<!\b\w)[.;:!?\n,]\s+")
_LINES, _MANY_LINES, _BARE = 40, 400, 5


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
                for names, form in ((self._texts, plain), (self._normal, _folded(plain))):
                    names[form] = names.get(form, Keys()) | {key}
        self.polar = {text: keys for text, keys in self._texts.items() if text in POLAR_WORDS}
        # `yes` and `no` mean too much without their key.
        self._any_text = _texts_pattern(self._texts)
        self._free_text = _texts_pattern(text for text in self._texts if text not in POLAR_WORDS)
        self._any_key = _one_of(choices)

    def phrase(self, name: str) -> re.Pattern[str]:
        """Return the pattern of a phrase about the keys of these options."""
        return phrase(name, self._any_key)

    def keys_of(self, letter: str) -> Keys:
        """Return the key that is written so in any case."""
        key = self._keys.get(letter.lower())
        return Keys({key}) if key else Keys(own for own in self._keys.values() if _is_written(own, letter))

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
        """Return the option whose text stands at a place, ending as a phrase; `free`: without its key, as yes never."""
        match = (self._free_text if free else self._any_text).match(text, place)
        if match is None or not phrase("option_ends_or_reason").match(text, match.end(1)):
            return None
        mention = self._labelled(text, match)
        return None if mention.end > match.end(1) and phrase("option_spoken_of").match(text, mention.end) else mention

    def confirmed_text_at(self, text: str, place: int) -> Mention | None:
        """Return the option whose text stands at a place, whatever follows."""
        match = self._free_text.match(text, place)
        return self._labelled(text, match) if match else None

    def _labelled(self, text: str, named: re.Match[str]) -> Mention:
        """Return the option of a text together with the key behind it: `warfarin (option C)`."""
        mention, label = self._named(named), self.phrase("option_label").match(text, named.end(1))
        if label is None:
            return mention
        return Mention(mention.keys & self.keys_of(label.group(1)), mention.start, label.end())

    def key_at(self, text: str, place: int) -> Mention | None:
        """Return the option whose key stands at a place, and stands there as a key: as no article, initial or name."""
        match = self.phrase("option_key").match(text, place)
        if match is None:
            return None
        keys, end = self.keys_of(match.group("key")), match.end()
        own = self.text_behind(text, end)
        if own is not None and (keys <= self._of_text(own) or phrase("option_ends").match(text, own.end(1))):
            # With the text of another option the two name nothing. `A warfarin overdose` is none of aspirin, and
            # `A. Warfarin should be avoided` does not take it.
            article = not match.group("close") and text[end : own.start(1)].isspace()
            ends = phrase("option_ends_or_reason").match(text, own.end(1))
            spoken_of = (article and not ends) or phrase("option_spoken_of").match(text, own.end(1))
            return None if spoken_of else Mention(keys & self._of_text(own), place, own.end(1))
        if match.group("close"):
            # `(S)-ketamine` and `(E)-isomer` are names; so is `(B)-cell`.
            stands = not re.match(r"-?\w", text[end : end + 2]) and not phrase("option_spoken_of").match(text, end)
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

    def _stands_bare(self, letter: str, behind: str) -> bool:
        if letter in {"a", "i"}:
            return _SENTENCE_ENDS.match(behind) is not None
        if behind.startswith("."):
            return self._stands_before_period(letter, behind[1:])
        inner = _INNER.match(behind)
        if inner is None:
            return phrase("option_ends_or_reason").match(behind) is not None
        told_how_sure = phrase("option_confidence").search(inner.group(1)) is not None
        if not told_how_sure and phrase("option_reason").match(f" {inner.group(1)}"):
            return True
        article = letter in {"A", "I"} and not told_how_sure
        return not article and phrase("parenthesis_ends").match(behind, inner.end()) is not None

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
        own_texts = [own for own, keys in self._texts.items() if self.keys_of(letter) <= keys]
        return any(" " in own and said in own.split() for own in own_texts)

    def alternatives_at(self, text: str, place: int) -> list[Mention]:
        """Return the options that follow one as alternatives: `or C`, `, C`, `/C`, `B C`."""
        gap = phrase("option_gap").match(text, place) or _CLOSES.match(text, place)
        if gap is None:
            return []
        while (wider := phrase("option_gap").match(text, gap.end())) is not None:
            gap = wider
        named = self._free_text.match(text, gap.end())
        if named is not None and phrase("option_ends").match(text, named.end(1)):
            return [self._named(named)]
        match = self.phrase("option_key").match(text, gap.end())
        return [self._keyed(match)] if match is not None and self._is_letter(text, match) else []

    def _is_letter(self, text: str, match: re.Match[str]) -> bool:
        # No article, pronoun or part of a word.
        letter, behind = match.group("key"), text[match.end() : match.end() + 3]
        if match.group("close") or re.match(r"[-']?\w", behind):
            return not re.match(r"[-']?\w", behind)
        spoken_of = letter == "A" and phrase("option_speaks_of").match(text, match.end()) is not None
        article = letter in {"A", "I"} and re.match(r"\s+[a-z]", behind) is not None
        return letter not in {"a", "i"} and (spoken_of or not article)

    def mentions_in(self, text: str, start: int, end: int) -> Iterator[Mention]:
        """Yield every standing letter and every text of an option in a stretch of text."""
        for match in self.phrase("option_standing").finditer(text, start, end):
            upper = not match.group("key").islower() or bool(match.group("close"))
            if upper and self._is_letter(text, match):
                yield self._keyed(match)
        for word in _WORD_BEGINS.finditer(text, start, end):
            if named := self._free_text.match(text, word.start(), end):
                yield self._named(named)

    def listed_in(self, text: str) -> Iterator[Mention]:
        """Yield the options that stand in a text as an entry of a list, key and own text: `B) heparin`."""
        for match in self.phrase("option_listed").finditer(text):
            mention, own = self._keyed(match), self._any_text.match(text, match.end())
            if own is not None and mention.keys <= self._of_text(own):
                yield mention

    def _keyed(self, match: re.Match[str]) -> Mention:
        return Mention(self.keys_of(match.group("key")), *match.span())

    def _named(self, match: re.Match[str]) -> Mention:
        return Mention(self._of_text(match), match.start(), match.end(1))

    def _of_text(self, match: re.Match[str]) -> Keys:
        said = " ".join(match.group(1).lower().split())
        same = (keys for text, keys in self._texts.items() if _is_written(text, said))
        return self._texts[said] if said in self._texts else Keys().union(*same)


def _bare(text: str) -> str:
    return text.strip('"').rstrip(" .").strip('" ')


def _folded(text: str) -> str:
    """Return the words of a text; an article goes at its beginning only, since `hepatitis A` is no `hepatitis`."""
    return " ".join(_SAID.findall(re.sub(r"\A(?:an?|the)\s+(?=\w)", "", text)))


def _one_of(names: Iterable[str]) -> str:
    """Return the alternatives of a pattern, the longest first; without names it matches nothing."""
    return "|".join(re.sub(r"(?:\\?\s)+", r"\\s+", re.escape(name)) for name in sorted(names, key=len)[::-1]) or r"(?!)"


def _is_written(name: str, said: str) -> bool:
    """Return whether patterns take one for the other where lower case does not: i for one without a dot."""
    return re.fullmatch(_one_of([name]), said, re.IGNORECASE) is not None


def _texts_pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Return what matches the text of an option, perhaps in quotes or after an article."""
    return re.compile(rf"\s*[(\[\"']??(?:(?:an?|the)\s+)?({_one_of(texts)})(?!\w)(?!-\w)", re.IGNORECASE)


@lru_cache(maxsize=256)
def letters_reader(choices: tuple[tuple[str, str], ...], *, in_field: bool = False) -> "Letters":
    """Return the reader of a question's options, key and text each; a field holds nothing but the answer."""
    return Letters(dict(choices), in_field=in_field)


def common(claims: Claims) -> Keys:
    """Return the options that all claims may mean."""
    return Keys.intersection(*claims) if claims else Keys()


def _sentence(text: str, place: int) -> tuple[int, int]:
    found = _SENTENCE.match(text, place)
    return found.span("sentence") if found else (place, place)


class Letters(Options):
    """The reader of options that have a letter (or a number) and a text."""

    def __init__(self, choices: Mapping[str, str], *, in_field: bool = False) -> None:
        super().__init__(choices)
        # A field holds the answer itself: the `not` behind its letter is that of the option.
        self._in_field = in_field

    def taken_by(self, text: str) -> Keys:
        """Return what an answer takes in its last version."""
        versions = wording.versions(text)
        parts = versions if self.polar else [one for part in versions for one in phrase("letter_no_longer").split(part)]
        last = self._one_version(parts[-1].lstrip(" ,.:;!-\n\u2026"))
        if len(parts) == 1 or last or any(self._claims(part) for part in parts[:-1]):
            return last
        # Nothing had been said that could be taken back.
        return self._one_version(text)

    def _one_version(self, text: str) -> Keys:
        again = wording.afterthought(text)
        if again is not None and phrase("letter_withdraws").match(again):
            return Keys()
        anew = self._claims(again) if again is not None and not phrase("letter_also").search(again) else ()
        return common(anew or self._claims(text))

    def _claims(self, text: str) -> Claims:
        text = phrase("not_this_first").sub("", phrase("letter_greeting").sub("", _ASKED.sub("", text)))
        label = _ANSWER_LABEL.match(text)
        # The label of `A: B`, which no text of option A follows.
        if label and not self.text_at(text, label.end(), free=False):
            text = text[label.end() :] if self.key_at(text, label.end()) else text
        if declared := self.declared(text):
            begun = () if _ANSWER_LABEL.match(text) else self._at_the_start(text)
            return [*declared, *begun, *self._added(text)]
        whole = self.whole(phrase("letter_label").sub("", text))
        if whole and not text.rstrip(" \"')").endswith("?"):
            return [whole]
        claims = self._at_the_start(text) or self._last_line(text) or self._pointed_out(text)
        polar = read_polar(text) if self.polar and not claims else None
        return claims or ([self.polar[polar]] if polar in self.polar else [])

    def declared(self, text: str) -> list[Keys]:
        """Return everything that a text declares."""
        claims: list[Keys] = []
        for name in ("declares_strongly", "declares_weakly", "declared_elsewhere"):
            for match in phrase(name).finditer(text):
                ahead = wording.before(text, match.start()) if name == "declared_elsewhere" else ""
                claims += () if phrase("letter_denied_elsewhere").search(ahead) else self._declared_at(text, match)
        for match in self.phrase("letter_confirmed").finditer(text):
            claims += self._confirmed_at(text, match)
        for match in _CLAUSE_BEGINS.finditer(text):
            claims += self._confirmed_text_at(text, match.end())
        return claims

    def _declared_at(self, text: str, match: re.Match[str]) -> Claims:
        start, end = match.span()
        preamble, denied = phrase("preamble").match(text, end), phrase("letter_not_this_but").match(text, end)
        places = [end, *([preamble.end()] if preamble else [])] if denied is None else [denied.end()]
        mention = next((found for place in places if (found := self.named_at(text, place))), None)
        if mention is None or wording.is_denied(text, start, mention.end) or wording.is_conditional(text, mention.end):
            return ()
        # Who it is that `would choose` stands before the declaration, or is a part of it.
        supposed = wording.is_supposed(text, start) or (match.lastgroup == "takes" and wording.is_supposed(text, end))
        once = " was" in match.group() and phrase("letter_once").search(wording.before(text, start))
        if supposed or once or wording.is_rejected(text, mention.end):
            return ()
        return [mention.keys, *self._others_behind(text, mention.end)]

    def _others_behind(self, text: str, place: int) -> list[Keys]:
        """Return the options that a sentence sets beside one that it has named: `or C`, `, but C is possible`."""
        start, end = _sentence(text, place)
        contrast = phrase("letter_contrast").match(text, start, end)
        mentions = self.mentions_in(text, contrast.end(), end) if contrast else ()
        return self._keys_in(self.phrase("listed_too"), text, place) + [
            mention.keys
            for mention in [*self.alternatives_at(text, place), *mentions]
            if not wording.is_denied(text, mention.start, mention.end)
        ]

    def _keys_in(self, pattern: re.Pattern[str], text: str, place: int) -> list[Keys]:
        start, end = _sentence(text, place)
        reason = phrase("letter_aside").search(text, start, end)
        found = pattern.finditer(text, start, reason.start() if reason else end)
        return [self.keys_of(match.group(1)) for match in found]

    def _confirmed_at(self, text: str, match: re.Match[str]) -> Claims:
        """Return the option of `C is correct`, `Option C, warfarin, is the best answer`."""
        start, end, letter = match.start("key"), match.end(), match.group("key")
        labelled = match.group("label") or match.group("close") or len(letter) > 1
        if not labelled and (letter.islower() or self._is_listed(text, start)):
            return ()
        if not phrase("confirms").match(text, end) and not self.text_behind(text, end):
            return ()
        mention = self.key_at(text, start)
        confirmed = phrase("confirms").match(text, max(end, mention.end) if mention else end)
        if confirmed is None or wording.is_denied_before(text, start) or wording.is_supposed(text, match.start()):
            return ()
        # What is `also correct` stands beside something else.
        beside = [Keys()] if phrase("letter_also").search(text[confirmed.start() : confirmed.end() + 8]) else []
        keys = mention.keys if mention else self.keys_of(letter)
        others = self._others_behind(text, confirmed.end())
        return () if wording.is_conditional(text, confirmed.end()) else [keys, *beside, *others]

    def _is_listed(self, text: str, place: int) -> bool:
        """Return whether a letter is the last one of several, other than in `unlike A, B is`."""
        listed = phrase("letter_not_alone_before").search(text, max(0, place - 8), place)
        return listed is not None and not wording.is_denied_before(text, listed.start())

    def _added(self, text: str) -> list[Keys]:
        matches = [*self.phrase("so_is").finditer(text), *self.phrase("weighed").finditer(text)]
        return [self.keys_of(match.group(1)) for match in matches]

    def _confirmed_text_at(self, text: str, place: int) -> Claims:
        named = self.confirmed_text_at(text, place)
        if named is None or not phrase("confirms").match(text, named.end):
            return ()
        return () if wording.is_denied_before(text, place) or wording.is_supposed(text, place) else [named.keys]

    def _at_the_start(self, text: str) -> list[Keys]:
        opening = phrase("letter_list_ends").split(text, maxsplit=1)[0]
        first, *others = [line for line in opening.splitlines() if line.strip()] or [""]
        begun = self._begun_by(first)
        if not begun or not begun[0]:
            return begun
        # A model that lists all options has taken none.
        also = [keys for line in others[:_LINES] for keys in self._begun_by(line.lstrip(" -+"))[:1] if keys]
        for mention in self.listed_in(opening):
            named = self.key_at(opening, mention.start)
            denied = named is not None and wording.is_denied_behind(opening, named.end)
            also += [] if denied or wording.is_denied_before(opening, mention.start) else [mention.keys]
        return begun if all(keys & begun[0] for keys in also) else []

    def _begun_by(self, line: str) -> list[Keys]:
        label = phrase("letter_label").match(line)
        mention = self.named_at(line, label.end() if label else 0)
        if mention is None:
            return []
        confirmed, behind = phrase("confirms").match(line, mention.end), line[mention.end :]
        if wording.is_conditional(line, confirmed.end() if confirmed else mention.end):
            return []
        start = _sentence(line, mention.end)[0]
        separated = bool(line[mention.end : start].strip()) and not self._in_field
        # `A. is incorrect` speaks of A, `A. The others are incorrect` and `A. B is incorrect` do not.
        of_others = self.phrase("letters_of_others").match(line, start) or self.confirmed_text_at(line, start)
        places = (mention.end, start) if separated and not of_others else (mention.end,)
        if not phrase("letter_gives_reasons").match(behind) and any(
            wording.is_denied_behind(line, place) for place in places
        ):
            return []
        denied_alone = self.phrase("letter_denied_alone").match(behind) and not self._in_field
        if denied_alone or wording.is_rejected(line, mention.end) or phrase("does_not_know").match(behind):
            return []
        others = self._others_behind(line, mention.end) + self._keys_in(
            self.phrase("letter_bracketed"), line, mention.end
        )
        return [mention.keys, *others, *self._added(line)]

    def _last_line(self, text: str) -> list[Keys]:
        """Return the option that the last line is, its key alone or with its text, and those that other lines are."""
        lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        last = text.rstrip().rsplit("\n", 1)[-1].strip()
        if len(lines) > _MANY_LINES or not self._is_option(last):
            return []
        # A bare key may follow the list of all options, which is told from it by its texts.
        told = [line for line in lines if len(line) <= _BARE] if len(last) <= _BARE else lines
        return [keys for line in told if (keys := self._is_option(line))]

    def _is_option(self, line: str) -> Keys:
        label = phrase("letter_label").match(line)
        mention = self.key_at(line, label.end() if label else 0)
        if mention is None or line[mention.end :].strip(" .!)]*\"'"):
            return Keys()
        return mention.keys if label or not line[:1].islower() else Keys()

    def _pointed_out(self, text: str) -> list[Keys]:
        """Return the options that are pointed out by their letter at the end of a sentence: `E. coli (option A)`."""
        return [
            self.keys_of(match.group(1))
            for match in self.phrase("pointed").finditer(text)
            if not wording.is_denied_before(text, match.start()) and not wording.is_supposed(text, match.start())
        ]
