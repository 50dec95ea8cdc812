"""The plan of a training as text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medbench.unimed.training.plan import (
    GIB,
    MemoryPlan,
    Part,
    dead_parameters,
    epochs,
    meta_model,
    parts_of,
    plan_memory,
)
from medbench.unimed.training.plan_inputs import planned_config, training_sizes
from medbench.unimed.training.recipe import Recipe

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
_INFERENCE_ROWS, _ROW_TOKENS = 40, 204


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A line, tables, a line."""

    heading: str
    tables: tuple[Table, ...]
    closing: str


def plan(recipe: Recipe, data_dir: Path | None) -> Plan:
    """Return the plan of a recipe; without a data folder with the sample counts of the paper.

    Raises:
        UsageError: If the model cannot be built.
        DataError: If a task is not prepared, or the language model's folder has no usable configuration.
    """
    config, note = planned_config(recipe.model)
    sizes, source = training_sizes(recipe, data_dir)
    model = meta_model(config, vision=recipe.tower_share > 0)
    tables = (
        parameter_table(parts_of(model), dead_parameters(config)),
        memory_table(plan_memory(model, recipe)),
        step_table(recipe, sizes, epochs(recipe, sizes)),
    )
    closing = f"{step_line(recipe)} Samples: {source}."
    return Plan(heading=f"Recipe {recipe.name}. {note}", tables=tables, closing=closing)


def parameter_table(parts: list[Part], dead: int) -> Table:
    """Return columns and rows of the parameter counts."""
    rows = [(part.name, f"{part.trained:,}", f"{part.frozen:,}") for part in parts]
    rows.append(("all", f"{sum(part.trained for part in parts):,}", f"{sum(part.frozen for part in parts):,}"))
    if dead:
        rows.append(("the official code would also train, unused", f"{dead:,}", "0"))
    return ("part", "trained", "frozen"), rows


def memory_table(plan: MemoryPlan) -> Table:
    """Return columns and rows of the memory estimates."""
    cache = plan.cache_per_token * _INFERENCE_ROWS * _ROW_TOKENS
    rows = [
        ("training: frozen weights", plan.frozen),
        ("training: trained weights, float32", plan.trained),
        ("training: gradients, float32", plan.gradients),
        ("training: AdamW's moments, float32", plan.optimizer),
        ("training: activations of one micro-batch", plan.activations),
        ("training: together", plan.training),
        ("answering: weights, LoRA merged", plan.inference_weights),
        (f"answering: keys and values of {_INFERENCE_ROWS} rows of {_ROW_TOKENS} tokens", cache),
        ("disk: one checkpoint with the optimizer's state", plan.checkpoint),
    ]
    return ("memory (estimate, per process)", "GiB"), [(name, f"{size / GIB:.3f}") for name, size in rows]


def step_table(recipe: Recipe, sizes: Mapping[str, int], epochs: Mapping[str, float]) -> Table:
    """Return columns and rows of what the steps see."""
    total = sum(recipe.mixture.values())
    rows = [
        (name, f"{weight / total:.1%}", f"{sizes.get(name, 0):,}", f"{epochs[name]:.2f}" if name in epochs else "-")
        for name, weight in recipe.mixture.items()
    ]
    return ("mixture", "share of steps", "training samples", "epochs"), rows


def step_line(recipe: Recipe) -> str:
    """Return one line on the steps."""
    rates = recipe.learning_rates()
    rows = recipe.micro_batch * recipe.micro_batches
    return (
        f"{recipe.steps:,} steps of {recipe.micro_batches} x {recipe.micro_batch} = {rows} samples per process; "
        f"learning rate {rates.rate(0):.3g} at step 0, {rates.rate(recipe.schedule.warmup_steps):.3g} after the "
        f"warm-up, {rates.rate(recipe.steps - 1):.3g} at the end; {recipe.precision}."
    )
