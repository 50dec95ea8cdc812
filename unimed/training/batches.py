"""From examples to the tensors that the model trains on."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medbench.unimed.configuration import CONNECTOR_TASKS
from medbench.unimed.modeling import IGNORED_LABEL
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import CONNECTOR_TASK
from medbench.unimed.training.augmentation import distorted, jittered
from medbench.unimed.training.corpus import Example

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Longest texts in tokens; what is above is cut on the right, as in the official code."""

    prompt: int = 3800
    answer: int = 1024


def text_batch(
    examples: Sequence[Example], templates: Sequence[str], processor: UniMedProcessor, limits: Limits = Limits()
) -> Batch:
    """Return right-padded `input_ids`, `attention_mask` and `labels` [B, L], and `task_ids` [I].

    Args:
        examples: The rows.
        templates: The instruction of each row.
        processor: Tokenizer, prompts and image sizes.
        limits: Longest texts.
    """
    rows = [
        (
            _cut(
                processor.prompt_ids(example.prompt(processor.form, template)), limits.prompt, processor.image_token_id
            ),
            processor.answer_ids(example.answer(processor.form), limits.answer),
        )
        for example, template in zip(examples, templates, strict=True)
    ]
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), int(processor.tokenizer.pad_token_id))
    labels = torch.full((len(rows), length), IGNORED_LABEL)
    mask = torch.zeros((len(rows), length), dtype=torch.long)
    for index, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        ids[index, :end] = torch.tensor(prompt + answer)
        labels[index, len(prompt) : end] = torch.tensor(answer)
        mask[index, :end] = 1
    tasks = [CONNECTOR_TASKS.index(CONNECTOR_TASK[example.spec.kind]) for example in examples if example.picture >= 0]
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    return {**batch, "task_ids": torch.tensor(tasks)} if tasks else batch


def _cut(ids: list[int], limit: int, image_token: int) -> list[int]:
    """Return the first `limit` ids of a prompt, or more of them up to the last visual token."""
    if len(ids) <= limit:
        return ids
    pictures = len(ids) - ids[::-1].index(image_token) if image_token in ids else 0
    return ids[: max(limit, pictures)]


def picture_rows(examples: Sequence[Example]) -> list[int]:
    """Return the rows of the examples' pictures, in the order of their placeholders."""
    return [example.picture for example in examples if example.picture >= 0]


def template_of(example: Example, seed: int, turn: int) -> str:
    """Return the instruction of the pool for an example's turn; the same every time it is asked."""
    draw = random.Random(f"{seed}/{example.spec.name}/{turn}")
    return draw.choice(example.spec.train_prompts)


def distort_classified(pixels: torch.Tensor, examples: Sequence[Example], generator: torch.Generator) -> torch.Tensor:
    """Show other views of the pictures [B, 3, S, S] of classification rows; other tasks' stay as they are."""
    if not all(example.spec.kind == "cls" for example in examples):
        return pixels
    return distorted(jittered(pixels, generator), generator)
