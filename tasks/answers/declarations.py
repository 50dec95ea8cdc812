"""The words with which an answer declares an option: `the answer is C`, `I think C`, `C is correct`.

What stands behind them is an option only where it stands as one, which is for `medbench.tasks.answers.options` to say.
"""

import re

_IS = (
    r"(?:is|was|(?:would|should|must|will|has\s+to|ought\s+to|appears\s+to|seems\s+to)"
    r"(?:\s+(?:therefore|thus|then|probably))?\s+be|remains|becomes)"
)
_NAMES = r"(?:answer|option|choice|ans|pick|guess|vote|selection)"
_ASIDE = r"(?:\s*,\s*(?:therefore|thus|then|hence|so|i\s+(?:think|believe)|in\s+my\s+opinion|of\s+course)\s*,)?"
_THAT_FITS = (
    r"(?:\s+(?:that|which)\s+(?:best|most\s+\w+)\s+\w+[^.;:,\n?]{0,40}?|\s+i\s+(?:would\s+)?(?:choose|pick|select))?"
)
STRONG = re.compile(
    rf"""(?:\b(?<!\beach\s)(?<!\bevery\s){_NAMES}|\b(?:right|correct|best|most\s+\w+)\s+(?:one|letter)|\bone(?=\s+that\s+best\b))(?:\b|(?<=\banswer)s(?=:))
         (?:\s+(?:choice|option|letter|here|now|then|therefore|thus))?
         (?:\s+(?:to|for|in|of|from|among|based\s+on|given)\b[^.;:,\n?]{{0,60}}?)?{_THAT_FITS}{_ASIDE}
         (?:(?:\s+{_IS}\b|'s\b)(?:\s+that\b)?\s*:?|\s*(?::|=|->|=>|\u2192)|\s+-|\.\s*:|\s*\n(?=\s*\S)|(?<=\bans)\.)
       |(?P<takes>(?:\A|(?<=[.!?:;,\n])|\b(?:i|we|i'd|i'll|we'd|would|will|must|should|let's|let\s+me|let\s+us|going\s+to|therefore|thus|so|am|i'm)
            (?:\s+\w+ly)?)
         \s*\b(?:choose|select|pick|go(?:ing)?\s+(?:with|for)|opt(?:ing)?\s+for|settl(?:e|ing)\s+(?:on|for)|lean(?:ing)?\s+(?:towards?|to)
            |vot(?:e|ing)\s+for|answer|chose|selected|picked|recommend|left\s+with)\b)\s*:?""",
    re.IGNORECASE | re.VERBOSE,
)
WEAK = re.compile(
    rf"""\b(?:it|this|that|diagnosis|step|cause|treatment|management|mechanism|drug|explanation|conclusion|verdict|decision
           |solution|result|output|prediction|response|reply|impression)
           (?:\s+(?:in|for|of|here)\b[^.;:,\n?]{{0,60}}?)?
           (?:\s*(?:'s|\s{_IS})\s*:?|\s*:)(?=\s)
       |\b(?:therefore|thus|hence|so)\b\s*[,:]?
       |(?:\A|(?<=[.!?;\n]))\s*(?:in\s+(?:conclusion|summary|short)|by\s+(?:elimination|exclusion)|to\s+(?:conclude|summari[sz]e)|overall|conclusively)\s*[,:]
       |\b(?:most\s+likely|probably|likely)\s+has\b
       |\b(?:i|we)(?:'d|\s+would|\s+will|'ll)?\s+(?:\w+ly\s+|also\s+|do\s+)?(?:say|think|believe|guess|suspect|conclude|feel|reckon)\b
           (?:\s+that\b)?\s*[,:]?(?:\s+(?:it|this|that)(?:'s|\s+(?:is|must\s+be|should\s+be|would\s+be|has\s+to\s+be))\b)?""",
    re.IGNORECASE | re.VERBOSE,
)
_HALF = (
    r"(?:partial|part|hard|near|rare|scarce|bare|seeming|apparent|superficial|on|historical|previous|former|original"
    r"|initial|theoretical|suppose\w*|alleged|possib|potential|conceivab|arguab)ly\b"
)
CONFIRMS = re.compile(
    rf"""\s+(?:fits|matches)\s+(?:it\s+|this\s+|the\s+\w+\s+)?best\b
       |\s*[,)]?\s*(?:is|was|would\s+be|must\s+be|seems|looks|remains|:)\s*(?:also\s+|still\s+|(?!{_HALF})\w+ly\s+)?(?:the\s+|my\s+)?
        (?:(?:most\s+|more\s+|single\s+)?(?:correct|right|best|appropriate|accurate|likely)(?:\s+(?:correct|likely|appropriate))?
             (?=\s*(?:\Z|[.,;:!)\n]|-\s|(?:because|since|and|but|while|whereas|although|though|unlike|so)\b|as\b|than\b|here\b|answer\b|option\b|choice\b|one\b|diagnosis\b|response\b
                |treatment\b|explanation\b|step\b|next\b|management\b|fit\b|too\b|as\s+well\b|also\b|given\b|in\s+this\b|for\s+this\b))
           |answer\b|choice\b)(?!\s+(?:to\s+exclude|only\s+if)\b)""",
    re.IGNORECASE | re.VERBOSE,
)

# `La respuesta correcta es la B`, `Die richtige Antwort ist B`.
ELSEWHERE = re.compile(
    r"""\b(?:respuesta|opci[o\u00f3]n|alternativa|resposta|risposta|opzione|op\u00e7[a\u00e3]o)
          (?:\s+(?:correcta|correta|corretta|final|adecuada|adequada|giusta|esatta))?
          (?:\s*:|\s+(?:es|ser[i\u00ed]a|\u00e9|\u00e8|sarebbe)\b(?!\s+(?-i:[ao])\s*[.!]?\s*\Z)(?:\s*:)?(?:\s+(?:la|el|a|o)(?=\s))?
             (?:\s+(?:opci[o\u00f3]n|alternativa|letra|lettera|opzione|op\u00e7[a\u00e3]o|respuesta)\b)?)
       |\b(?:antwort|l\u00f6sung|option)(?:\s*:|\s+(?:ist|lautet|w\u00e4re)\b(?:\s*:)?
             (?:\s+(?:also|daher|somit|die|der|antwort|option|buchstabe)\b)*)
       |\b(?:r[e\u00e9]ponse|choix|option)(?:\s+(?:correcte?|finale?|exacte?|juste))?
          (?:\s*:|\s+(?:est|serait)\b(?:\s*:)?(?:\s+(?:donc|la|le|l'|option|r[e\u00e9]ponse|lettre)\b)*)
       |\b\u043e\u0442\u0432\u0435\u0442\s*(?::|-|\u044d\u0442\u043e\b)
       |\u7b54\u6848(?:\u5e94\u8be5|\u5e94|\u5c31)?(?:[\u662f\u4e3a\u70ba\u9009\u9078]|\s*:)(?:\u9009\u9879|\u9078\u9805)?
       |(?:\A|(?<=[\n,.;:])|(?<=,\s)|(?<=\.\s)|\u6545|\u6240\u4ee5|\u56e0\u6b64)\s*(?:\u5e94\u8be5|\u5e94)?[\u9009\u9078](?:\u62e9|\u64c7)?\s*:?
       |(?:\u6b63\u89e3|\u7b54\u3048|\u89e3\u7b54|\u56de\u7b54)(?:\u306f|\s*:)|(?:\uc815\ub2f5|\ub2f5)(?:\uc740|\ub294|\s*:)""",
    re.IGNORECASE | re.VERBOSE,
)
DENIED_ELSEWHERE = re.compile(
    r"""(?:\b(?:no|n\u00e3o|non|ne|nicht|kein\w*|\u043d\u0435\w*|falsche?|schlechteste|incorrect[ae]?|incorreta|mauvaise|fausse|peor|pior
            |errada|equivocada|sbagliata|si|se|wenn|falls|\u0435\u0441\u043b\u0438)\b|[\u4e0d\u9519\u932f\u8bef\u8aa4\u975e]|\u5982\u679c)
        [^.;:,!?\n]{0,40}\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_HEDGE = (
    r"(?:most\s+likely|likely|definitely|certainly|clearly|probably|indeed|therefore|thus|simply|obviously|still|just|of\s+course"
    r"|actually)"
)
PREAMBLE = re.compile(
    rf"""\s*(?:{_HEDGE}\s*,?\s+){{0,2}}[(\[\"']?
         (?:(?:(?:the|my)\s+)?(?:(?:correct|right|best|final)\s+)?(?:option|choice|answer|letter|number|\#)\s*:?\s*(?=[\s(\[\"']|\w\W)
            (?!\s*(?:is|was|would|should|must)\b))?""",
    re.IGNORECASE | re.VERBOSE,
)
NOT_THIS_BUT = re.compile(
    r"\s*(?:clearly\s+|definitely\s+)?not\s+[^.;\n]{1,60}?[,;]?\s+but\s+(?:rather\s+)?", re.IGNORECASE
)
NOT_THIS_FIRST = re.compile(rf"\A{NOT_THIS_BUT.pattern}", re.IGNORECASE)
LABEL = re.compile(
    r"\A\s*[\[(]?(?:(?:the|my)\s+)?(?:(?:final|correct|best)\s+)?(?:option|choice|answer|letter|ans)\b\]?\s*[.:#=-]*\s*(?=\S)",
    re.IGNORECASE,
)
GREETING = re.compile(
    r"""\A\s*(?:(?:sure|certainly|of\s+course|okay|ok|great\s+question|hello|hi)\b\s*[!,.:]\s*
        |(?:only|just|(?:most\s+)?(?:likely|probably)|definitely|clearly|obviously|certainly)\b\s*[,:]?\s+
        |(?:(?:i'm|i\s+am)\s+not\s+(?:\w+ly\s+)?(?:sure|certain)\s*,?\s*but\s+)?(?:(?:maybe|perhaps|possibly|probably)\s+)?
         (?=(?:(?:option|choice)\s+)?[(\[]?\w{1,3}\b[)\]]?\s*(?:\Z|[.,\n])))""",
    re.IGNORECASE | re.VERBOSE,
)
DOES_NOT_KNOW = re.compile(
    r"[\s)\].:,;-]*(?:i\s+(?:do\s+not|don't|cannot|can't|am\s+not)|i'm\s+(?:not|sorry)|i\s+am\s+sorry|sorry|unknown|unsure|n/a|none|unclear|uncertain|undetermined|undecided|not\s+sure)\b",
    re.IGNORECASE,
)
WITHDRAWS = re.compile(
    rf"{DOES_NOT_KNOW.pattern}|\W*no\W*\Z|\W*(?:that|this|it)(?:'s|\s+is|\s+was)\s+(?:wrong|incorrect|not)\b",
    re.IGNORECASE,
)
ASKED = re.compile(r"\A\s*Q(?:uestion)?\s*:[^\n]*\n+(?=\s*A\s*:)")
POINTED = (
    r"(?:corresponds?\s+to|match(?:es)?|which\s+is|that\s+is,?|i\.e\.,?|namely|equals|consistent\s+with|best\s+fits"
    r"|[(\[])"
)
CONTRAST = re.compile(
    r"[^.;\n]{0,120}?\b(?:but|however|though|although|yet|or|actually|instead|alternatively"
    r"|aber|pero|mais|\u043d\u043e)\b",
    re.IGNORECASE,
)
