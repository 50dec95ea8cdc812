"""How English takes a word back, denies it or only supposes it: what every reader of answers has to respect.

All questions here are about a place in a text and look at a bounded stretch around it, so that asking them for every
place stays linear in the length of the text. They are cached, since a text that is long goes in circles.
"""

import re
from functools import lru_cache

_REACH = 120

# What is said before one of these was not the last word. Medicine waits and corrects, too: `wait for`, `correction of`.
_TAKES_BACK = re.compile(
    r"""\b(?<!to\s)(?<!and\s)(?<!should\s)(?<!could\s)(?<!can\s)(?<!will\s)wait\b
            (?!\s+(?:and|for|until|till|to|with|list|times?|periods?|a|\d)\b)
       |\bhold\s+on\b|\b(?:scratch|strike)\s+that\b|\bcorrection\b(?=\s*[:,!.-])|\bon\s+second\s+thoughts?\b
       |\blet\s+me\s+(?:reconsider|rethink|re-think|think\s+again|re-?check|re-?evaluate|re-?read|correct|revise)\b
       |\bi\s+(?:take\s+(?:that|it)\s+back|was\s+wrong|made\s+an?\s+(?:mistake|error)|misread|misspoke|changed\s+my\s+mind)\b
       |(?<!\bno\s)\b(?:revised|updated|corrected|amended|new)\s+(?=(?:final\s+)?(?:answer|choice|diagnosis|verdict|decision)\b)
       |\bmy\s+(?:mistake|bad)\b|\boops\b|\bi\s+mean\b(?!s)|\bor\s+rather\b|(?<=[-,.;!]\s)sorry\s*[,:-]""",
    re.IGNORECASE | re.VERBOSE,
)
_SAYS_ANEW = re.compile(
    r"(?:^|[.!?;\n,]|\.\.\.|\s-)\s*(?:(?:actually|hmm+|rather(?!\s+than\b)|well)\b[\s,:.]*)+", re.IGNORECASE
)

_DENIED_BEFORE = re.compile(
    r"""(?:\b(?:not|never|cannot|neither|nor|hardly|without|than|instead\s+of|except|excluding|excludes?|excluded|unlike
            |anything\s+but|rejects?|rejected|eliminates?|eliminated|avoid|against|absence\s+of|negative\s+for|free\s+of
            |rules?\s+out|ruled\s+out|ruling\s+out|deny|denies|denied
            |(?:disagree|false|untrue|wrong|incorrect|mistaken|mistake|error)\s+(?:that|with|to)
            |no\s+(?:reason|evidence|proof|basis|indication|sign|grounds?)\s+(?:that|(?:to|for)\s+(?:think|believ|say|suspect|assum)\w*))\b|n't\b)
          (?:(?!\b(?:but|therefore|thus|hence|so\s+the\s+(?:correct\s+)?(?:answer|option))\b)[^.;:,!?\n]){0,40}\Z
       |\b(?:(?:do|does|did)(?:\s+not|n't)\s+(?:think|believe|agree|know|see|mean)|not\s+(?:sure|certain|convinced|clear)
            |(?:cannot|can't|unable\s+to|hard\s+to|difficult\s+to|impossible\s+to|not\s+possible\s+to)
            \s+(?:say|tell|determine|confirm|conclude|know|decide|answer|see)|unsure|uncertain|unclear
            |(?<!no\s)(?<!without\s)(?<!\ba\s)(?<!any\s)doubts?|doubtful|unlikely)\b
          (?:(?!\bbut\b)[^.;:!?\n]){0,80}\Z
       |\b(?:wrong|incorrect|false|worst|bad|poor|least(?:\s+\w+)?|second[\s-]best
            |common|popular|possible|plausible|potential|alternative|another|other|initial|previous|students?(?:'s)?|tempting
            |attractive|frequent|usual)\s*(?:(?:that|to)\s*)?\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_DENIED_BEHIND = re.compile(
    r"""(?:\s*,\s*which\b)?(?:(?!\b(?:because|since|as|due|given|based|while|whereas|but|and|so)\b)[^.,;:!?\n(]){0,80}?
        \b(?:(?:is|are|was|were|be|being|seems?|looks?)\s+
          (?:(?:clearly|also|probably|definitely|highly|very|likely|most\s+likely|therefore|thus|almost\s+certainly)\s+){0,2}
          (?:not|incorrect|wrong|false|unlikely|excluded|eliminated|ruled\s+out|never|out|less|inappropriate|contraindicated|inadequate
            |insufficient|harmful|absent)\b
         |(?:is|are|was|were|does|do|did|would|should|can|could)n't\b|(?:can|could|does|do|did|would|should)\s*not\b|cannot\b)""",
    re.IGNORECASE | re.VERBOSE,
)
# Supposed by somebody, or at first, or under a condition: said, but not claimed.
_SAYS = (
    r"(?:think|say|argue|believe|choose|pick|select|claim|suggest|assume|guess|suspect|answer|prefer|favou?r|go|vote)"
)
_SUPPOSED_CLAUSE = re.compile(
    rf"""\b(?:might|may|could|let(?:'s|\s+us)\s+(?:say|pretend)|people|students?|doctors?|physicians?|candidates?|textbooks?|colleagues?|someone|somebody|everyone
          |others|most\s+(?:would|will|of)|one\s+(?:would|can)|(?:some|many|most|few|you|they|he|she)\s+(?:\w+\s+)?{_SAYS}s?
          |(?:another|an?|the|my)\s+(?!evidence|image|scan|picture|study|data|finding|result|abstract|context)\w+\s+{_SAYS}s|tempt\w+|mistakes?|mistaken\w*|traps?|distractors?|assum\w+|suppos\w+|whether
          |says?\s+that|imagine|said|asked|claimed|argued|believed|pretend\w*|thought
          )\b(?:(?!\b(?:but|so|therefore|thus|hence)\b)[^.;:,!?\n])*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_SUPPOSED_SENTENCE = re.compile(
    r"""\A\W*(?:please\s+)?explain\s+why\b|\baccording\s+to\s+(?:you|some|others|the\s+(?:user|student|patient|key))\b
       |\b(?:if|unless|had\s+(?:\w+\s+){1,3}been)\b
       |\b(?:at\s+first|first\s+(?:glance|thought|impression|guess)|initial(?:ly)?|originally|previously)\b
        (?:(?!\b(?:but|however|now)\b).)*\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_FORCED = re.compile(
    r"\bif\s+(?:i\s+(?:had|have|were|was)\s+(?:forced\s+)?to\s+\w+(?:\s+(?:one|an\s+answer))?|forced(?:\s+to\s+\w+)?|pressed|in\s+doubt)\b",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"""[)\].:,;\s("'-]*(?:(?:is|are|was)\s+)?(?:(?:wrong|unlikely|improbable|impossible|excluded|ruled\s+out|rejected|incorrect|false
        |less\s+likely|not\s+(?:correct|right(?!\s+\w)|likely|present|seen))\b|(?:no|negative|absent)\s*(?:\Z|[.,;!\n]))""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE_ENDS = re.compile(r"[.!?\n](?=\s|\Z)|\n")
_CONDITION = re.compile(
    r"""[\s,)\]"']*(?:(?:but\s+)?only\s+)?(?:if|unless|when|assuming|provided|otherwise|were|or\s+not)\b
    |(?:\s+than\s+[^.,;\n]{1,30})?[\s,;]*(?:or\s+so\s+it\s+(?:seems|looks)
       |(?:but|yet|though|although|however)\b[\s,]*(?:(?:it|this|that)\s*)?(?:(?:is|was|'s|does|would\s+be)\s+)?
        (?:actually\s+|in\s+fact\s+|really\s+|still\s+)?
        (?:not\b(?!\s+(?:option\s+)?\W?\w\b)|(?:is|was|does|ca|wo)n't|wrong|incorrect|false|neither|unlikely)\b)
    |\s*[.)\]"']{0,2}\s*\?""",
    re.IGNORECASE | re.VERBOSE,
)


def versions(text: str) -> list[str]:
    """Return the versions of an answer that takes itself back (`A. Wait, no: B`); the last one is what it says."""
    return [text[start:end] for start, end in _between(_TAKES_BACK, text)]


def afterthought(text: str) -> str | None:
    """Return what follows the last `actually` at the beginning of a clause; None if there is none."""
    parts = _between(_SAYS_ANEW, text)
    return text[parts[-1][0] :] if len(parts) > 1 else None


def _between(pattern: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    found = list(pattern.finditer(text))
    starts = [0, *(match.end() for match in found)]
    return list(zip(starts, [*(match.start() for match in found), len(text)], strict=True))


def before(text: str, place: int) -> str:
    """Return what stands right before a place."""
    return text[max(0, place - _REACH) : place]


def is_denied_before(text: str, place: int) -> bool:
    """Return whether the words before a place deny what follows: `it is not`, `rather than`, `I doubt that it is`."""
    return _denies(_within_sentence(before(text, place)))


def is_denied_behind(text: str, place: int) -> bool:
    """Return whether the words behind a place deny what stands there: `is wrong`, `can be excluded`."""
    return _DENIED_BEHIND.match(text[place : place + _REACH]) is not None


def is_denied(text: str, start: int, end: int) -> bool:
    """Return whether what stands between two places is denied before or behind."""
    return is_denied_before(text, start) or is_denied_behind(text, end)


def is_rejected(text: str, place: int) -> bool:
    """Return whether a verdict stands right behind a place: `A - wrong`, `(B): no`."""
    return _REJECTED.match(text, place) is not None


def is_supposed(text: str, place: int) -> bool:
    """Return whether what follows a place is only supposed: `one might think that`, `at first`, `if it were acute,`."""
    return _supposes(_within_sentence(before(text, place)))


@lru_cache(maxsize=1024)
def _within_sentence(stretch: str) -> str:
    """Return what belongs to the sentence that a stretch ends in."""
    return _SENTENCE_ENDS.split(stretch)[-1]


@lru_cache(maxsize=1024)
def _denies(sentence: str) -> bool:
    return _DENIED_BEFORE.search(sentence) is not None


@lru_cache(maxsize=1024)
def _supposes(sentence: str) -> bool:
    claimed = _FORCED.sub("", sentence)
    return _SUPPOSED_CLAUSE.search(claimed) is not None or _SUPPOSED_SENTENCE.search(claimed) is not None


def is_conditional(text: str, place: int) -> bool:
    """Return whether what ends at a place is asked, turned, or holds if: `A?`, `A, but not really`, `A if acute`."""
    return _CONDITION.match(text[place : place + _REACH]) is not None
