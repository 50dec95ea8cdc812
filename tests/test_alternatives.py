"""Closed answers that are neither yes nor no: the right alternative, said and not denied, and no other beside it."""

from itertools import product

import pytest
from cpu_growth import QUADRATIC, growth
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.tasks.answers.closed import says_alternative
from medbench.tasks.metrics.answers import answers_closed

PAIRS = (
    ("left", "right"),
    ("Left lung", "right lung"),
    ("T1", "T2"),
    ("CT", "MRI"),
    ("MRI", "CT"),
    ("X-Ray", "CT"),
    ("Lung", "heart"),
    ("heart", "lung"),
    ("Liver", "spleen"),
    ("Kidney", "liver"),
    ("Small bowel", "colon"),
    ("Hyperdense", "hypodense"),
    ("hypodense", "hyperdense"),
    ("Transverse Plane", "coronal plane"),
    ("Coronal Plane", "transverse plane"),
    ("white", "gray"),
    ("male", "female"),
    ("female", "male"),
    ("cystic", "solid"),
    ("PA", "AP"),
    ("axial", "sagittal"),
    ("normal", "abnormal"),
    ("abnormal", "normal"),
    ("diffuse", "focal"),
    ("heterogeneous", "homogeneous"),
    ("asymmetric", "symmetric"),
    ("irregular", "regular"),
    ("superior", "inferior"),
    ("Supratentorial", "infratentorial"),
    ("Less dense", "more dense"),
    ("more dense", "less dense"),
    ("non-contrast", "contrast"),
    ("with contrast", "without contrast"),
    ("bilateral", "unilateral"),
    ("Left side", "right side"),
    ("white matter", "gray matter"),
    ("flair", "T1"),
    ("right kidney", "left kidney"),
    ("larger", "smaller"),
    ("exterior", "interior"),
    ("benign", "malignant"),
    ("enlarged", "normal"),
    ("pleural effusion", "pneumonia"),
    ("small bowel", "rectum"),
    ("upper", "lower"),
    ("anterior", "posterior"),
    ("hyperinflation", "hypoinflation"),
    ("hyperintense", "hypointense"),
    ("genetic", "vascular"),
)
"""References of Slake and VQA-RAD beside an alternative that their questions name."""

RIGHT = (
    "{m}", "{m}.", "**{m}**", "The answer is {m}.", "The answer is {m}", "It is {m}.", "Answer: {m}", '"{m}"',
    "It is {m}, not {n}.", "{m}, not {n}", "{m} rather than {n}", "not {n} but {m}", "It is not {n}, it is {m}.",
    "{n}. Wait, {m}.", "{n}. Actually, {m}.", "{m} because of the appearance.", "The image shows {m}.",
    "Is it {m} or {n}? It is {m}.", "({m})", "`{m}`", "{M}", "{U}", "This is {m}.", "I think it is {m}.",
    "The correct answer is {m}.", '{{"answer": "{m}"}}', "{m} instead of {n}",
)  # fmt: skip
"""Answers that say the reference `m`."""

WRONG = (
    "{n}", "{n}.", "The answer is {n}.", "{n}, not {m}", "{n}, not {m}.", "It is {n}, not {m}.", "{m} or {n}",
    "{n} or {m}", "{m}/{n}", "{m} and {n}", "not {m}", "It is not {m}.", "It isn't {m}.", "no {m}",
    "Neither {m} nor {n}.", "Either {m} or {n}.", "It could be {m} or {n}.",
    "I cannot tell whether it is {m} or {n}.", "I can't say if it is {m}.", "Is it {m}?", "Is it {m} or {n}?",
    "{m}?", "It is {n} rather than {m}.", "{n} instead of {m}", "{m}. Wait, {n}.", "{m}. Actually, {n}.",
    "{m}... no, {n}", "The question asks whether it is {m} or {n}.", "{m}, {n}", "{m} vs {n}", "{m} versus {n}",
    "It is not {m} but {n}.", "Not {m}; {n}.", "{m} is not seen.", "{m} is excluded; {n}.", "Without doubt {n}",
    "Rather {n} than {m}", "I don't think it is {m}.", "I doubt that it is {m}.", "It is unlikely to be {m}.",
    "{m} is unlikely.", "It cannot be {m}.", "Definitely not {m}.", "The wrong answer is {m}.",
    "I'm not sure if {m}.", "Never {m}", "{m} is wrong.", "{m} is incorrect, {n} is correct.",
    "First I thought {m}, but it is {n}.", "Some would say {m}, but it is {n}.", "", "I don't know.", "yes", "no",
    "unclear", "maybe",
)  # fmt: skip
"""Answers that do not say `m`, or not `m` alone."""


@pytest.mark.parametrize(("right", "wrong"), PAIRS)
def test_the_right_alternative_is_right_in_every_form(right: str, wrong: str) -> None:
    for form in RIGHT:
        text = form.format(m=right, n=wrong, M=right.capitalize(), U=right.upper())
        assert answers_closed(text, right) == 1, text


@pytest.mark.parametrize(("right", "wrong"), PAIRS)
def test_what_denies_the_right_alternative_or_names_another_is_wrong(right: str, wrong: str) -> None:
    for form, article in product(WRONG, ("", "the ")):
        for first, second in ((right, wrong), (right.lower(), wrong.lower())):
            text = form.format(m=article + first, n=article + second)
            assert answers_closed(text, right) == 0, text


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The right lung, not the left lung.", "Left lung", 0),
        ("The right lung, not the left lung.", "Right lung", 1),
        ("It could be the left lung or the right lung.", "Left lung", 0),
        ("T1 or T2", "T2", 0),
        ("T2", "T2", 1),
        ("T2-weighted MRI", "T2", 1),
        ("**T2**", "T2", 1),
        ("left or right", "right", 0),
        ("not left", "left", 0),
        ("no CT", "CT", 0),
        ("This is a CT scan.", "CT", 1),
        ("CT, not MRI", "CT", 1),
        ("CT rather than MRI", "CT", 1),
        ("MRI rather than CT", "CT", 0),
        ("It isn't a CT", "CT", 0),
        ("x-ray", "X-Ray", 1),
        ("This is an X-Ray image", "X-Ray", 1),
        ("Xray", "X-Ray", 1),
        ("hypodense", "hyperdense", 0),
        ("The lesion is hyperdense.", "Hyperdense", 1),
        ("hyperdense and hypodense", "Hyperdense", 0),
        ("both", "left", 0),
        ("both left and right", "left", 0),
        ("bilateral", "left", 0),
        ("Both", "Both", 1),
        ("both lungs", "Both", 1),
        ("left and right", "both", 0),
        ("You are right.", "right", 0),
        ("That's right", "right", 0),
        ("right", "right", 1),
        ("The right side", "right", 1),
        ("lower right", "right", 0),
        ("lower right", "Lower Right", 1),
        ("Right lower lobe", "right", 1),
        ("neither left nor right", "left", 0),
        ("The liver", "Liver", 1),
        ("Liver is bigger than the spleen", "Liver", 0),
        ("The heart", "Lung", 0),
        ("Not the heart but the lung", "Lung", 1),
        ("Lung/heart", "Lung", 0),
        ("I cannot tell whether it is left", "left", 0),
        ("Is it left?", "left", 0),
        ("Is it left? No.", "left", 0),
        ("left. Wait, right.", "right", 1),
        ("left. Wait, right.", "left", 0),
        ("Left. Actually, right.", "right", 1),
        ("Right, no, left.", "left", 0),
        ("without contrast", "with contrast", 0),
        ("with contrast", "with contrast", 1),
        ("without contrast", "contrast", 0),
        ("non-contrast CT", "Non-contrast CT", 1),
        ("It is a non-contrast CT.", "Non-contrast CT", 1),
        ("a contrast CT", "Non-contrast CT", 0),
        ("abnormal", "normal", 0),
        ("The image is normal.", "normal", 1),
        ("not normal", "normal", 0),
        ("normal or abnormal", "normal", 0),
        ("1", "1", 1),
        ("just one", "just one", 1),
        ("There is just 1.", "just one", 1),
        ("axial", "Axial", 1),
        ("Transverse Plane", "Transverse Plane", 1),
        ("It's the coronal plane", "Transverse Plane", 0),
        ("No left, right or upper lesions", "right", 0),
        ("not on the left, but on the right", "right", 1),
        ("lung, left", "left lung", 0),
        ("The left kidney", "left kidney", 1),
        ("right kidney and left kidney", "left kidney", 0),
        ("female", "male", 0),
        ("a female patient", "Female", 1),
        ("Yes", "left", 0),
        ("", "left", 0),
        ('{"answer": "left"}', "left", 1),
        ("PA", "PA", 1),
        ("PA view", "PA", 1),
        ("AP or PA", "PA", 0),
        ("White matter", "white matter", 1),
        ("gray matter", "white matter", 0),
        ("the surrounding tissue", "The surrounding tissue", 1),
        ("less dense", "Less dense", 1),
        ("more dense", "less dense", 0),
        ("more or less dense", "less dense", 0),
        ("on top of the patient", "on top of the patient", 1),
        ("It is on top of the patient.", "on top of the patient", 1),
        ("not sure", "not sure", 1),
        ("I'm not sure.", "not sure", 1),
        ("Yes and no", "yes", 0),
        ("yes and no", "no", 0),
        ("No doubt there is a fracture.", "no", 0),
        ("There is no doubt: yes", "yes", 1),
        ("not yes", "yes", 0),
        ("**Yes**", "Yes", 1),
        ("yes, there is a nodule", "no", 0),
        ("Yes, there is no nodule.", "yes", 1),
        ("No.", "no", 1),
        ("it appears normal", "no", 0),
        ("ct", "CT", 1),
        ("anything", "the", 0),
        ("Yes.", "yes ", 1),
        ("maybe", "Maybe", 1),
        ("no lung left", "no lung left", 1),
        ("yes, left", "left", 1),
        ("The tumor is on the left side of the brain.", "left", 1),
        ("left lung; right lung is normal", "left lung", 0),
    ],
)
def test_single_answers(text: str, reference: str, expected: int) -> None:
    assert answers_closed(text, reference) == expected


@given(st.lists(st.sampled_from(["left", "right", "lung", "and", "or", ",", ".", "the"]), max_size=8))
@settings(deadline=None, max_examples=500)
def test_no_answer_is_right_for_both_sides(words: list[str]) -> None:
    text = " ".join(words)
    assert not (says_alternative(text, "left") and says_alternative(text, "right"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "piece",
    ["left ", "anything but left ", "not ", "no, ", "left or right, ", "not left ", "is it left? ", "wait, left "],
)
def test_reading_alternatives_takes_linear_time(piece: str) -> None:
    assert growth(lambda text: answers_closed(text, "left lung"), piece) < QUADRATIC
