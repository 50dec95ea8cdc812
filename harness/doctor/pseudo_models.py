"""Pseudo-models whose scores are known before anything is scored: what a scorer says of them is its own test.

The peers' scorers fail it: a perfect model gets 50 % of MedEvalKit's PathVQA and 157 % of its SLAKE, an empty one all
answers `A`, a constant `yes no` every closed question of MultiMedEval.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.sample import Box, Sample
from medbench.tasks.spec import TaskSpec

EXACT_BOXES = BoxSpace(name="pixels", units=None, digits=15)
"""Pixels with all their decimals, so that the oracle's boxes are right to the last bit."""

PseudoModel = Callable[[TaskSpec, Sequence[Sample]], list[str]]

_REFUSAL = "I'm sorry, but I cannot help with medical images."


def _right_answer(sample: Sample, spec: TaskSpec) -> str:
    return _boxed(sample.box) if spec.kind == "rec" and sample.box else sample.reference


def _boxed(box: Box) -> str:
    return EXACT_BOXES.write(box, (1, 1))


def oracle(spec: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return the right answers."""
    return [_right_answer(sample, spec) for sample in samples]


def empty(_: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return nothing for every sample."""
    return [""] * len(samples)


def refusal(_: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return the same refusal for every sample."""
    return [_REFUSAL] * len(samples)


def constant(spec: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return the most common right answer for every sample: the base rate."""
    answers = Counter(_right_answer(sample, spec) for sample in samples)
    return [answers.most_common(1)[0][0]] * len(samples)


def shuffled(spec: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return to every sample the right answer of the one half-way round the list."""
    answers = oracle(spec, samples)
    half = len(answers) // 2
    return answers[half:] + answers[:half]


def verbose(spec: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return the right answers inside a sentence, as a chat model gives them."""
    opening = "Findings:" if spec.kind == "report" else "The answer is"
    closing = "" if spec.kind == "report" else "."
    return [f"{opening} {_right_answer(sample, spec)}{closing}" for sample in samples]


def thinking(spec: TaskSpec, samples: Sequence[Sample]) -> list[str]:
    """Return the right answers behind thoughts that name those of other samples."""
    others = shuffled(spec, samples)
    right = oracle(spec, samples)
    return [
        f"<think>Is it {other}? The answer is {other}.</think>\n\n{answer}"
        for other, answer in zip(others, right, strict=True)
    ]


PSEUDO_MODELS: Mapping[str, PseudoModel] = {
    "oracle": oracle,
    "empty": empty,
    "refusal": refusal,
    "constant": constant,
    "shuffled": shuffled,
    "verbose": verbose,
    "thinking": thinking,
}
