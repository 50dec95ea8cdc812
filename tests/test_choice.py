"""Reading choices: the traps that the peers fall into, and answers that are never invented."""

import json

import pytest
from cpu_growth import QUADRATIC, growth
from fixture_root import realdata
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.tasks.answers.choice import read_choice
from medbench.tasks.datasets.medmnist import LABEL_SETS, LabelSet

DRUGS = {"A": "warfarin", "B": "heparin", "C": "aspirin", "D": "a beta blocker"}
ORGANS = {name: name for name in LABEL_SETS["organsmnist"].spoken}
LESIONS = {name: name for name in LABEL_SETS["dermamnist"].spoken}
GRADES = {name: name for name in LABEL_SETS["retinamnist"].spoken}
CLASSES = {word: word for word in ("melanoma", "melanocytic nevi", "left lung", "right lung", "lung")}

CLASS_TAKEN = (
    "{m}",
    "{m}.",
    "**{m}**",
    "{M}",
    "The answer is {m}.",
    "It is {m}.",
    "It is the {m}.",
    "Answer: {m}",
    '"{m}"',
    "({m})",
    "This is a {m}.",
    "I think it is {m}.",
    '{{"answer": "{m}"}}',
    "The image shows {m}.",
    "category: {m}",
    "belongs to the {m} category",
    "It belongs to the {m} class.",
    "The diagnosis is {m}.",
    "Most likely {m}.",
    "{m}\n\nExplanation: dark.",
    "{m} because of the look.",
    "Therefore, the answer is **{m}**.",
    "{m} (see the border)",
    "{n}. Wait, {m}.",
    "{n}. Actually, {m}.",
    "It is {n}. No wait, it is {m}.",
    "It is {m}, not {n}.",
    "{m} rather than {n}",
    "Some would say {n}, but it is {m}.",
    "It is not {n}, it is {m}.",
    "{m}, because {n} would look different.",
)
CLASS_NOT_TAKEN = (
    "{m} or {n}",
    "{m}/{n}",
    "{m} and {n}",
    "not {m}",
    "It is not {m}.",
    "Neither {m} nor {n}.",
    "Is it {m}?",
    "{m}?",
    "It could be {m} or {n}.",
    "{m}, {n}",
    "{m} vs {n}",
    "{m} is not seen.",
    "{m} is excluded.",
    "I doubt that it is {m}.",
    "It is unlikely to be {m}.",
    "{m} is less likely.",
    "The wrong answer is {m}.",
    "First I thought {m}.",
    "Some would say {m}.",
    "It resembles {m}.",
    "History of {m}.",
    "No evidence of {m}.",
    "The classes are {m} and {n}.",
    "{m} transplant",
    "non-{m}",
    "{m}-like",
    "The answer is {m} or {n}.",
    "If it were larger, it would be {m}.",
    "{m}. Wait, no.",
    "The answer is {m}. The answer is {n}.",
    "{m}\n{n}",
    "1. {m}\n2. {n}",
    "absence of {m}",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", "A"),
        ("a", "A"),
        ("(c)", "C"),
        ("B.", "B"),
        ("Option B", "B"),
        ("Option B is correct.", "B"),
        ("OPTION B IS CORRECT.", "B"),
        ("The correct option is (B).", "B"),
        ("The answer is A.", "A"),
        ("The answer is A because B and C are contraindicated.", "A"),
        ("The answer is C, not B", "C"),
        ("(A) is wrong; the correct choice is (C)", "C"),
        ("**Answer: C**", "C"),
        ("Answer:C", "C"),
        ("Final answer: B\n", "B"),
        ("The answer is: **(D)**", "D"),
        ("The most likely answer is option D", "D"),
        ("I would choose option D.", "D"),
        ("C) aspirin", "C"),
        ("D: a beta blocker", "D"),
        ("C. aspirin, which inhibits A.", "C"),
        ("aspirin", "C"),
        ("Aspirin.", "C"),
        ("The answer is aspirin.", "C"),
        ("the answer is a beta blocker", "D"),
        (r"\boxed{C}", "C"),
        (r"so it is $\boxed{\text{C}}$", "C"),
        ("<think>A? No, B.</think>\nC", "C"),
        ("A is tempting</think>C", "C"),
        ('{"reasoning": "A or B", "answer": "B"}', "B"),
        ('```json\n{"answer_choice": "B. heparin"}\n```', "B"),
        ('{"reasoning": "cut off", "answer_choice": "B. heparin"', "B"),
        ("{'answer': 'B'}", "B"),
        ('{"correct_answer": "B"}', "B"),
        ("<answer>B</answer>", "B"),
        (r"\boxed{\textbf{B}}", "B"),
        ("### Answer\nB", "B"),
        ("B</s>", "B"),
        ("The answer is \u201cB\u201d", "B"),
        ("B) heparin\n\nExplanation:\nA) is wrong", "B"),
        ("B, because A is wrong", "B"),
        ("Option B: heparin", "B"),
        ("B - heparin", "B"),
        ("B heparin", "B"),
        ("A - warfarin", "A"),
        ("B is correct.", "B"),
        ("B is the correct answer.", "B"),
        ("It is B.", "B"),
        ("I think it's B", "B"),
        ("Therefore, B.", "B"),
        ("The most likely diagnosis is B. heparin", "B"),
        ("The best next step is heparin.", "B"),
        ("The answer is heparin because it is.", "B"),
        ("The answer is definitely B", "B"),
        ("The answer is not A but B", "B"),
        ("(A) is wrong; it must be C", "C"),
        ("A. warfarin is incorrect. B. heparin is correct", "B"),
    ],
)
def test_a_choice_that_is_taken_is_read(text: str, expected: str | None) -> None:
    assert read_choice(text, DRUGS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "I cannot answer.",
        "I'm sorry, but I cannot help with medical images.",
        "E",
        "None of the above",
        '{"answer": "None of the above"}',
        '{"answer": "B. heparin or C. aspirin"}',
        '{"answer": "B/C"}',
        "B or C",
        "A, B",
        "The answer is B or C",
        "The answer is A and B",
        "The answer is not B",
        "I don't think the answer is B.",
        "B is not correct",
        "It is not aspirin",
        "A patient with a fever should get nothing.",
        "A. warfarin\nB. heparin\nC. aspirin",
        "The answer is A. The answer is B.",
        "<think>It must be A",
        "yes",
        "(A) is incorrect",
        "A) is wrong",
        "A. is incorrect, so it is unclear",
        "I don't think option B is correct.",
        "I'm not sure that option C is correct",
        "Incorrect answer: A",
        "Neither option A is correct nor B",
        "A: I do not know",
        "The answer is A B",
        "answer: A B C D",
        "The answer is B (or C)",
        "Both A and B",
        "C) warfarin",
    ],
)
def test_what_takes_no_choice_is_unread(text: str) -> None:
    assert read_choice(text, DRUGS) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("melanoma", "melanoma"),
        ("This is a Melanoma.", "melanoma"),
        ("the category is: left lung", "left lung"),
        ("It shows the left lung", "left lung"),
        ("Melanocytic nevi", "melanocytic nevi"),
        ("not melanoma", None),
        ("melanoma or melanocytic nevi", None),
        ("left lung and right lung", None),
        ("a benign lesion", None),
        ("The diagnosis is melanoma, not melanocytic nevi", "melanoma"),
        ("melanocytic nevi (mole)", "melanocytic nevi"),
        ("I'm sorry, I cannot diagnose melanoma", None),
        ("No evidence of melanoma", None),
        ("cannot rule out melanoma", None),
        ("melanoma is excluded", None),
        ("Melanoma? No.", None),
        ("non-melanoma", None),
        ("left lung transplant", None),
    ],
)
def test_classes(text: str, expected: str | None) -> None:
    assert read_choice(text, CLASSES) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kidney-left", "left kidney"),
        ("kidney left", "left kidney"),
        ("left_kidney", "left kidney"),
        ("**Left Kidney**", "left kidney"),
        ("It belongs to the liver category.", "liver"),
        ("belongs to the liver category", "liver"),
        ("It is the liver. Wait, no, the spleen.", "spleen"),
        ("The answer is liver, not spleen.", "liver"),
        ("kidney-left or kidney-right", None),
        ("kidney left or right", None),
        ("kidney", None),
        ("lung", None),
        ("liver tumor", None),
        ("the liver and the spleen", None),
        ("The liver is not visible; the spleen is.", None),
        ("At first glance it is the liver.", None),
        ("liver?", None),
    ],
)
def test_organs(text: str, expected: str | None) -> None:
    assert read_choice(text, ORGANS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a melanoma lesion", "melanoma"),
        ("vascular lesion", "vascular lesions"),
        ("This is a melanocytic nevus.", "melanocytic nevi"),
        ("It could be melanoma, but the answer is dermatofibroma.", "dermatofibroma"),
        ("The lesion resembles melanoma", None),
        ("history of melanoma", None),
        ("benign", None),
    ],
)
def test_lesions(text: str, expected: str | None) -> None:
    assert read_choice(text, LESIONS) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No, there is none.", "no"),
        ("It is uncertain.", "uncertain"),
        ("No fracture", None),
        ("There is no fracture.", None),
        ("I am uncertain if yes or no", None),
    ],
)
def test_yes_and_no_among_other_words(text: str, expected: str | None) -> None:
    assert read_choice(text, {word: word for word in ("yes", "no", "uncertain")}) == expected


def test_a_class_with_a_denial_in_its_name_is_read() -> None:
    assert read_choice("This image shows no diabetic retinopathy.", GRADES) == "no diabetic retinopathy"
    assert read_choice("There is no proliferative diabetic retinopathy", GRADES) is None
    assert read_choice("non-proliferative diabetic retinopathy", GRADES) is None


@pytest.mark.parametrize("label_set", LABEL_SETS.values(), ids=list(LABEL_SETS))
def test_every_class_is_taken_in_its_usual_forms_and_never_out_of_a_denial(label_set: LabelSet) -> None:
    choices = {name: name for name in label_set.spoken}
    for name, other in zip(label_set.spoken, (*label_set.spoken[1:], label_set.spoken[0]), strict=True):
        for form in CLASS_TAKEN:
            assert read_choice(form.format(m=name, n=other, M=name.upper()), choices) == name, form
        for form in CLASS_NOT_TAKEN:
            assert read_choice(form.format(m=name, n=other), choices) is None, form


def test_the_text_of_an_option_goes_before_a_letter_that_it_begins_with() -> None:
    bacteria = {"A": "S. aureus", "B": "E. coli", "E": "H. pylori"}
    assert read_choice("The answer is E. coli.", bacteria) == "B"
    assert read_choice("E. coli, because it is.", bacteria) == "B"
    assert read_choice("The answer is E.", bacteria) == "E"


@pytest.mark.parametrize(
    "form", ["%k", "(%k)", "%k. %t", "%k - %t", "Option %k: %t", "The answer is %k. %t", "The correct answer is %t."]
)
def test_every_option_of_the_real_medqa_is_taken_in_its_usual_forms(form: str) -> None:
    folder = realdata("medqa_us_4opt") / "data_clean/questions/US/4_options"
    lines = (folder / "phrases_no_exclude_test.jsonl").read_text(encoding="utf-8").splitlines()
    missed = total = 0
    for line in lines[::4]:
        options = json.loads(line)["options"]
        for key, text in options.items():
            total += 1
            missed += read_choice(form.replace("%k", key).replace("%t", text), options) != key
    # A question about a graph has letters as options, and a few options are said twice.
    assert missed <= 4, f"{missed} of {total}"


@given(st.text(max_size=80), st.dictionaries(st.text(min_size=1, max_size=3), st.text(max_size=8), max_size=5))
@settings(deadline=None, max_examples=300)
def test_no_answer_breaks_the_reader(text: str, choices: dict[str, str]) -> None:
    found = read_choice(text, choices)
    assert found is None or found in choices


@given(st.lists(st.sampled_from(["A", "B)", "answer", "is", "not", "or", "{", '"answer":', "(C)", "\n", "heparin"])))
@settings(deadline=None, max_examples=300)
def test_a_choice_is_only_read_where_its_key_or_text_stands(words: list[str]) -> None:
    text = " ".join(words)
    found = read_choice(text, DRUGS)
    assert found is None or found.lower() in text.lower() or DRUGS[found] in text


@pytest.mark.slow
@pytest.mark.parametrize("piece", ["melanoma. ", "melanoma. not left lung. ", "not lung but ", "image of "])
def test_reading_classes_takes_linear_time(piece: str) -> None:
    assert growth(lambda text: read_choice(text, CLASSES), piece) < QUADRATIC


@pytest.mark.parametrize("piece", ["answer is ", "{", "A or ", "not ", "<think>", "A) ", '{"answer":', r"\boxed{"])
def test_reading_takes_linear_time(piece: str) -> None:
    assert growth(lambda text: read_choice(text, DRUGS), piece) < QUADRATIC
