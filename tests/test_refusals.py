"""A refusal is a state of its own, and an observation is none."""

import time

import pytest

from medbench.tasks.answers.choice import is_refusal
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import state_of

REFUSALS = [
    "I'm sorry, but I cannot help with medical images.",
    "I cannot tell.",
    "I can't assist with that request.",
    "As an AI language model, I cannot provide a diagnosis.",
    "Sorry, I can't view images.",
    "I am unable to determine the modality.",
    "I don't know",
    "Cannot be determined from the image.",
    "Unable to determine.",
    "I\u2019m not able to interpret X-rays.",
    "Unfortunately, I cannot analyze this image.",
    "I'm sorry, but as an AI I don't have the ability to see",
    "I do not have access to the image.",
    "Not sure.",
    "I cannot see the image.",
    "I'm not qualified to interpret this",
]
ANSWERS = [
    "No evidence of disease",
    "There is no pneumothorax. I cannot see an effusion.",
    "The lungs are clear. Cannot exclude a small effusion.",
    "Unable to assess the lung bases due to motion. Heart size normal.",
    "I see no fracture",
    "Unknown primary tumor",
    "Sorry, the answer is B",
    "I cannot see any abnormality, the lungs are clear.",
    "I cannot identify any nodule",
    "It cannot be excluded",
    "The answer cannot be A, so it is B",
    "",
    "   ",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_recognised(text: str) -> None:
    assert is_refusal(text)
    assert state_of(Scorable(prediction=text, reference="liver"), "vqa") == "refused"


@pytest.mark.parametrize("text", ANSWERS)
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)


def test_the_right_answer_is_never_a_refusal() -> None:
    assert state_of(Scorable(prediction="Unknown.", reference="unknown"), "vqa") == "ok"


def test_a_choice_that_was_taken_is_an_answer_whatever_else_was_said() -> None:
    taken = Scorable(prediction="I'm sorry, I cannot be sure, but B", reference="B", choices={"B": "x"}, choice="B")
    assert state_of(taken, "qa") == "ok"


@pytest.mark.parametrize("text", ["i am sorry " * 9_000, "as an ai " * 9_000, "\n" * 90_000, "i'm " * 20_000])
def test_long_texts_take_no_time(text: str) -> None:
    started = time.process_time()
    is_refusal(text)
    assert time.process_time() - started < 0.5
