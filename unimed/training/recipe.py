"""A training recipe: everything that decides the weights, in one validated record."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from tasks.foundation.errors import UsageError
from tasks.foundation.yaml_tables import parse_yaml_table, read_yaml_table

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
class VisionStage:
    """How the vision tower is trained: first by itself, then with the rest or not at all.

    Attributes:
        steps: Steps of its own.
        batch: Pictures per step.
        peak_learning_rate: Of a one-cycle schedule.
        weight_decay: AdamW.
        later_rate: Its learning rate in the language stage, as a share of the rest's; 0 freezes it, as in the paper.
    """

    __pydantic_config__ = _STRICT

    steps: PositiveInt
    batch: Annotated[int, Field(ge=2)]
    peak_learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat
    later_rate: Annotated[float, Field(ge=0, le=1)] = 0.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training.

    Attributes:
        name: Name of the recipe, written into the checkpoint.
        model: Sizes of the model.
        vision_stage: The tower's own training, and what becomes of it in the language stage.
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
        augment_classification: Mirror, turn, zoom and shift the pictures of classification tasks at random.
        save_dtype: Type of the saved weights.
    """

    __pydantic_config__ = _STRICT

    name: str
    model: ModelShape
    vision_stage: VisionStage
    vocabulary: PositiveInt
    mixture: Annotated[dict[str, PositiveFloat], Field(min_length=1)]
    steps: PositiveInt
    micro_batch: PositiveInt
    micro_batches: PositiveInt
    peak_learning_rate: PositiveFloat
    warmup_steps: PositiveInt
    final_learning_rate: NonNegativeFloat
    weight_decay: NonNegativeFloat
    betas: tuple[float, float]
    clip_norm: PositiveFloat
    seed: Annotated[int, Field(ge=0, lt=2**63)]
    validation_share: Annotated[float, Field(ge=0, lt=1)]
    validate_every: PositiveInt
    augment_classification: bool
    save_dtype: Literal["float32", "bfloat16", "float16"] = "float32"


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
    values = read_yaml_table(path)
    for override in overrides:
        if "=" not in override:
            raise UsageError(f"--set {override!r} has no value.", "Write --set key=value.")
        values |= parse_yaml_table(override.replace("=", ": ", 1), f"--set {override!r}")
    try:
        return TypeAdapter(Recipe).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"The recipe {path} is not valid: {problems}.", "Compare it with unimed/recipes/.") from error
