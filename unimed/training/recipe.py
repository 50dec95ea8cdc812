"""A training recipe: everything that decides the weights, in one validated record."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, TypeAdapter, ValidationError

from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.foundation.errors import UsageError, refuse_secret, unknown_name
from medbench.tasks.foundation.files import parse_yaml_table, read_yaml_table
from medbench.unimed.checkpoint import JOINED

PRESETS = Path(__file__).parents[1] / "recipes"
Share = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=0)]
Setting = int | float | str | bool | None


class _Strict:
    __pydantic_config__ = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True, kw_only=True)
class ModelPlan(_Strict):
    """What is trained."""

    # `bundled` stands for the mini weights' own, a folder of a whole Uni-Med for its.
    language_model: str | None = None  # Folder or Hub name of a LLaMA that is adapted; None trains one from scratch.
    # `eva_vit_g.pth`, BLIP-2's safetensors, or a folder of another vision model of transformers; None trains a ViT.
    vision_weights: str | None = None
    # Fields of the ViT other than EVA ViT-G/14's; of another vision model only `image_size` may differ from its folder.
    vision: dict[str, int | float] = field(default_factory=dict)
    text: dict[str, int | float | bool] = field(default_factory=dict)  # Fields of a language model from scratch.
    vocabulary: PositiveInt = 2500  # Entries of the byte-level BPE tokenizer that is trained with the latter.
    unimed: dict[str, Setting] = field(default_factory=dict)  # Of `UniMedConfig`: resampler, connector, LoRA, prompts.


@dataclass(frozen=True, kw_only=True)
class VisionStage(_Strict):
    """How a vision tower from scratch is trained: first by itself, then with the rest or not at all."""

    steps: PositiveInt
    batch: Annotated[int, Field(ge=2)]  # Images per step.
    peak_learning_rate: PositiveFloat  # Of a one-cycle schedule.
    weight_decay: NonNegativeFloat
    later_rate: Annotated[float, Field(ge=0, le=1)] = 0.0  # Then a share of the rest's; 0 freezes it, as in the paper.


@dataclass(frozen=True, kw_only=True)
class Schedule(_Strict):
    """The learning rate."""

    # `official`, as its `linear_warmup_cosine_lr`: the cosine counts from step 0, so the rate falls by 2.4 % after the
    # warm-up (9.998e-6 to 9.758e-6). `cosine`: the warm-up starts at almost nothing, the cosine where it ends.
    shape: Literal["official", "cosine"]
    peak: PositiveFloat  # After the linear warm-up.
    floor: NonNegativeFloat  # At the end.
    start: float = 0.0  # At step 0 of the official shape; negative means no warm-up.
    warmup_steps: Count

    def rate(self, step: int, steps: int) -> float:
        """Return the rate of a step, counted from 0, of `steps`."""
        official, warm = self.shape == "official", self.warmup_steps
        if step < warm and not official:
            return self.peak * (step + 1) / warm
        if step < warm:
            first = self.peak if self.start < 0 else self.start
            return min(self.peak, first + (self.peak - first) * step / max(1, warm))
        progress = step / steps if official else (step - warm) / max(1, steps - warm)
        return self.floor + 0.5 * (self.peak - self.floor) * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class OptimizerPlan(_Strict):
    """AdamW."""

    betas: tuple[Share, Share]  # Of the two moments.
    weight_decay: NonNegativeFloat  # On the parameters that `decays` names.
    # `official`: everything but vectors and biases, task tokens too; `matrices`: no task tokens.
    decays: Literal["official", "matrices"] = "official"
    clip_norm: PositiveFloat | None = None  # Largest norm of the gradient, or None.
    # Experts of a hard or sparse router that a step did not use: `decay` them, as official, or let them `rest`.
    idle_experts: Literal["decay", "rest"] = "decay"


@dataclass(frozen=True, kw_only=True)
class ValidationPlan(_Strict):
    """How the training is watched."""

    share: Share = 0.0  # Share of the training groups held out; the test split is never read.
    every: PositiveInt = 1000  # Steps between two looks at their loss.
    answers: Count = 0  # Held-out samples per task that are also answered and scored at each look.


@dataclass(frozen=True, kw_only=True)
class CheckpointPlan(_Strict):
    """What is kept on disk."""

    every: PositiveInt = 1000  # Steps between two checkpoints.
    keep: PositiveInt = 2  # How many of them stay.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # Of the final one; those on the way are float32.


@dataclass(frozen=True, kw_only=True)
class Recipe(_Strict):
    """One training."""

    name: str  # Name of the recipe, written into the checkpoint.
    model: ModelPlan
    vision_stage: VisionStage | None = None  # The training of a tower from scratch.
    # Task name (or names, joined by `+`) to sampling weight; each micro-batch comes from one entry.
    mixture: Annotated[dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]
    # `official`: each micro-batch is drawn by itself; `image_centric`: those of a step are about the same images, where
    # several entries ask about them. Each sample is shown as often, in expectation.
    draws: Literal["official", "image_centric"] = "official"
    steps: PositiveInt
    micro_batch: PositiveInt  # Samples of one micro-batch, per process.
    micro_batches: PositiveInt = 1  # Per optimizer step (gradient accumulation), each from an entry of its own.
    schedule: Schedule
    optimizer: OptimizerPlan
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # Of computing and frozen weights; what learns is float32.
    gradient_checkpointing: bool = False  # Compute the language model's activations twice and keep them once.
    seed: Annotated[int, Field(ge=0, lt=2**31)]  # Of the weights, the order, the prompts and the dropout.
    validation: ValidationPlan = ValidationPlan()
    checkpoints: CheckpointPlan = CheckpointPlan()
    augment_classification: bool = False  # Mirror, turn, zoom and shift the images of classification tasks at random.
    max_prompt_tokens: PositiveInt = 3800  # Longest prompt; longer ones are cut on the right, but never into an image.
    max_answer_tokens: PositiveInt = 1024
    feature_cache_gb: NonNegativeFloat = 0.0  # Disk for the frozen tower's features; 0 computes them at every step.
    log_every: PositiveInt = 20  # Steps between two lines of the log.

    def tasks(self) -> tuple[str, ...]:
        """Return the names of all tasks of the mixture."""
        return tuple(name for entry in self.mixture for name in entry.split(JOINED))

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return self.schedule.rate(step, self.steps)

    @property
    def tower_share(self) -> float:
        """Learning rate of the vision tower as a share of the rest's; 0 if it is frozen."""
        return self.vision_stage.later_rate if self.vision_stage else 0.0

    def table(self) -> dict[str, Any]:
        """Return the recipe as the table that `recipe_of` reads."""
        values: dict[str, Any] = _ADAPTER.dump_python(self, mode="json")
        if self.draws == "official":
            # Trainings from before there was another one go on with their recipe.
            del values["draws"]
        return values


_ADAPTER = TypeAdapter(Recipe)


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = (), *, planned: bool = False) -> Recipe:
    """Read a recipe, a preset or a YAML file, with overrides such as `schedule.peak=1e-4`; else UsageError.

    One that is only `planned` need not name its base weights yet.
    """
    preset = PRESETS / f"{name_or_path}.yaml"
    path = preset if preset.exists() else Path(name_or_path)
    if not path.is_file():
        presets = ", ".join(preset_names())
        raise UsageError(f"There is no recipe {name_or_path!r}.", f"Give a YAML file or one of: {presets}.")
    values = read_yaml_table(path)
    for override in overrides:
        _override(values, override)
    return recipe_of(values, str(path), planned=planned)


def recipe_of(values: Mapping[str, Any], source: str, *, planned: bool = False) -> Recipe:
    """Return the validated recipe of a table; UsageError if a key or a value is not allowed."""
    refuse_secret(values, f"The recipe {source}")
    try:
        recipe = _ADAPTER.validate_python(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        hint = "Compare it with unimed/recipes/."
        raise UsageError(f"The recipe {source} is not valid: {problems}.", hint) from error
    for name in recipe.tasks():
        if name not in task_names():
            raise unknown_name("task", name, task_names())
    _refuse_contradictions(recipe)
    if not planned:
        _refuse_unnamed_weights(recipe)
    return recipe


def preset_names() -> list[str]:
    """Return the names of the recipes that come with medbench."""
    return sorted(preset.stem for preset in PRESETS.glob("*.yaml"))


def _override(values: dict[str, Any], override: str) -> None:
    name, is_given, value = override.partition("=")
    if not is_given:
        raise UsageError(f"--set {override!r} has no value.", "Write --set key=value, e.g. --set schedule.peak=1e-4.")
    *outer, last = name.strip().split(".")
    for key in outer:
        inner = values.get(key)
        values[key] = dict(inner) if isinstance(inner, dict) else {}
        values = values[key]
    values[last] = parse_yaml_table(f"value: {value}", f"--set {override!r}")["value"]


def _refuse_contradictions(recipe: Recipe) -> None:
    tasks, watched, warm = recipe.tasks(), recipe.validation, recipe.schedule.warmup_steps
    if repeated := sorted({name for name in tasks if tasks.count(name) > 1}):
        raise UsageError(f"The mixture names {', '.join(repeated)} twice.", "Give every task once.")
    if warm >= recipe.steps:
        problem = f"schedule.warmup_steps is {warm}, but there are {recipe.steps} steps."
        raise UsageError(problem, "Make the warm-up shorter than the training.")
    if recipe.draws == "image_centric" and recipe.micro_batches == 1:
        problem = "draws is image_centric, which fills the micro-batches of a step, but micro_batches is 1."
        raise UsageError(problem, "Set micro_batches to the number of tasks about an image: --set micro_batches=3.")
    if watched.answers and not watched.share:
        problem = f"validation.answers is {watched.answers}, but nothing is held out to be answered."
        raise UsageError(problem, "Set validation.share, e.g. --set validation.share=0.01.")
    if recipe.model.unimed.get("language_tuning") == "none" and any(get_task(name).kind == "qa" for name in tasks):
        problem = "With language_tuning 'none' nothing can be learned from text-only tasks."
        raise UsageError(problem, "Take medqa and pubmedqa out of the mixture.")
    if recipe.feature_cache_gb and (recipe.tower_share or recipe.augment_classification):
        problem = "Features can only be cached for a frozen tower that sees the same image every time."
        hint = "Set feature_cache_gb=0, or vision_stage.later_rate=0 and augment_classification=false."
        raise UsageError(problem, hint)


def _refuse_unnamed_weights(recipe: Recipe) -> None:
    model = recipe.model
    if bool(model.text) == bool(model.language_model):
        problem = "The recipe must name one language model: model.language_model or model.text (one from scratch)."
        hint = "Give a LLaMA folder or Hub name: --set model.language_model=meta-llama/Llama-2-7b-chat-hf"
    elif bool(recipe.vision_stage) == bool(model.vision_weights):
        problem = "The recipe must name one vision tower: model.vision_weights or vision_stage (one from scratch)."
        hint = "For example: --set model.vision_weights=weights/eva_vit_g.pth"
    elif bool(model.text) == bool(model.vision_weights):
        problem = "A language model and a vision tower are both given or both trained from scratch."
        hint = "Give model.language_model and model.vision_weights, or model.text and vision_stage."
    else:
        return
    raise UsageError(problem, hint)
