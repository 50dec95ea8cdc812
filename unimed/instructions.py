"""A benchmark's sample in Uni-Med's words, by the style that the model was taught."""

from dataclasses import replace

from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed.prompts import PromptForm, official_text

FIXED_INPUTS = frozenset({"subject", "classes"})
"""Inputs that the official code writes into the instruction itself and therefore never cuts."""


def instruct(spec: TaskSpec, sample: Sample, form: PromptForm, *, box: str = "", template: str | None = None) -> str:
    """Return the instruction for `sample`, without identifier and tags.

    Raises:
        DataError: If the sample lacks a field of the template.
    """
    if form.official:
        inputs = {name: text if name in FIXED_INPUTS else official_text(text) for name, text in sample.inputs.items()}
        sample = replace(sample, inputs=inputs)
    return spec.instruction(sample, box=box, template=template)


def taught_answer(reference: str, form: PromptForm) -> str:
    """Return what the model is to learn to say; the official code teaches the first 50 words."""
    return official_text(reference) if form.official else reference
