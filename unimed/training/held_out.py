"""The loss on what was held out of the training split."""

import math
from collections.abc import Sequence

import torch

from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.training.batches import picture_rows, text_batch
from medbench.unimed.training.corpus import Corpus, Example
from medbench.unimed.training.feed import Ready
from medbench.unimed.training.mixture import Draw
from medbench.unimed.training.trainer import Trainer

SAMPLES = 64


@torch.no_grad()
def held_out_losses(corpus: Corpus, trainer: Trainer, processor: UniMedProcessor) -> dict[str, float | None]:
    """Return the mean loss per task on up to 64 held-out examples of each, by the evaluation prompt.

    A loss that is no number is None: it is told, and does not end the training.
    """
    trainer.wrapped.eval()
    size = trainer.recipe.micro_batch
    losses: dict[str, float | None] = {}
    for name, examples in corpus.held_out.items():
        chosen = examples[:SAMPLES]
        parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
        if parts:
            total = sum(_loss(part, corpus, trainer, processor) * len(part) for part in parts)
            losses[name] = round(total / len(chosen), 4) if math.isfinite(total) else None
    return losses


def _loss(examples: Sequence[Example], corpus: Corpus, trainer: Trainer, processor: UniMedProcessor) -> float:
    batch = text_batch(examples, [example.spec.prompt for example in examples], processor)
    rows = picture_rows(examples)
    pixels = corpus.pictures.pixels(rows) if rows else None
    draw = Draw(step=0, part=0, name=examples[0].spec.name, indices=(), turns=())
    ready = Ready(draw=draw, kind=examples[0].spec.kind, batch=batch, pixels=pixels)
    return float(trainer.wrapped(**trainer.inputs(ready)).loss)
