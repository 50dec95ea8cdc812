"""Reading which lettered option an answer takes: what it declares, what it is, what it begins or ends with.

Each way of taking an option yields claims, sets of keys; what all claims have in common is taken. So `the answer is B,
or perhaps C` takes none, and `B. mean minus mode` takes B where D has the same text.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from medbench.tasks.answers.declarations import (
    ASKED,
    CONFIRMS,
    CONTRAST,
    DENIED_ELSEWHERE,
    DOES_NOT_KNOW,
    ELSEWHERE,
    GREETING,
    LABEL,
    NOT_THIS_BUT,
    NOT_THIS_FIRST,
    POINTED,
    PREAMBLE,
    STRONG,
    WEAK,
    WITHDRAWS,
)
from medbench.tasks.answers.options import Keys, Options
from medbench.tasks.answers.polar import read_polar
from medbench.tasks.answers.wording import (
    afterthought,
    before,
    is_conditional,
    is_denied_before,
    is_denied_behind,
    is_rejected,
    is_supposed,
    versions,
)

# A letter before a period may be an option: `or C. Clindamycin`.
_SENTENCE = re.compile(r"(?:[^.!?;\n]|(?<=\b\w)[.]|[.](?=\S)){0,200}")
_ASIDE = re.compile(r"\b(?:because|since|as|due|while|whereas|unlike|not)\b", re.IGNORECASE)
_NOT_ALONE_BEFORE = re.compile(r"(?:\b(?:and|or|nor|neither|either|both)|[(\[]?\b\w[)\]]?\s*[,/&])\s*\Z", re.IGNORECASE)
_LIST_ENDS = re.compile(r"\n\s*(?:\n|explanation|because|reason|rationale|justification)", re.IGNORECASE)
_GIVES_REASONS = re.compile(r"\s*[,.:;)-]*\s*(?:because|since|as|due|given|based|explanation|reason)\b", re.IGNORECASE)
_ONCE = re.compile(r"\b(?:first|original|earlier|old)\s*\Z", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s)\].:-]*")
_ANSWER_LABEL = re.compile(r"\A\s*A\s*:")
_ALSO = re.compile(r"\b(?:also|too|as\s+well|equally)\b", re.IGNORECASE)
_CLAUSE_BEGINS = re.compile(r"\A|(?<!\b\w)[.;:!?\n,]\s+")
_NO_LONGER = re.compile(r"(?:(?<=[.!?\n,;])|(?<=\.\.)|(?<=\s-)|(?<=\u2026))\s*no\s*[,.!:;-]+\s+", re.IGNORECASE)

_LINES = 40
_MANY_LINES = 400
_BARE = 5

Claims = Sequence[Keys]


def letters_reader(choices: Mapping[str, str], *, in_field: bool = False) -> "Letters":
    """Return the reader of a question's options.

    Args:
        choices: Key to text.
        in_field: Whether it reads the value of a field, which holds nothing but the answer.
    """
    return _letters(tuple(choices.items()), in_field)


def common(claims: "Claims") -> Keys:
    """Return the options that all claims may mean."""
    return Keys.intersection(*claims) if claims else Keys()


@lru_cache(maxsize=256)
def _letters(choices: tuple[tuple[str, str], ...], in_field: bool) -> "Letters":
    return Letters(Options(dict(choices)), in_field=in_field)


def _sentence(text: str, place: int) -> tuple[int, int]:
    """Return where the sentence begins and ends that goes on at a place, behind the marks of a key."""
    separators = _SEPARATORS.match(text, place)
    start = separators.end() if separators else place
    sentence = _SENTENCE.match(text, start)
    return start, sentence.end() if sentence else start


class Letters:
    """The reader of options that have a letter (or a number) and a text."""

    def __init__(self, options: Options, *, in_field: bool = False) -> None:
        self._options = options
        # A field holds the answer itself: the `not` behind its letter is that of the option.
        self._in_field = in_field
        key = options.key_pattern()
        self._confirmed = re.compile(
            rf"(?:\A|(?<=[.;:!?\n,])(?<!Mr\.)(?<!Dr\.)(?<!Ms\.)(?<!Mrs\.)|\b(?P<label>option|choice|answer|letter)|\b(?:so|thus|therefore|hence|that|think|believe|only|but))"
            rf"\s*[(\[\"']?(?P<key>{key})(?![\w'-])(?P<close>[)\]]?)[\"']?",
            re.IGNORECASE,
        )
        self._bracketed = re.compile(rf"(?<![\w'-])[(\[]?({key})[)\]](?=\s|\Z|[.,;])", re.IGNORECASE)
        self._listed_too = re.compile(
            rf"(?:\b(?:or|and|plus|also)\s|[,;/&+])\s*(?:(?:option|choice)\s+)?[(\[\"]?({key})[)\].:\"][)\]]?\s*(?=\S)",
            re.IGNORECASE,
        )
        self._of_others = re.compile(
            rf"(?:(?:all|each|none)\s+(?:of\s+)?)?(?:the\s+)?(?:others?|rest|remaining)\b|(?:option\s+)?[(\[]?(?-i:{key})[)\]]?\s",
            re.IGNORECASE,
        )
        self._so_is = re.compile(
            rf"\b(?:(?:so|as)\s+(?:is|are|was|does|would|could)|(?:(?<=[.;,]\s)(?:maybe|perhaps|possibly)))"
            rf"\s+(?:option\s+|choice\s+)?[(\[]?({key})(?![\w'-])(?!\s+[a-z]*[b-z]\b(?<!too))",
            re.IGNORECASE,
        )
        self._weighed = re.compile(
            rf"(?<![\w'-])({key})[)\].]?\s*[-:=(]?\s*(?:\d+(?:\.\d+)?\s*%|0?\.\d+(?=\s*(?:\Z|[,;)\n])))", re.IGNORECASE
        )
        self._denied_alone = re.compile(rf"[)\].:\s(-]*\bnot\b(?!\W*(?:option\s+)?(?-i:{key})\b)", re.IGNORECASE)
        self._pointed = re.compile(
            rf"{POINTED}\s*(?:the\s+)?(?:option|choice|answer|letter)\s*:?\s*[(\[\"']?({key})(?!\w|-\w)[)\]\"']*",
            re.IGNORECASE,
        )

    def taken_by(self, text: str) -> Keys:
        """Return what an answer takes in its last version."""
        parts = versions(text)
        if not self._options.polar:
            parts = [part for version in parts for part in _NO_LONGER.split(version)]
        last = self._one_version(parts[-1].lstrip(" ,.:;!-\n\u2026"))
        if len(parts) == 1 or last or any(self._claims(part) for part in parts[:-1]):
            return last
        # Nothing had been said that could be taken back.
        return self._one_version(text)

    def declared(self, text: str) -> list[Keys]:
        """Return everything that a text declares."""
        return [
            *(claim for match in STRONG.finditer(text) for claim in self._declared_at(text, match)),
            *(claim for match in WEAK.finditer(text) for claim in self._declared_at(text, match)),
            *(
                claim
                for match in ELSEWHERE.finditer(text)
                if not DENIED_ELSEWHERE.search(before(text, match.start()))
                for claim in self._declared_at(text, match)
            ),
            *(claim for match in self._confirmed.finditer(text) for claim in self._confirmed_at(text, match)),
            *(claim for match in _CLAUSE_BEGINS.finditer(text) for claim in self._confirmed_text_at(text, match.end())),
        ]

    def _one_version(self, text: str) -> Keys:
        again = afterthought(text)
        if again is not None and WITHDRAWS.match(again):
            return Keys()
        if again is not None and not _ALSO.search(again):
            anew = self._claims(again)
            if anew:
                return common(anew)
        return common(self._claims(text))

    def _claims(self, text: str) -> Claims:
        """Return what a text claims, in the strongest way in which it claims anything."""
        text = self._behind_label(NOT_THIS_FIRST.sub("", GREETING.sub("", ASKED.sub("", text))))
        declared = self.declared(text)
        if declared:
            begun = () if _ANSWER_LABEL.match(text) else self._at_the_start(text)
            return [*declared, *begun, *self._added(text)]
        whole = self._options.whole(LABEL.sub("", text))
        if whole and not text.rstrip(" \"')").endswith("?"):
            return [whole]
        return self._at_the_start(text) or self._last_line(text) or self._pointed_out(text) or self._by_polar_text(text)

    def _behind_label(self, text: str) -> str:
        """Return a text without the label of `A: B`, which no text of option A follows."""
        label = _ANSWER_LABEL.match(text)
        if label is None or self._options.text_at(text, label.end(), free=False):
            return text
        return text[label.end() :] if self._options.key_at(text, label.end()) else text

    def _declared_at(self, text: str, match: re.Match[str]) -> Claims:
        """Return what stands right behind a declaration: one option, or all of its alternatives."""
        preamble = PREAMBLE.match(text, match.end())
        denied = NOT_THIS_BUT.match(text, match.end())
        places = [match.end(), *([preamble.end()] if preamble else [])] if denied is None else [denied.end()]
        mention = next((found for place in places if (found := self._options.named_at(text, place))), None)
        if mention is None or is_denied_behind(text, mention.end) or is_conditional(text, mention.end):
            return ()
        if is_denied_before(text, match.start()) or self._is_supposed_by(text, match):
            return ()
        if is_rejected(text, mention.end):
            return ()
        return [mention.keys, *self._others_behind(text, mention.end)]

    def _is_supposed_by(self, text: str, match: re.Match[str]) -> bool:
        # Who it is that `would choose` stands before the declaration, or is a part of it.
        if _ONCE.search(before(text, match.start())) and " was" in match.group():
            return True
        return is_supposed(text, match.start()) or (match.lastgroup == "takes" and is_supposed(text, match.end()))

    def _others_behind(self, text: str, place: int) -> list[Keys]:
        """Return the options that a sentence sets beside one that it has named: `or C`, `, but C is possible`."""
        start, end = _sentence(text, place)
        reason = _ASIDE.search(text, start, end)
        listed = self._listed_too.finditer(text, start, reason.start() if reason else end)
        others = [Keys({self._options.key_of(match.group(1))}) for match in listed]
        contrast = CONTRAST.match(text, start, end)
        mentions = self._options.mentions_in(text, contrast.end(), end) if contrast else []
        return others + [
            mention.keys
            for where, mention in [*self._options.alternatives_at(text, place), *mentions]
            if not is_denied_before(text, where) and not is_denied_behind(text, mention.end)
        ]

    def _confirmed_at(self, text: str, match: re.Match[str]) -> Claims:
        """Return the option of `C is correct`, `Option C, warfarin, is the best answer`."""
        start, key = match.start("key"), self._options.key_of(match.group("key"))
        labelled = match.group("label") or match.group("close") or len(key) > 1
        if not labelled and (match.group("key").islower() or self._is_listed(text, start)):
            return ()
        if not CONFIRMS.match(text, match.end()) and not self._options.text_behind(text, match.end()):
            return ()
        mention = self._options.key_at(text, start)
        end = mention.end if mention and mention.end > match.end() else match.end()
        confirmed = CONFIRMS.match(text, end)
        if confirmed is None or is_denied_before(text, start) or is_supposed(text, match.start()):
            return ()
        keys = mention.keys if mention else Keys({key})
        if is_conditional(text, confirmed.end()):
            return ()
        # What is `also correct` stands beside something else.
        beside = [Keys()] if _ALSO.search(text[confirmed.start() : confirmed.end() + 8]) else []
        return [keys, *beside, *self._others_behind(text, confirmed.end())]

    def _is_listed(self, text: str, place: int) -> bool:
        """Return whether a letter is the last one of several, other than in `unlike A, B is`."""
        listed = _NOT_ALONE_BEFORE.search(text, max(0, place - 8), place)
        return listed is not None and not is_denied_before(text, listed.start())

    def _added(self, text: str) -> list[Keys]:
        """Return what is set beside an option by `so is C`, `Perhaps C`, or by shares: `B 60%, C 40%`."""
        matches = [*self._so_is.finditer(text), *self._weighed.finditer(text)]
        return [Keys({self._options.key_of(match.group(1))}) for match in matches]

    def _confirmed_text_at(self, text: str, place: int) -> Claims:
        """Return the option of `warfarin is correct`."""
        named = self._options.confirmed_text_at(text, place)
        if named is None or not CONFIRMS.match(text, named.end):
            return ()
        if is_denied_before(text, place) or is_supposed(text, place):
            return ()
        return [named.keys]

    def _at_the_start(self, text: str) -> list[Keys]:
        opening = _LIST_ENDS.split(text, maxsplit=1)[0]
        first, *others = [line for line in opening.splitlines() if line.strip()] or [""]
        begun = self._begun_by(first)
        if begun and not begun[0]:
            return begun
        # A model that lists all options has taken none.
        if not begun or any(
            other and not other & begun[0]
            for line in others[:_LINES]
            for other in self._begun_by(line.lstrip(" -+"))[:1]
        ):
            return []
        listed = [keys for start, keys in self._options.listed_in(opening) if not self._is_aside(opening, start)]
        return [] if any(not keys & begun[0] for keys in listed) else begun

    def _is_aside(self, text: str, start: int) -> bool:
        mention = self._options.key_at(text, start)
        return is_denied_before(text, start) or (mention is not None and is_denied_behind(text, mention.end))

    def _begun_by(self, line: str) -> list[Keys]:
        """Return the option that a line begins with, and those that it sets beside it."""
        label = LABEL.match(line)
        place = label.end() if label else 0
        mention = self._options.named_at(line, place)
        if mention is None:
            return []
        confirmed = CONFIRMS.match(line, mention.end)
        if is_conditional(line, confirmed.end() if confirmed else mention.end):
            return []
        behind = line[mention.end :]
        if DOES_NOT_KNOW.match(behind):
            return []
        start = _sentence(line, mention.end)[0]
        separated = bool(line[mention.end : start].strip()) and not self._in_field
        # `A. is incorrect` speaks of A, `A. The others are incorrect` and `A. B is incorrect` do not.
        places = (mention.end, start) if separated and not self._is_of_others(line, start) else (mention.end,)
        if not _GIVES_REASONS.match(behind) and any(is_denied_behind(line, place) for place in places):
            return []
        if is_rejected(line, mention.end) or (not self._in_field and self._denied_alone.match(behind)):
            return []
        return [
            mention.keys, *self._others_behind(line, mention.end), *self._bracketed_in(line, mention.end),
            *self._added(line),
        ]  # fmt: skip

    def _is_of_others(self, text: str, place: int) -> bool:
        named = self._options.confirmed_text_at(text, place)
        return self._of_others.match(text, place) is not None or named is not None

    def _bracketed_in(self, line: str, place: int) -> list[Keys]:
        """Return the options whose letter stands in brackets in the same sentence, where no reason is given."""
        start, end = _sentence(line, place)
        reason = _ASIDE.search(line, start, end)
        found = self._bracketed.finditer(line, start, reason.start() if reason else end)
        return [Keys({self._options.key_of(match.group(1))}) for match in found]

    def _last_line(self, text: str) -> list[Keys]:
        """Return the option that the last line is, its key alone or with its text, and those that other lines are."""
        lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
        last = text.rstrip().rsplit("\n", 1)[-1].strip()
        if len(lines) > _MANY_LINES or not self._is_option(last):
            return []
        # A bare key may follow the list of all options, which is told from it by its texts.
        bare = len(last) <= _BARE
        return [self._is_option(line) for line in lines if self._is_option(line) and not (bare and len(line) > _BARE)]

    def _is_option(self, line: str) -> Keys:
        label = LABEL.match(line)
        mention = self._options.key_at(line, label.end() if label else 0)
        if mention is None or line[mention.end :].strip(" .!)]*\"'"):
            return Keys()
        return Keys() if line[:1].islower() and label is None else mention.keys

    def _pointed_out(self, text: str) -> list[Keys]:
        """Return the options that are pointed out by their letter at the end of a sentence: `E. coli (option A)`."""
        return [
            Keys({self._options.key_of(match.group(1))})
            for match in self._pointed.finditer(text)
            if re.match(r"\s*[.!]?\s*(?:\Z|\n)", text[match.end() : match.end() + 8])
            and not is_denied_before(text, match.start())
            and not is_supposed(text, match.start())
        ]

    def _by_polar_text(self, text: str) -> list[Keys]:
        polar = self._options.polar
        word = read_polar(text) if polar else None
        return [polar[word]] if word and word in polar else []
