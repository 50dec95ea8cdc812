"""Training of Uni-Med for the rooms above: recipes in, checkpoints out, and the model in training as an adapter."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medbench.adapters.base import LocalAdapter, Parser
from medbench.adapters.uni_med import ENTRY, UniMedAdapter
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from medbench.unimed.modeling import UniMedForConditionalGeneration
    from medbench.unimed.processing import UniMedProcessor
    from medbench.unimed.training.corpus import Corpus, Example
    from medbench.unimed.training.plan import TrainingPlan
    from medbench.unimed.training.recipe import Recipe

Scores = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """A sample that the training does not see; `source` is the folder that its images are relative to."""

    spec: TaskSpec
    sample: Sample
    source: Path


Examine = Callable[[LocalAdapter, Parser, Mapping[str, Sequence[HeldOut]]], Scores]
"""Lets a model answer held-out samples by task, and scores its answers."""


def recipe_of(config: str, overrides: tuple[str, ...]) -> "Recipe":
    """Return a recipe by its name or file; UsageError if it cannot be followed."""
    from medbench.unimed.training.recipe import load_recipe

    return load_recipe(config, overrides)


def train_uni_med(
    recipe: "Recipe", *, data_dir: Path, output: Path, resume: bool, examine: Examine, tower: Path | None = None
) -> None:
    """Train by a recipe; see `medbench.unimed.training.loop.train` for what it raises."""
    from medbench.unimed.checkpoint import LoadedCheckpoint
    from medbench.unimed.training.loop import train

    def look(
        model: "UniMedForConditionalGeneration", processor: "UniMedProcessor",
        examples: "Mapping[str, Sequence[Example]]", corpus: "Corpus",
    ) -> Scores:  # fmt: skip
        def held_out(example: "Example") -> HeldOut:
            source = corpus.images.place(example.image)[0] if example.image >= 0 else Path()
            return HeldOut(spec=example.spec, sample=example.sample, source=source)

        asked = {name: list(map(held_out, of_task)) for name, of_task in examples.items()}
        # The model is not changed, so LoRA is not merged.
        trained = LoadedCheckpoint(model=model, processor=processor, fingerprint="in training")
        return examine(UniMedAdapter(trained, notices=()), ENTRY.parse, asked)

    train(recipe, data_dir, output, resume=resume, examine=look, tower=tower)


def plan_uni_med(config: str, overrides: tuple[str, ...], data_dir: Path | None) -> "TrainingPlan":
    """Return parameters, memory and steps of a recipe without loading a weight."""
    from medbench.unimed.training.plan import plan
    from medbench.unimed.training.recipe import load_recipe

    return plan(load_recipe(config, overrides, planned=True), data_dir)
