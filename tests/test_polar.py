"""Yes, no and maybe: one reader for all tasks, that never takes the determiner of a noun for an answer."""

from itertools import permutations, product

import pytest
from cpu_growth import QUADRATIC, growth
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.tasks.answers.choice import read_choice
from medbench.tasks.answers.closed import POLAR_WORDS, read_polar

DECISIONS = {"yes": "yes", "no": "no", "maybe": "maybe"}

TAKEN = (
    "{p}", "{P}", "{p}.", "{P}.", "{P}!", "**{P}**", "**{P}.**", "*{P}*", "`{p}`", '"{P}"', "'{p}'", "({p})",
    "[{p}]", "{P}, it does.", "{P}, because of the finding.", "{P}; the image shows it.", "{P}: the image shows it.",
    "{P} - the image shows it.", "{P} \u2014 the image shows it.", "{P}\n\nThe image shows it.",
    "{P}. The image shows it.", "The answer is {p}.", "The answer is: {p}", "Answer: {p}", "Answer: {P}.",
    "**Answer:** {P}", "**Answer: {P}**", "### Answer\n{P}", "Final answer: {p}", "Final answer: **{P}**",
    "My answer is {p}.", "The correct answer is {p}", "The final answer is **{p}**.", "So the answer is {p}.",
    "Therefore, the answer is {p}.", "Therefore, {p}.", "So, {p}.", "Thus {p}", "I would say {p}.", "I think {p}.",
    "I believe the answer is {p}.", "I'd say {p}", "In conclusion, {p}.", "Conclusion: {p}", "Decision: {p}",
    "final decision: {p}", "{P}, there is no doubt.", "There is no doubt: {p}", "Without a doubt: {p}",
    "Is there a fracture? {P}.", "Yes or no? {P}.", "Answer (yes/no): {p}", "Question: is it so? Answer: {p}",
    "The answer to the question is {p}.", "Based on the image, {p}.", "Based on the image, the answer is {p}.",
    "Looking at the scan, I would say {p}.", "It's a {p}.", "Definitely {p}.", "Definitely, {p}.",
    "Short answer: {p}", "{P} (see the left lung)", "<b>{P}</b>", "$\\text{{{P}}}$", "{p} ", "  {P}\n", "{P}\u200b",
    "\u201c{P}\u201d", "{q}, wait, {p}", "{q}. Wait, {p}.", "{q}. Actually, {p}.",
    "The answer is {q}. No wait, the answer is {p}.", "not {q} but {p}", "The answer is {p}, not {q}.",
    "The answer is {p} rather than {q}.", "The answer is {p}; {q} would be wrong.",
    "Some would say {q}, but the answer is {p}.", "{P}, {p}.", "{P}. {P}.",
    "The evidence suggests that the answer is {p}.", "{P}, the answer is {p}.", "Sure. {P}.",
    "Sure! The answer is {p}.", "{P}, I am certain.", "{P}, the lungs are clear and there is no effusion.",
)  # fmt: skip
"""Answers that say `p` (or `P`), and `q` at most to take it back."""

NOT_TAKEN = (
    "{p} or {q}", "{p} and {q}", "{p}/{q}", "not {p}", "It is not {p}.", "The answer is not {p}.",
    "I cannot say {p}.", "I can't answer {p} or {q}.", "It could be {p} or {q}.", "{p}?", "Is it {p}?",
    "Is the answer {p}?", "The answer might be {p} or {q}.", "If {p}, then treat.", "Whether {p} or {q} is unclear.",
    "I don't know if it's {p}.", "Neither {p} nor {q}.", "Either {p} or {q}", "The question asks for {p} or {q}.",
    "Please answer {p} or {q}.", "The possible answers are {p} and {q}.", "{p}, or maybe {q}", "{p} but also {q}",
    "{p}... or {q}?", "I would not say {p}.", "I don't think the answer is {p}.", "One might say {p}.",
    "Some would answer {p}.", "At first I thought {p}.", "{p} is wrong.", "{p} is incorrect.", "{p} would be wrong.",
    "The answer {p} is wrong.", "The answer isn't {p}.", "{p} and {q}, depending on the view.",
    "{p} for the left, {q} for the right.", "Left: {p}. Right: {q}.", "Fracture: {p}; effusion: {q}.",
    "The wrong answer is {p}.", "Hard to say {p}.", "The patient answered {p}.", 'The patient said "{p}".',
    "The radiologist said {p}.", "Not a clear {p}", "I am unsure, {p}?", "{p} 50%, {q} 50%", "{p}: 50%, {q}: 50%",
    "I'm torn between {p} and {q}.", "Impossible to answer {p} or {q}.", "It's unclear whether the answer is {p}.",
    "My answer would be {p} if the view were better.", "{p} if acute", "{p}. {q}.", "{p}\n{q}",
    "The answer is {p}. The answer is {q}.", "The answer is {p} and {q}.", "anything but {p}", "Never {p}",
)  # fmt: skip
"""What mentions `p` and does not answer it."""

NO_ANSWERS = (
    "No doubt there is a fracture.", "No fracture.", "No evidence of pneumonia.", "There is no fracture.",
    "There are no nodules", "No abnormality detected", "No, I cannot tell.", "No idea", "No information",
    "No comment", "No. 3", "no one", "no longer", "Not sure", "Unclear", "It is unclear", "Unknown", "none",
    "normal", "abnormal", "know", "nose", "yesterday", "nodule", "eyes", "North", "I do not know.",
    "There is no way to know", "no way", "no question", "No contrast was given", "With no effusion, it is normal",
    "no-reflow", "non-contrast", "No acute findings.", "There is no", "In no case", "No more than two",
    "no significant difference", "No consolidation, no effusion, no pneumothorax.", "I see no reason to", "Oh no",
    "noncontributory", "The patient has no fever.", "no acute cardiopulmonary process",
    "No pleural effusion or pneumothorax.", "no left", "Maybe there is.", "maybe not", "Perhaps", "Possibly",
    "Probably", "I think so", "Indeed", "Correct", "True", "False", "Absolutely not",
)  # fmt: skip
"""What has the letters of an answer and is none."""


@pytest.mark.parametrize("form", TAKEN)
def test_an_answer_is_read(form: str) -> None:
    for right, wrong in (("yes", "no"), ("no", "yes"), ("maybe", "no")):
        assert read_polar(form.format(p=right, q=wrong, P=right.capitalize())) == right


@pytest.mark.parametrize("form", NOT_TAKEN)
def test_what_is_denied_asked_supposed_or_set_beside_its_opposite_is_unread(form: str) -> None:
    for first, second in permutations(sorted(POLAR_WORDS), 2):
        text = form.format(p=first, q=second)
        for written in (text, text[0].upper() + text[1:], text.replace(first, f"**{first}**", 1)):
            assert read_polar(written) is None


@pytest.mark.parametrize("text", NO_ANSWERS)
def test_a_word_that_only_looks_like_an_answer_is_none(text: str) -> None:
    for form in ("{}", "{}.", "The report says: {}", "Answer: {}"):
        assert read_polar(form.format(text)) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", "yes"),
        ("Yes.", "yes"),
        ("YES", "yes"),
        ("Yes, there is no doubt.", "yes"),
        ("No, it is not.", "no"),
        ("yes it does", "yes"),
        ("The answer is no; yes would be wrong", "no"),
        ("Answer: Maybe", "maybe"),
        ("The answer is maybe", "maybe"),
        ("yes no maybe", None),
        ("yes, no, maybe", None),
        ("I would say no.", "no"),
        ("final decision: no.", "no"),
        ("Conclusion: no", "no"),
        ("Based on the abstract, the answer is **no**.", "no"),
        ("Yes \u2014 it does", "yes"),
        ("Answer: no idea", None),
        ("Answer: No information", None),
        ("the answer is no longer relevant", None),
        ("I choose no option", None),
        ("I don't know, maybe", None),
        ("Maybe not", None),
        ("The answer: yes no", None),
        ("yes/no", None),
        ("yes and no", None),
        ("No evidence suggests it", None),
        ("There is no doubt", None),
        ("It is not a yes", None),
        ("No doubt there is a fracture.", None),
        ("There is no doubt: yes", "yes"),
        ("not yes", None),
        ("Yes and no", None),
        ("no, wait, yes", "yes"),
        ("It is unclear", None),
        ("**No**, there is none.", "no"),
        ("Yes, there is a left-sided mass.", "yes"),
        ("No, I cannot determine this.", None),
        ("No, I do not see any fracture.", "no"),
        ("If yes, treat.", None),
        ("Yes if acute, no otherwise", None),
        ("Patient no. 5", None),
        ("Figure no. 3 shows yes", None),
        ("Is it yes or no? No.", "no"),
        ("Answer yes or no: yes", "yes"),
        ("Question: Is there a mass (yes/no)? Answer: no", "no"),
        ("The patient said no.", None),
        ("There is no", None),
        ("Yes. Actually, no.", "no"),
        ("Yes. Wait, there is no fracture.", None),
        ("No. Wait, yes.", "yes"),
        ("Yes! Definitely.", "yes"),
        ("Yes?", None),
        ("I cannot say yes or no", None),
        ("I'm not sure, yes?", None),
        ("No-one knows", None),
        ("Nope.", "no"),
        ("Yes, no fracture is seen", "yes"),
        ("No fracture is seen.", None),
        ("normal", None),
        ("N/A", None),
        ("None", None),
        ("One might say yes, but the answer is no.", "no"),
        ("Yes is wrong", None),
        ("Yes would be wrong.", None),
        ("yes fracture is present", "yes"),
        ("No, no, there is none.", "no"),
        ("It's a no.", "no"),
        ("I think yes", "yes"),
        ("I don't think so", None),
        ("So, no.", "no"),
        ("Therefore, yes", "yes"),
        ("The answer is not no but yes", "yes"),
        ("Neither yes nor no", None),
        ("No. The lungs are clear. No effusion.", "no"),
        ("Yes\n\nExplanation: No signs of ...", "yes"),
        ("not yes but no", "no"),
        ("The answer is yes rather than no.", "yes"),
        ("yes, but also no", None),
        ("Yes, although it may be no.", None),
        ("Is the answer yes?", None),
        ("Yes or no? Yes.", "yes"),
        ("It depends: yes for adults, no for children", None),
        ("I would not say no.", None),
        ("The answer isn't yes", None),
        ("Impossible to say yes", None),
        ("(yes)", "yes"),
        ('"No"', "no"),
        ("Yes 80%, No 20%", None),
        ("Yes: 80%, No: 20%", None),
        ("Yes, I think there is no question about it", "yes"),
        ("No question about it, yes.", "yes"),
        ("No problem: yes", "yes"),
        ("Without doubt, yes", "yes"),
        ("Without a doubt yes", None),
        ("no there is not", "no"),
    ],
)
def test_single_answers(text: str, expected: str | None) -> None:
    assert read_choice(text, DECISIONS) == expected
    assert read_polar(text) == expected


WORDS = st.sampled_from(
    ["yes", "no", "maybe", "not", "or", "and", ".", ",", "there is", "fracture", "wait", "the answer is", "?"]
)


@given(st.lists(WORDS, max_size=9))
@settings(deadline=None, max_examples=500)
def test_only_a_word_that_is_said_is_read(words: list[str]) -> None:
    found = read_polar(" ".join(words))
    assert found is None or found in words


@given(
    st.lists(
        st.sampled_from(["no", "fracture", "effusion", "evidence", "of", "pneumonia", "doubt"]), min_size=2, max_size=8
    )
)
@settings(deadline=None, max_examples=300)
def test_the_determiner_of_a_noun_is_no_answer(words: list[str]) -> None:
    text = " ".join([*words, "finding"]).replace("no no", "no")
    assert read_polar(text) is None


@pytest.mark.parametrize("piece", ["yes ", "no. ", "no, ", "not yes ", "yes or ", "wait, no ", "one might say "])
def test_reading_yes_and_no_takes_linear_time(piece: str) -> None:
    assert growth(read_polar, piece) < QUADRATIC


def test_every_mark_of_an_answer_means_the_same() -> None:
    for word, (left, right) in product(
        ("yes", "no"), (("**", "**"), ("(", ")"), ("<b>", "</b>"), ("`", "`"), ('"', '"'))
    ):
        assert read_polar(f"{left}{word}{right}") == word
