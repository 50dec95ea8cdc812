"""Reading which lettered option an answer takes: what it declares, what it is, what it begins or ends with.

Each way of taking an option yields claims, sets of keys; what all claims have in common is taken. So `the answer is B,
or perhaps C` takes none, and `B. mean minus mode` takes B where D has the same text.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from medbench.tasks.answers import wording
from medbench.tasks.answers.closed import read_polar
from medbench.tasks.answers.options import Keys, Options
from medbench.tasks.answers.wording import phrase

Claims = Sequence[Keys]

_ASKED = re.compile(r"\A\s*Q(?:uestion)?\s*:[^\n]*\n+(?=\s*A\s*:)")
# The sentence that goes on behind the marks of a key; a letter before a period may be an option: `or C. Clindamycin`.
_SENTENCE = re.compile(r"[\s)\].:-]*(?P<sentence>(?:[^.!?;\n]|(?<=\b\w)[.]|[.](?=\S)){0,200})")
_ANSWER_LABEL = re.compile(r"\A\s*A\s*:")
_CLAUSE_BEGINS = re.compile(r"\A|(?<!\b\w)[.;:!?\n,]\s+")
_LINES, _MANY_LINES, _BARE = 40, 400, 5


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
        """Return what a text claims, in the strongest way in which it claims anything."""
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
        """Return what stands right behind a declaration: one option, or all of its alternatives."""
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
        """Return the options that a pattern finds in a sentence from a place on, up to where it gives a reason."""
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
            denied_behind = named is not None and wording.is_denied_behind(opening, named.end)
            if not denied_behind and not wording.is_denied_before(opening, mention.start):
                also.append(mention.keys)
        return begun if all(keys & begun[0] for keys in also) else []

    def _begun_by(self, line: str) -> list[Keys]:
        """Return the option that a line begins with, and those that it sets beside it."""
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
