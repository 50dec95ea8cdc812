"""What models write where they are to take a letter, a yes or no, or a class: forms with known answers.

`benchmarks.reading_forms` has the forms themselves.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

from benchmarks.reading_forms import (
    ALTERNATIVES,
    BOTH_SIDES,
    CLASSES,
    LETTERS,
    NEITHER,
    NO,
    NO_CLASS,
    NO_LETTER,
    ONE_SIDE,
    OPTIONS,
    YES,
    YES_NO,
)
from medbench.adapters.base import Parser, plain_answer
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec

First = TypeVar("First")
Second = TypeVar("Second")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A model's output whose reading is known.

    Attributes:
        form: What it is an example of.
        text: What the model wrote.
        truth: The choice or the box that it takes; None if it takes none.
        sample: The question.
        task: Its task.
        parse: The parser of the model's adapter.
        answers: What a closed question without choices may be answered with.
    """

    form: str
    text: str
    truth: str | Box | None
    sample: Sample
    task: TaskSpec
    parse: Parser = plain_answer
    answers: tuple[str, ...] = ()


_OF_LESIONS = re.compile(r"\b(?:lesion|diagnosis|case)\b", re.IGNORECASE)


def letters(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to questions with lettered options."""
    spec = get_task("medqa-options")
    for forms, taken in ((LETTERS, True), (NO_LETTER, False)):
        for form, templates in forms.items():
            for options, template in _some(random, share, OPTIONS, templates):
                yield _letter(random, f"choices: {form}", spec, options, template, taken=taken)


def _letter(
    random: Random, form: str, spec: TaskSpec, options: Mapping[str, str], template: str, *, taken: bool
) -> Output:
    key, wrong = random.sample(sorted(options), 2)
    if template == "A":
        # The letter of an option that this question lacks.
        template = "F"
    listed = [f"{letter}. {text}" for letter, text in options.items()]
    text = template.format(
        k=key, t=options[key], w=wrong, v=options[wrong], all="\n".join(listed), inline="; ".join(listed)
    )
    return Output(
        form=form, text=text, truth=key if taken else None, sample=_sample(spec, key, choices=options), task=spec
    )


def polar(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to PubMedQA's questions and to closed ones about pictures."""
    pubmed, closed = get_task("pubmedqa"), get_task("slake-vqa")
    words = {word: word for word in pubmed.choices}
    for spec, allowed in ((pubmed, ("yes", "no", "maybe")), (closed, ("yes", "no"))):
        said = [(template, word) for word in allowed for template in YES_NO]
        said += [(text, "yes") for text in YES] + [(text, "no") for text in NO]
        name = "yes, no, maybe" if spec is pubmed else "closed questions"
        for truth, texts in ((True, said), (False, [(text, "") for text in NEITHER])):
            for _, (template, word) in _some(random, share, range(2), texts):
                yield Output(
                    form=f"{name}: {'said' if truth else 'neither'}", text=_filled(template, word, ""),
                    truth=word if truth else None, task=spec, answers=() if spec is pubmed else allowed,
                    sample=_sample(spec, "yes", choices=words if spec is pubmed else {}),
                )  # fmt: skip


def sides(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to closed questions that name two things."""
    spec = get_task("slake-vqa")
    for templates, taken in ((ONE_SIDE, True), (BOTH_SIDES, False)):
        for (first, second, _), template in _some(random, share, ALTERNATIVES, templates):
            side, other = random.sample((first, second), 2)
            form = "one side" if taken else "both sides"
            yield Output(
                form=f"closed questions: {form}", text=_filled(template, side, other), truth=side if taken else None,
                sample=_sample(spec, side), task=spec, answers=(first, second),
            )  # fmt: skip


def classes(random: Random, share: float) -> Iterator[Output]:
    """Yield answers to questions for the class of a picture."""
    for spec in (get_task("dermamnist"), get_task("organsmnist")):
        names = {name: name for name in spec.choices}
        for templates, taken in ((CLASSES, True), (NO_CLASS, False)):
            for name, template in _some(random, share, spec.choices, templates):
                if spec.name != "dermamnist" and _OF_LESIONS.search(template):
                    continue
                other = random.choice([choice for choice in spec.choices if choice not in name and name not in choice])
                text = template.format(t=name, T=name.capitalize(), U=name.upper(), v=other)
                yield Output(
                    form=f"classes: {'named' if taken else 'not named'}", text=text, truth=name if taken else None,
                    sample=_sample(spec, name, choices=names), task=spec,
                )  # fmt: skip


def _filled(template: str, word: str, other: str) -> str:
    return template.format(k=word, K=word[:1].upper() + word[1:], U=word.upper(), w=other)


def _sample(spec: TaskSpec, reference: str, *, choices: Mapping[str, str] | None = None) -> Sample:
    return Sample(
        sample_id="1", task=spec.name, split="test", inputs={"question": "What is it?"}, reference=reference,
        choices=choices or {}, labels={} if choices else {"answer_type": "CLOSED"},
    )  # fmt: skip


def _some(
    random: Random, share: float, first: Sequence[First], second: Sequence[Second]
) -> Iterator[tuple[First, Second]]:
    """Yield a share of all pairs, but each of `second` at least once."""
    for item in second:
        count = max(1, round(share * len(first)))
        for other in random.sample(first, count):
            yield other, item
