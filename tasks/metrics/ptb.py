"""Penn Treebank tokens as pycocoevalcap makes them: by Stanford CoreNLP 3.4.1, lower case, no punctuation."""

import re
from collections.abc import Sequence

from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.metrics.java import JavaProgram, packaged_jar

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_TOKENIZER = "edu.stanford.nlp.process.PTBTokenizer"
_ARGUMENTS = ("-preserveLines", "-lowerCase")
# It lives for a second: Java's optimising compiler would take longer than what it saves.
_SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)

# Brackets are on the list of pycocoevalcap too, but in capitals while tokens are lower case, so they count.
_PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
_LINE_ENDS = re.compile("[\n\r\v\f\u2028\u2029]")
_NEXT_LINE = "x"

# Tokens do not depend on the company that a text is in, and every start of Java costs a second: BLEU-1, BLEU-4 and
# METEOR ask for the same texts, and a run may ask for those of all its tasks at once.
_known: dict[str, str] = {}
_MOST_KNOWN = 1 << 17


def tokenise(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens of each text, joined by spaces.

    The tokenizer looks beyond the end of a line to tell an abbreviation from the end of a sentence, so in
    pycocoevalcap a text that ends in a letter and a period (`hepatitis C.`) or in an abbreviation before
    numbers (`No.`) keeps that period or not by the first word of the text that happens to come next. Here
    every text is followed by the same line, which keeps `c.` and splits `no.`, so tokens depend neither on
    order nor on sharding; on all other texts both agree.

    Characters that the tokenizer takes for the end of a line count as spaces. Source: `PTBTokenizer` of pycocoevalcap
    1.2 (options `-preserveLines -lowerCase`). Raises MedbenchError if Java cannot start or the tokenizer loses a line.
    """
    missing = tuple(dict.fromkeys(text for text in texts if text not in _known))
    if missing:
        if len(_known) + len(missing) > _MOST_KNOWN:
            _known.clear()
        _known.update(zip(missing, _tokenise_all(missing), strict=True))
    return tuple(_known[text] for text in texts)


def _tokenise_all(texts: Sequence[str]) -> tuple[str, ...]:
    lines = [line for text in texts for line in (_LINE_ENDS.sub(" ", text), _NEXT_LINE)]
    with JavaProgram(packaged_jar(_JAR), _TOKENIZER, _ARGUMENTS, options=_SHORT_LIVED) as tokenizer:
        output = tokenizer.finish("\n".join(lines).encode("utf-8", "replace"))
    found = output.decode("utf-8").split("\n")
    if len(found) != len(lines) or any(line.strip() != _NEXT_LINE for line in found[1::2]):
        raise MedbenchError(
            f"The PTB tokenizer returned {len(found)} lines for {len(lines)}, so no token can be trusted.",
            "Please report the texts; until then score this task without its BLEU and METEOR.",
        )
    return tuple(_without_punctuation(line) for line in found[::2])


def _without_punctuation(line: str) -> str:
    return " ".join(token for token in line.rstrip().split(" ") if token not in _PUNCTUATION)
