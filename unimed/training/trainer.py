"""A step of the training, on the devices and processes that accelerate gives, and AdamW: batches in, weights moved."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType
from torch.distributed.checkpoint import state_dict as states

from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.home import medbench_home
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import Connector
from medbench.unimed.lora import current_names
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.training import corpus as data
from medbench.unimed.training.corpus import Batch, Corpus, MicroBatch
from medbench.unimed.training.folder import Tally
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.vision import is_eva

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HELD_OUT_SAMPLES = 64
GIGABYTE = 10**9
Decays = Callable[[str, torch.nn.Parameter], bool]
_MATRIX = 2
_GATHERED = states.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)


def official_decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Return whether the official code decays a parameter: all but vectors, biases and norms, so task tokens too."""
    return parameter.ndim >= _MATRIX and not any(word in name for word in ("bias", "ln", "bn"))


def matrices_decay(name: str, parameter: torch.nn.Parameter) -> bool:
    """Return whether to decay a parameter: matrices, but neither task tokens nor embeddings."""
    return parameter.ndim >= _MATRIX and "task_tokens" not in name and "embedding" not in name


DECAY_RULES: dict[str, Decays] = {"official": official_decays, "matrices": matrices_decay}


def make_optimizer(
    parameters: Mapping[str, torch.nn.Parameter], *, decays: Decays, weight_decay: float, betas: tuple[float, float],
    epsilon: float = 1e-8, shares: Mapping[str, float] | None = None
) -> torch.optim.AdamW:  # fmt: skip
    """Return AdamW over named parameters; one without a gradient in a step is left alone, decay and moments included.

    The official numbers depend on that, since each batch is of one task. `shares` are parts of the learning rate by
    prefix of the name, 1 for all others; they are kept as the groups' `share`.
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        share = next((part for prefix, part in (shares or {}).items() if name.startswith(prefix)), 1.0)
        groups.setdefault((share, weight_decay if decays(name, parameter) else 0.0), []).append(parameter)
    told = [{"params": members, "weight_decay": decay, "share": share} for (share, decay), members in groups.items()]
    return torch.optim.AdamW(told, lr=0.0, betas=betas, eps=epsilon, fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]


def decay_idle_experts(connector: Connector) -> None:
    """Give idle experts of a used connector zero gradients, as official: AdamW decays them and their moments."""
    experts = [parameter for expert in getattr(connector, "experts", ()) for parameter in expert.parameters()]
    idle = [parameter for parameter in experts if parameter.grad is None]
    for parameter in idle if len(idle) < len(experts) else ():
        parameter.grad = torch.zeros_like(parameter)


def gathered_weights(model: torch.nn.Module, *, only_trained: bool) -> dict[str, torch.Tensor]:
    """Return weights on the CPU; shards are gathered on the first process. No buffer of what is frozen is trained."""
    options = states.StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=only_trained)
    found = cast("dict[str, torch.Tensor]", states.get_model_state_dict(model, options=options))
    buffers = {name.removeprefix("module.") for name, _ in model.named_buffers()} if only_trained else set()
    return {name: tensor for name, tensor in found.items() if name not in buffers}


def optimizer_state(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return moments and step counts by parameter name; a parameter that never had a gradient has none."""
    return dict(states.get_optimizer_state_dict(model, optimizer, options=_GATHERED)) if optimizer.state else {}


def restore_optimizer(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any], config: UniMedConfig
) -> None:
    """Give an optimizer the state that `optimizer_state` returned, also that of an older version."""
    if not state:
        return
    # PyTorch makes no state to load into while there are gradients.
    optimizer.zero_grad(set_to_none=True)
    named = [list(current_names(dict.fromkeys(group["params"]), config)) for group in state["param_groups"]]
    groups = [{**group, "params": names} for group, names in zip(state["param_groups"], named, strict=True)]
    whole: dict[str, Any] = {"state": current_names(state["state"], config), "param_groups": groups}
    # PyTorch wants a state for every parameter; the one without gives what AdamW starts with: zeros at step 0.
    # Asked without gathering, which would leave every process but the first without names; shapes are whole ones.
    trained = states.StateDictOptions(ignore_frozen_params=True)
    for name, weight in states.get_model_state_dict(model, options=trained).items():
        if name not in whole["state"]:
            zeros = torch.zeros(cast("torch.Tensor", weight).shape)
            whole["state"][name] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    states.set_optimizer_state_dict(model, optimizer, whole, options=_GATHERED)


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Return the accelerator, as `accelerate launch` decides; UsageError if the recipe does not go with it."""
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        problem = "precision fp16 needs a GPU: its small gradients vanish without a loss scaler."
        raise UsageError(problem, "On a CPU use --set precision=fp32 (exact) or bf16.")
    mixed = "no" if recipe.precision == "fp32" else recipe.precision
    # Each batch is of one task, so that in every step some parameters (other tasks' tokens, the whole connector on
    # text-only batches) are not used by any process.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=mixed, kwargs_handlers=[unused])
    if is_sharded(accelerator):
        sparse = recipe.model.unimed.get("router_type") == "sparse"
        ddp = "Its experts depend on the tokens, and all processes must use the same ones: use DDP."
        for what, is_there, hint in (
            ("FSDP 1", not accelerator.is_fsdp2, "Use version 2: accelerate launch --fsdp_version 2"),
            ("validation.answers", recipe.validation.answers, "Set validation.answers=0; losses are watched."),
            ("the feature cache", recipe.feature_cache_gb, "Set feature_cache_gb=0."),
            ("a sparse router", sparse, ddp),
        ):
            if is_there:
                raise UsageError(f"Training with FSDP does not go with {what}.", hint)
    return accelerator


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether the weights are spread over processes."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def frozen_dtype(recipe: Recipe, accelerator: Accelerator) -> torch.dtype:
    """Return the type of the frozen weights: that of computing; float32 with FSDP, which wants one type per block."""
    return torch.float32 if is_sharded(accelerator) else DTYPES[recipe.precision]


def make_trainer(recipe: Recipe, accelerator: Accelerator, model: UniMedForConditionalGeneration) -> "Trainer":
    """Return a model's trainer with a fresh optimizer, and with the feature cache if the recipe has one."""
    plan, config, vit = recipe.optimizer, model.config, model.vision_tower.vit
    optimizer = make_optimizer(
        model.trainable(), decays=DECAY_RULES[plan.decays], weight_decay=plan.weight_decay, betas=plan.betas,
        shares={"vision_tower.": recipe.tower_share},
    )  # fmt: skip
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    cache = None
    if recipe.feature_cache_gb:
        resampler = {"method": config.resample_method, "rate": config.resample_rate}
        other = {} if is_eva(vit.config) else {"tower": config.vision.to_json_string(), "scale": config.pixel_scale}
        settings = {"size": config.image_size, **resampler, **other, "dtype": str(vit.dtype)}
        cache = data.FeatureCache(
            folder=data.feature_folder(medbench_home(), model.vision_tower, settings),
            shape=(config.visual_tokens, config.connector_width), dtype=vit.dtype,
            limit=int(recipe.feature_cache_gb * GIGABYTE / accelerator.num_processes),
        )  # fmt: skip
    wrapped, prepared = accelerator.prepare(model, optimizer)
    return Trainer(
        recipe=recipe, accelerator=accelerator, model=accelerator.unwrap_model(wrapped), wrapped=wrapped,
        optimizer=prepared, cache=cache,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The model with everything that changes while it is trained."""

    recipe: Recipe
    accelerator: Accelerator  # Devices, processes, precision.
    model: UniMedForConditionalGeneration
    wrapped: torch.nn.Module  # The same as the accelerator prepared it.
    optimizer: Any  # The optimizer as the accelerator prepared it.
    cache: data.FeatureCache | None  # Features of the frozen tower, or None.

    def step(self, step: int, batches: Iterator[MicroBatch], tally: Tally) -> float:
        """Take a step; return the gradient's norm before clipping; RunError if it or a loss is not a number."""
        recipe = self.recipe
        torch.manual_seed(data.seed_of(recipe.seed, step, self.accelerator.process_index))
        if not (self.wrapped.training and self.model.training):
            self.wrapped.train()
        set_rate(self.optimizer, recipe.learning_rate(step))
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(recipe.micro_batches):
            last = part + 1 == recipe.micro_batches
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                self._learn(step, next(batches), tally)
        if recipe.optimizer.idle_experts == "decay":
            decay_idle_experts(self.model.connector)
        learning = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradient = self.accelerator.clip_grad_norm_(learning, recipe.optimizer.clip_norm or math.inf)
        # Of sharded gradients the norm is sharded too.
        norm = float(gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient)
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            hint = "Lower schedule.peak or set optimizer.clip_norm, and resume."
            raise RunError(f"The gradient of step {step} is {norm}.", hint)
        self.optimizer.step()
        return norm

    def _learn(self, step: int, batch: MicroBatch, tally: Tally) -> None:
        self.model.connector.watch = lambda weights: tally.add_experts(batch.name, weights.tolist())
        loss = self.wrapped(**self.inputs(batch)).loss
        self.model.connector.watch = None
        value = float(loss.detach())
        if not math.isfinite(value):
            hint = "Lower schedule.peak or set optimizer.clip_norm, and go on with --resume."
            hint = f"Nothing was learned from it. {hint}"
            raise RunError(f"The loss of {batch.name} at step {step} is {value}.", hint)
        self.accelerator.backward(loss / self.recipe.micro_batches)
        mask = batch.texts["attention_mask"]
        tally.add(batch.name, value, samples=len(mask), tokens=int(mask.sum()))

    def inputs(self, batch: MicroBatch) -> Batch:
        """Return what the model takes, on its device; the tasks stay on the CPU, where they choose experts."""
        device, dtype = self.accelerator.device, self.model.vision_tower.vit.dtype
        inputs = {n: t if n == "task_ids" else t.to(device, non_blocking=True) for n, t in batch.texts.items()}
        pixels = None if batch.pixels is None else batch.pixels.to(device, dtype)
        if self.cache is not None and batch.digests:
            pixels = torch.empty(0, device=device, dtype=dtype) if pixels is None else pixels
            encode = self.model.encode_images
            with self.accelerator.autocast():
                inputs["image_features"] = data.features_of(batch.digests, batch.found, pixels, encode, self.cache)
        elif pixels is not None:
            inputs["pixel_values"] = pixels
        return inputs

    @torch.no_grad()
    def held_out_losses(self, corpus: Corpus, processor: UniMedProcessor) -> dict[str, float | None]:
        """Return each task's mean loss on up to 64 held-out examples by its evaluation prompt; None if no number."""
        self.wrapped.eval()
        losses: dict[str, float | None] = {}
        for name, examples in corpus.held_out.items():
            chosen, total = examples[:HELD_OUT_SAMPLES], 0.0
            for start in range(0, len(chosen), self.recipe.micro_batch):
                part = chosen[start : start + self.recipe.micro_batch]
                texts, rows = data.text_batch(part, [one.spec.prompt for one in part], processor), data.image_rows(part)
                batch = MicroBatch(name=name, texts=texts, pixels=corpus.images.pixels(rows) if rows else None)
                total += float(self.wrapped(**self.inputs(batch)).loss) * len(part)
            if chosen:
                losses[name] = round(total / len(chosen), 4) if math.isfinite(total) else None
        return losses

    def agreed(self, wish: bool) -> bool:
        """Return whether any process wishes it; every one has to ask for this and for the state."""
        if self.accelerator.num_processes == 1:
            return wish
        wishes = torch.tensor([int(wish)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(wishes, reduction="sum").item())

    def state(self) -> dict[str, Any]:
        """Return what has to be known to go on beside the weights."""
        scaler = self.accelerator.scaler
        optimizer = optimizer_state(self.wrapped, self._raw_optimizer())
        return {"optimizer": optimizer, "scaler": scaler.state_dict() if scaler is not None else None}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        restore_optimizer(self.wrapped, self._raw_optimizer(), state["optimizer"], self.model.config)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _raw_optimizer(self) -> torch.optim.Optimizer:
        return cast("torch.optim.Optimizer", getattr(self.optimizer, "optimizer", self.optimizer))
