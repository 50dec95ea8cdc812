"""What stands behind an initial that is no option: species (`E. coli`), parts of names, authors; and what does not."""

import re

AUTHORS = re.compile(r",?\s+(?:et\s+al|and\s+colleagues)\b")
# What begins a sentence, and no name of a species, cell or person.
_OF_SENTENCES = """
because since as due given the this that these those it its he she his her they we i there therefore thus so hence
which while although in on for with without from based explanation reason reasoning rationale justification option
answer all both most patient patients according to among by not and but however please note
"""
SENTENCE_WORDS = frozenset(_OF_SENTENCES.split())
# Enough of them for `E. Coli`; in lower case no word but those above is taken for a sentence anyway.
_OF_SPECIES = """
coli aureus pylori difficile diff pneumoniae influenzae pertussis anthracis cereus fragilis henselae burgdorferi
dermatitidis albicans tetani botulinum perfringens trachomatis jejuni burnetii psittaci diphtheriae neoformans
immitis auris epidermidis pyogenes agalactiae viridans saprophyticus faecalis faecium histolytica lamblia
vermicularis lumbricoides duodenale fumigatus baumannii meningitidis gonorrhoeae monocytogenes mirabilis aeruginosa
typhi pestis tuberculosis leprae latum vivax falciparum strep staph fib flutter
"""
EPITHETS = frozenset(_OF_SPECIES.split())
PARTS_OF_NAMES = frozenset({"section", "cell", "cells", "dimer", "peptide"})
LATIN_ENDINGS = ("i", "us", "um", "is", "ae", "a", "ans", "ens", "es", "ii", "e", "on", "ax", "or", "ix", "ex")
