"""Penn Treebank tokens as pycocoevalcap makes them: by Stanford CoreNLP 3.4.1, lower case, no punctuation."""

import re
from collections.abc import Sequence
from functools import lru_cache

from tasks.foundation.errors import MedbenchError
from tasks.metrics.java import JavaProgram, packaged_jar

_JAR = "tokenizer/stanford-corenlp-3.4.1.jar"
_TOKENIZER = "edu.stanford.nlp.process.PTBTokenizer"

# Brackets are on the list of pycocoevalcap too, but in capitals while tokens are lower case, so they count.
_PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
_LINE_ENDS = re.compile("[\n\r\v\f\u2028\u2029]")
_NEXT_LINE = "x"


def tokenise(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens of each text, joined by spaces.

    The tokenizer looks beyond the end of a line to tell an abbreviation from the end of a sentence, so in
    pycocoevalcap a text that ends in a letter and a period (`hepatitis C.`) or in an abbreviation before
    numbers (`No.`) keeps that period or not by the first word of the text that happens to come next. Here
    every text is followed by the same line, which keeps `c.` and splits `no.`, so tokens depend neither on
    order nor on sharding; on all other texts both agree.

    Characters that the tokenizer takes for the end of a line count as spaces.

    Source: `PTBTokenizer` of pycocoevalcap 1.2 (options `-preserveLines -lowerCase`).

    Raises:
        MedbenchError: If Java cannot start or the tokenizer loses a line.
    """
    return _tokenise_all(tuple(texts))


# BLEU-1 and BLEU-4 ask for the same texts one after the other.
@lru_cache(maxsize=4)
def _tokenise_all(texts: tuple[str, ...]) -> tuple[str, ...]:
    if not texts:
        return ()
    lines = [line for text in texts for line in (_LINE_ENDS.sub(" ", text), _NEXT_LINE)]
    with JavaProgram(packaged_jar(_JAR), _TOKENIZER, ("-preserveLines", "-lowerCase")) as tokenizer:
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
