"""A training recipe: everything that decides the weights, in one validated record."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from tasks.foundation.errors import DataError, UsageError

PRESETS = Path(__file__).parents[1] / "recipes"
_STRICT = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Sizes of a model that is trained from scratch; the words are those of the transformers configurations."""

    __pydantic_config__ = _STRICT

    vision: dict[str, int | float]
    text: dict[str, int | float | bool]
    connector: dict[str, int | str]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training.

    Attributes:
        name: Name of the recipe, written into the checkpoint.
        model: Sizes of the model.
        vocabulary: Entries of the byte-level BPE tokenizer that is trained on the corpus.
        mixture: Task name to sampling weight; each micro-batch comes from one task.
        steps: Optimizer steps.
        micro_batch: Samples of one micro-batch.
        micro_batches: Micro-batches per optimizer step, each from a task of its own.
        peak_learning_rate: After the linear warm-up; a cosine leads from it to `final_learning_rate`.
        warmup_steps: Steps of the warm-up.
        final_learning_rate: At the last step.
        weight_decay: AdamW, on matrices only.
        betas: AdamW.
        clip_norm: Largest norm of the gradient.
        seed: Of the weights, the order and the prompts.
        validation_share: Share of the training groups held out to watch the loss; the test split is never read.
        validate_every: Steps between two looks at the held-out share.
        flip_classification: Mirror the pictures of classification tasks at random; their labels do not know sides.
        save_dtype: Type of the saved weights.
    """

    __pydantic_config__ = _STRICT

    name: str
    model: ModelShape
    vocabulary: int
    mixture: dict[str, float]
    steps: int
    micro_batch: int
    micro_batches: int
    peak_learning_rate: float
    warmup_steps: int
    final_learning_rate: float
    weight_decay: float
    betas: tuple[float, float]
    clip_norm: float
    seed: int
    validation_share: float
    validate_every: int
    flip_classification: bool
    save_dtype: str = field(default="float32")


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe: a preset's name or a YAML file, with `key=value` overrides of its top level.

    Raises:
        UsageError: If there is no such file, or a key or a value is not allowed.
    """
    path = PRESETS / f"{name_or_path}.yaml"
    if not path.exists():
        path = Path(name_or_path)
    if not path.is_file():
        presets = ", ".join(sorted(preset.stem for preset in PRESETS.glob("*.yaml")))
        raise UsageError(f"There is no recipe {name_or_path!r}.", f"Give a YAML file or one of: {presets}.")
    values = _read_yaml(path)
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator:
            raise UsageError(f"--set {override!r} has no value.", "Write --set key=value.")
        values[key] = yaml.safe_load(value)
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"The recipe {path} is not valid: {problems}.", "Compare it with unimed/recipes/.") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise DataError(f"{path} is not YAML: {error}.") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} holds a {type(values).__name__}, not a table of settings.")
    return values
