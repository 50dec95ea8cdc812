"""Options with letters: thousands of answers of every form with known options, and letters that are no options."""

from itertools import product

import pytest
from answer_forms import (
    BACTERIA,
    CORRECTED,
    DRUGS,
    LETTERS,
    NOT_TAKEN,
    OTHER_LETTERS,
    SAYINGS,
    TAKEN,
    UNDECIDED,
    said,
)
from cpu_growth import QUADRATIC, growth

from medbench.tasks.answers.choice import read_choice, taken_choices

TEN = {key: f"option text {number}" for number, key in enumerate("ABCDEFGHIJ")}
SAME_TEXT = {"A": "mode minus mean", "B": "mean minus mode", "C": "median", "D": "mean minus mode"}
POLAR = {"A": "yes", "B": "no", "C": "maybe"}
NUMBERS = {"1": "aspirin", "2": "warfarin", "3": "heparin"}
ROMAN = {"I": "aspirin", "II": "warfarin", "III": "heparin", "IV": "ibuprofen"}
DOSES = {"A": "5 mg", "B": "10 mg", "C": "15 mg", "D": "2.5 mg"}
PAIRS = {"A": "Aspirin", "B": "Aspirin and clopidogrel", "C": "Clopidogrel", "D": "Neither drug"}
SIGNS = {"A": "CD4+", "B": "CD8+"}
DISEASES = {"A": "Iron deficiency", "B": "Hepatitis B", "C": "Vitamin D deficiency", "D": "Lung"}


def test_an_option_that_is_taken_is_read_in_every_form() -> None:
    cases = list(said(TAKEN))
    assert len(cases) == 2000
    assert [(text, key) for text, key, _, choices in cases if read_choice(text, choices) != key] == []


def test_an_option_that_is_mentioned_and_not_taken_is_never_read() -> None:
    cases = list(said(NOT_TAKEN))
    assert len(cases) == 2000
    assert [text for text, _, _, choices in cases if read_choice(text, choices) is not None] == []


def test_of_two_options_that_stand_beside_each_other_none_is_read() -> None:
    cases = list(said(UNDECIDED))
    assert len(cases) == 2000
    assert [text for text, _, _, choices in cases if read_choice(text, choices) is not None] == []


def test_of_an_answer_that_takes_itself_back_the_last_version_is_read() -> None:
    cases = list(said(CORRECTED))
    assert len(cases) == 2000
    assert [text for text, _, key, choices in cases if read_choice(text, choices) != key] == []


@pytest.mark.parametrize("choices", [BACTERIA, LETTERS], ids=["bacteria", "letters-alone"])
def test_a_letter_that_is_an_article_an_initial_or_a_part_of_a_name_is_no_option(choices: dict[str, str]) -> None:
    texts = [form.format(x=other) for other, form in product(OTHER_LETTERS, SAYINGS)]
    assert len(texts) > 1500
    assert [(text, found) for text in texts if (found := read_choice(text, choices)) is not None] == []


def test_what_is_said_before_and_after_never_changes_what_is_taken_into_another_option() -> None:
    before, after = list(said(NOT_TAKEN, count=3000)), list(said(TAKEN, count=3000))
    by_question = {id(choices): [case for case in after if case[3] is choices] for *_, choices in after}
    read = total = 0
    for number, (denied, _, _, choices) in enumerate(before):
        fitting = by_question[id(choices)]
        taken, key, _, _ = fitting[number % len(fitting)]
        found = read_choice(f"{denied.rstrip('.')}.\n{taken}", choices)
        assert found in {key, None}, (denied, taken)
        total += 1
        read += found == key
    assert read > 0.85 * total


@pytest.mark.parametrize(
    ("choices", "text", "expected"),
    [
        (BACTERIA, "E. coli", None),
        (BACTERIA, "The answer is E. coli.", None),
        (BACTERIA, "E. coli (option A)", "A"),
        (BACTERIA, "The answer is E. coli (option A).", "A"),
        (DRUGS, "A (benign) lesion is most likely.", None),
        (DRUGS, "I think B", "B"),
        (DRUGS, "The best answer here would be D.", "D"),
        (DRUGS, "heparin (B)", None),
        (DRUGS, "aspirin overdose", None),
        (DRUGS, "The answer is aspirin toxicity", None),
        (DRUGS, "A) aspirin B) warfarin C) heparin D) ibuprofen", None),
        (DRUGS, "Option A: aspirin\nOption B: warfarin\nOption C: heparin", None),
        (DRUGS, "A. aspirin\nB. warfarin\n\nThe answer is B.", "B"),
        (DRUGS, "The INR matters.\nAspirin is inferior.\n\nB", "B"),
        (DRUGS, "The INR matters.\n\n**B) warfarin**", "B"),
        (DRUGS, "The INR matters.\n\nOption B.", "B"),
        (DRUGS, "A) aspirin\nB) warfarin\nC) heparin\nD) ibuprofen", None),
        (DRUGS, "Options:\nA) aspirin\nB) warfarin\nC) heparin\nD) ibuprofen\n\nB", "B"),
        (DRUGS, "A 20%, B 80%", None),
        (DRUGS, "Option A is incorrect. Option B is correct because of the INR. Option C is incorrect.", "B"),
        (DRUGS, "While A is tempting, the answer is B.", "B"),
        (DRUGS, "A. I'm sorry, I cannot answer.", None),
        (DRUGS, "A common answer is B.", None),
        (DRUGS, "If the patient were young, A. Otherwise, B.", None),
        (DRUGS, "Most likely B.", "B"),
        (DRUGS, "A doctor would say B.", None),
        (DRUGS, "B (not A)", "B"),
        (DRUGS, "~~A~~ B", "B"),
        (DRUGS, "B is the right ventricle", None),
        (DRUGS, "If I had to choose, I would go with B.", "B"),
        (DRUGS, '{"answer": ["A", "B"]}', None),
        (DRUGS, '{"answer": ["B"]}', "B"),
        (DRUGS, '{"answer": null}', None),
        (DRUGS, '{"answer": "A", "final_answer": "B"}', None),
        (DRUGS, '{"answer": "A"}\n\nThe correct answer is B.', None),
        (DRUGS, '{"result": {"answer": "B"}}', "B"),
        (DRUGS, "\uff22", "B"),
        (DRUGS, "\uff08\uff22\uff09", "B"),
        (DRUGS, "B\uff1a", "B"),
        (DRUGS, "\u3010B\u3011", "B"),
        (DRUGS, "B \u2014 warfarin", "B"),
        (TEN, "I think it is clear", None),
        (TEN, "I cannot answer", None),
        (TEN, "Stage I", None),
        (TEN, "The answer is I.", "I"),
        (TEN, "I think B", "B"),
        (POLAR, "No doubt it works", None),
        (POLAR, "No evidence suggests it", None),
        (POLAR, "Yes, it does.", "A"),
        (POLAR, "B. no", "B"),
        (POLAR, "A. No", None),
        (DISEASES, "The answer is lung cancer", None),
        (DISEASES, "Hepatitis B is correct.", "B"),
        (DISEASES, "vitamin D", None),
        (NUMBERS, "The answer is 2.", "2"),
        (NUMBERS, "2 mg", None),
        (NUMBERS, "The answer is 2.5", None),
        (ROMAN, "The answer is II.", "II"),
        (ROMAN, "The answer is IV fluids.", None),
        (ROMAN, "I and II", None),
        (DOSES, "The answer is 2.5 mg.", "D"),
        (DOSES, "12.5 mg", None),
        (DOSES, "5 mg/kg", None),
        (PAIRS, "The answer is aspirin and clopidogrel.", "B"),
        (PAIRS, "The answer is clopidogrel and aspirin", None),
        (PAIRS, "A. Aspirin and clopidogrel", None),
        (PAIRS, "The answer is neither drug.", "D"),
        (SIGNS, "CD4+", "A"),
        (SIGNS, "CD4-", None),
        (LETTERS, "B. Labetalol", "B"),
        (LETTERS, "OPTION B IS CORRECT.", "B"),
        (LETTERS, "Hepatitis B is correct.", None),
        (LETTERS, "The correct answer is (C) because (A) and (B) are contraindicated.", "C"),
        (LETTERS, '{"answer_choice": "B. Clindamycin or C. Penicillin"}', None),
        (LETTERS, '{"answer_choice": "D. Consent is not needed"}', "D"),
    ],
)
def test_single_answers(choices: dict[str, str], text: str, expected: str | None) -> None:
    assert read_choice(text, choices) == expected


@pytest.mark.parametrize("text", ["Mean minus mode", "The answer is mean minus mode.", "**mean minus mode**"])
def test_a_text_that_two_options_share_takes_none_of_them(text: str) -> None:
    assert read_choice(text, SAME_TEXT) is None
    assert taken_choices(text, SAME_TEXT) == {"B", "D"}


@pytest.mark.parametrize(
    "form", ["{k}", "{k}. mean minus mode", "The answer is {k}. mean minus mode", "mean minus mode ({k})"]
)
def test_a_letter_decides_between_options_with_the_same_text(form: str) -> None:
    for key in "BD":
        assert read_choice(form.format(k=key), SAME_TEXT) == key


def test_an_article_inside_a_text_is_a_letter_of_it() -> None:
    choices = {"A": "Past hepatitis B infection", "B": "Acute hepatitis A", "D": "Acute hepatitis B"}
    assert read_choice("Acute hepatitis A (B)", choices) == "B"
    assert read_choice("acute hepatitis A", choices) == "B"


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    [
        "A\n",
        "I think ",
        "the answer is B ",
        "A. aspirin B. ",
        "wait, A ",
        "no, ",
        "but B ",
        "answer of answer to ",
        "(A) ",
    ],
)
def test_reading_letters_takes_linear_time(piece: str) -> None:
    assert growth(lambda text: read_choice(text, DRUGS), piece) < QUADRATIC
