"""What a plan starts from: the model's sizes and the number of samples, from disk if there, else from the paper."""

from collections.abc import Mapping
from pathlib import Path

from medbench.tasks.catalog import get_task
from medbench.tasks.prepared import load_prepared
from medbench.unimed.base_weights import BaseWeights, checked_config, configure
from medbench.unimed.checkpoint import JOINED
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.training.build import scratch_config
from medbench.unimed.training.recipe import ModelPlan, Recipe


def planned_config(plan: ModelPlan) -> tuple[UniMedConfig, str]:
    """Return the configuration of a plan, and where the language model's sizes come from.

    Raises:
        UsageError: If the configuration cannot work.
        DataError: If the language model's folder has no usable configuration.
    """
    if plan.text:
        return scratch_config(plan), "The model is trained from scratch."
    if plan.language_model is not None and Path(plan.language_model).expanduser().is_dir():
        base = BaseWeights(language_model=str(Path(plan.language_model).expanduser()), vision="")
        config = configure(base, dict(plan.unimed), vision=dict(plan.vision))
        return config, f"The language model's sizes are those of {plan.language_model}."
    config = checked_config(vision_config=dict(plan.vision), **plan.unimed)
    named = f"{plan.language_model} is no folder here" if plan.language_model else "No language model was named"
    return config, f"{named}, so the sizes are those of LLaMA-2-7B."


def training_sizes(recipe: Recipe, data_dir: Path | None) -> tuple[Mapping[str, int], str]:
    """Return the training samples of each entry, and where the numbers come from."""
    if data_dir is None:
        return {entry: sum(_paper_size(name) for name in entry.split(JOINED)) for entry in recipe.mixture}, (
            "counts of the paper; give --data-dir for yours"
        )
    return {
        entry: sum(load_prepared(data_dir, name).manifest.counts["train"] for name in entry.split(JOINED))
        for entry in recipe.mixture
    }, f"prepared in {data_dir}, what is held out included"


def _paper_size(name: str) -> int:
    return get_task(name).counts.get("train", 0)
