"""Forms of answers, for tests that read thousands of them: what takes an option, what takes none, what takes itself back."""

import random
from collections.abc import Iterator, Sequence
from itertools import product

BACTERIA = {
    "A": "Escherichia coli",
    "B": "Staphylococcus aureus",
    "C": "Clostridioides difficile",
    "D": "Klebsiella pneumoniae",
    "E": "Proteus mirabilis",
}
DRUGS = {"A": "aspirin", "B": "warfarin", "C": "heparin", "D": "ibuprofen"}
VITAMINS = {"A": "Vitamin B12 deficiency", "B": "Iron deficiency", "C": "Vitamin C deficiency", "D": "Vitamin D deficiency"}
VIRUSES = {"A": "Hepatitis A", "B": "Hepatitis B", "C": "Hepatitis C", "D": "Hepatitis D"}
LETTERS = dict.fromkeys("ABCD", "")
STEPS = {
    "A": "Reassure the patient",
    "B": "Perform an MRI of the brain",
    "C": "Start a beta blocker",
    "D": "No treatment is needed",
}
QUESTIONS: Sequence[dict[str, str]] = (BACTERIA, DRUGS, VITAMINS, VIRUSES, LETTERS, STEPS)

MENTIONS = (
    "{k}", "({k})", "**{k}**", "option {k}", "Option {k}", "{k}. {t}", "{k}) {t}", "({k}) {t}", "**{k}. {t}**", "{k}: {t}",
    "{t}", "the {t}", "{t} ({k})", '"{k}"', "choice {k}", "{k} ({t})", "option {k} ({t})", "`{k}`", "$\\text{{{k}}}$",
)  # fmt: skip
"""How an option is named, by its key, its text or both."""

TAKEN = (
    "{m}", "{m}.", "The answer is {m}.", "The answer is: {m}", "Answer: {m}", "Answer: The answer is {m}.",
    "Answer: the answer is {m}", "My answer: {m}", "Final answer: {m}", "Final answer: **{m}**", "### Answer\n\n{m}",
    "I think {m}", "I think it is {m}.", "I believe that the answer is {m}.", "I would choose {m}.", "I'd go with {m}.",
    "The best answer here would be {m}.", "The correct answer is {m}.", "The most likely answer is {m}.",
    "The correct option is {m}.", "Therefore, the answer is {m}.", "Therefore, {m}.", "So the answer is {m}.",
    "Question: which one? Answer: The answer is {m}.", "Ans: {m}", "The right one is {m}.", "It must be {m}.",
    "The answer to this question is {m}.", "The answer is {m} because the others do not fit.",
    "Sure! The answer is {m}.", '{{"answer": "{j}"}}', "<answer>{m}</answer>", "\\boxed{{{m}}}", "It is {m}, as expected.",
    "\u7b54\u6848\uff1a{m}", "The answer is \u201c{m}\u201d.", "\u200b{m}",
)  # fmt: skip
"""Answers that take the option `m`."""

NOT_TAKEN = (
    "I would rule out {m}.", "{m} is unlikely.", "We can exclude {m}.", "{m} is incorrect.", "{m} can be excluded.",
    "The answer is not {m}.", "The answer isn't {m}.", "It cannot be {m}.", "{m}?", "{m}? Unclear.", "Should I choose {m}?",
    "Is it {m}?", "Could it be {m}?", "Not {m}", "Definitely not {m}", "{m} is not the answer.", "{m} isn't right.",
    "{m} is wrong.", "I don't believe {m} is correct.", "I don't think it is {m}.", "It is not clear that {m} is correct.",
    "The wrong answer is {m}.", "The incorrect option is {m}.", "The least likely answer is {m}.",
    "The answer is anything but {m}.", "{m} would be correct if the patient were older.",
    "If the patient were older, the answer would be {m}.", "Some say the answer is {m}.", "Many students choose {m}.",
    "One might think that it is {m}.", "It would be a mistake to choose {m}.", "Do not choose {m}.", "Never pick {m}.",
    "You should not select {m}.", "I doubt that the answer is {m}.", "I am not sure whether it is {m}.",
    "The question is whether {m} is correct.", "I cannot confirm that {m} is correct.", "I thought the answer was {m}.",
    "At first glance the answer is {m}.", "The best distractor is {m}.", "{m} was excluded.", "All except {m}.",
    "Everything but {m}.", "The second best answer is {m}.", "Avoid {m}.", "{m} should be avoided.", "{m} does not fit.",
    "My colleague thinks it is {m}.", "Why not {m}?", "I reject {m}.", "{m} has been ruled out.",
    "It is false that {m} is correct.", "The answer is {m}. Wait, no.", "The answer is {m}. Scratch that.",
    "{m} - no, that is wrong.", "Incorrect: {m}", "The answer is not necessarily {m}.", "Answer: not {m}",
    "{m} is one of the options.", "The options include {m}.", "I considered {m}.", "What about {m}?",
    "Regarding {m}, I cannot say.", "{m}: unlikely", "{m} - incorrect", "{m} (incorrect)", "{m} is less likely.",
)  # fmt: skip
"""What mentions the option `m` and does not take it."""

UNDECIDED = (
    "{m} or {n}", "{m} and {n}", "{m}/{n}", "{m}, {n}", "Both {m} and {n}", "Either {m} or {n}", "The answer is {m} or {n}.",
    "The answer is {m} and {n}.", "The answer could be {m} or {n}.", "I am torn between {m} and {n}.", "{m} vs {n}",
    "Both {m} and {n} are correct.", "Neither {m} nor {n} is correct.", "{m} as well as {n}", "{m} plus {n}", "{m}; {n}",
    "{m}, possibly {n}", "{m}, but {n} is also possible.", "The answer is {m}, but {n} is possible too.", "{m}\n{n}",
    "The answer is {m}. The answer is {n}.", "{m} if acute, {n} if chronic.", "{m} is correct. {n} is correct.",
    "{m} for adults, {n} for children", "{m} followed by {n}", "The answer is {m} followed by {n}.", "Not {m} or {n}",
    "The possible answers are {m} and {n}.", "{m} & {n}", "{m} + {n}", "{m} | {n}", "{m} (or {n})",
    "The answer is {m}, alternatively {n}.",
)  # fmt: skip
"""What takes neither `m` nor `n`, because it speaks of both."""

CORRECTED = (
    "The answer is {m}. Wait, no, the answer is {n}.", "{m}... Actually, {n}", "{m}. Actually, {n}.", "{m}, no wait, {n}",
    "The answer is {m}. No, {n}.", "The answer is {m}. Wait, I misread. The answer is {n}.", "Answer: {m}. Correction: {n}",
    "I think {m}. On second thought, {n}.", "{m}. Hmm, actually {n}.",
    "The answer is {m}. Let me reconsider. The answer is {n}.", "{m}, I mean {n}", "{m} - sorry, {n}", "{m}; or rather {n}",
    "At first the answer is {m}. Wait, the INR matters.\nAnswer: The answer is {n}.",
    "Most people choose {m}. The right one is {n}.", "Some would say {m}, but the answer is {n}.",
    "It is not {m}, it is {n}.", "{n}, not {m}", "The answer is {n}, not {m}.", "{m} is incorrect; the answer is {n}.",
    "The answer might seem to be {m}, but it is {n}.", "The answer is {n} because {m} is wrong.",
)  # fmt: skip
"""What takes `n` after all, and never `m`."""

OTHER_LETTERS = (
    "E. coli|E coli|E.coli|C. difficile|C. diff|B. pertussis|B. Pertussis is the cause|D-dimer|D dimer|A-fib|A fib|A. fib"
    "|C-section|C section|B cells|B-cell lymphoma|A benign lesion|A (benign) lesion|vitamin D|hepatitis B|type A|grade B"
    "|group A strep|stage D|protein C|factor B|A1c|B12|C3|C4 deficiency|D5W|A 45-year-old man|A patient|A CT scan|a biopsy"
    "|A-line|B lines|B-mode|C-peptide|C-reactive protein|E-cadherin|D-lactate|B. Burgdorferi|C. Albicans|A. Baumannii"
    "|E. Faecalis|HLA-B27|HLA B*27|influenza A|blood group A|type B aortic dissection|Child-Pugh class B|Child-Pugh C|IgA"
    "|T4|A+ blood|37 \u00b0C|B symptoms|C fibers|A delta fibers|A wave|E/A ratio|D2 receptor|A band|A.M. cortisol|a.m."
    "|Dr. B. Smith|lead A|point D|curve B|E. coli O157:H7|E. Coli infection is common|A/G ratio|A-a gradient|B/L|A-V block"
    "|B-hCG|C-spine|E-coli|B\u2081\u2082|A%|B. Smith et al."
).split("|")
"""Letters that are no option: initials, articles, parts of names."""

SAYINGS = (
    "{x}", "{x}.", "The answer is {x}.", "Answer: {x}", "I think {x}", "It is {x}.", "**{x}**", "{x} is most likely.",
    "Most likely {x}.", "Therefore, {x}.", "The best answer is {x} here.", "I would choose {x}.", "Final answer: **{x}**",
    "The diagnosis is {x}.", "{x}, because it fits.", "{x} is correct.", "It must be {x}", "\\boxed{{{x}}}",
    '{{"answer": "{x}"}}', "{x} (most likely)", "Thus, the answer is {x}, as expected.",
)  # fmt: skip
"""How an answer that names no option may be said."""


def said(forms: Sequence[str], *, count: int = 2000) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield (text, key of `m`, key of `n`, choices) for a fixed sample of all questions, options and mentions."""
    cases = [
        (form, mention, choices, key)
        for form, mention, choices in product(forms, MENTIONS, QUESTIONS)
        for key in choices
        if "{t}" not in mention or choices[key]
    ]
    for form, mention, choices, key in random.Random(0).sample(cases, min(count, len(cases))):
        keys = list(choices)
        other = keys[(keys.index(key) + 1) % len(keys)]
        first, second = (mention.format(k=letter, t=choices[letter]) for letter in (key, other))
        yield form.format(m=first, n=second, j=first.replace("\\", "\\\\").replace('"', "'")), key, other, choices
