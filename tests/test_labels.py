"""Labels before an answer to an open question are no part of it."""

import time

import pytest

from medbench.tasks.answers.thoughts import answer_itself
from medbench.tasks.catalog import get_task
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import Item, evaluate


@pytest.mark.parametrize(
    "text",
    [
        "Liver",
        "Answer: Liver",
        "**Answer:** Liver",
        "Final answer: Liver",
        "The correct answer: Liver",
        "Answer: The answer: Liver",
        "Output: Liver",
        '{"answer": "Liver"}',
        '```json\n{"answer": "Liver"}\n```',
        "The lesion is bright and large.\n\n**Final Answer:** Liver",
    ],
)
def test_a_label_costs_nothing_under_strict_and_stays_under_paper(text: str) -> None:
    assert answer_itself(text) == "Liver"
    item = Item(state="ok", scorable=Scorable(prediction=text, reference="liver"))
    kind = get_task("slake-reg").kind
    strict, paper = (evaluate("slake-reg", kind, protocol, [item])[1].value for protocol in ("strict", "paper"))
    assert strict == 1
    assert paper == 1 if text == "Liver" else paper < 1


@pytest.mark.parametrize(
    "text",
    [
        "Answer",
        "answer:",
        "The answer is liver",
        "Liver\nAnswer: spleen",
        "Answering: liver",
        "A 45-year-old man",
        '{"answer": "liver", "other answer": "spleen"} or so',
        '{"finding": "liver"}',
    ],
)
def test_what_is_no_label_stays(text: str) -> None:
    assert answer_itself(text) == text


@pytest.mark.parametrize(
    "text", ["answer: " * 12_000, "final answer:\n" * 7_000, "the " * 25_000, "{" * 90_000, "\n" * 90_000]
)
def test_long_texts_take_no_time(text: str) -> None:
    started = time.process_time()
    answer_itself(text)
    assert time.process_time() - started < 0.5
