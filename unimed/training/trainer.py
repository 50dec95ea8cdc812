"""One step of the training: micro-batches in, gradients gathered, weights moved."""

import math
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from medbench.tasks.foundation.errors import RunError
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.training.batches import Batch
from medbench.unimed.training.features import FeatureCache, features_of
from medbench.unimed.training.feed import Ready, seed_of
from medbench.unimed.training.log import Tally
from medbench.unimed.training.optimizer import decay_idle_experts, set_rate
from medbench.unimed.training.recipe import Recipe
from medbench.unimed.training.state import gathered_weights, optimizer_state, restore_optimizer

UNLIMITED = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The model with everything that changes while it is trained.

    Attributes:
        recipe: What is trained.
        accelerator: Devices, processes, precision.
        model: The model itself.
        wrapped: The same as the accelerator prepared it.
        optimizer: The optimizer as the accelerator prepared it.
        cache: Features of the frozen tower, or None.
    """

    recipe: Recipe
    accelerator: Accelerator
    model: UniMedForConditionalGeneration
    wrapped: torch.nn.Module
    optimizer: Any
    cache: FeatureCache | None

    def step(self, step: int, ready: Iterator[Ready], tally: Tally) -> float:
        """Take one optimizer step; return the norm of the gradient before clipping.

        Raises:
            RunError: If a loss or the gradient is not a number; the weights are as before the step.
        """
        recipe = self.recipe
        torch.manual_seed(seed_of(recipe.seed, step, self.accelerator.process_index))
        if not (self.wrapped.training and self.model.training):
            self.wrapped.train()
        set_rate(self.optimizer, recipe.learning_rates().rate(step))
        self.optimizer.zero_grad(set_to_none=True)
        for part in range(recipe.micro_batches):
            last = part + 1 == recipe.micro_batches
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                self._learn(next(ready), tally)
        if recipe.optimizer.idle_experts == "decay":
            decay_idle_experts(self.model.connector)
        norm = self._clipped_norm(recipe.optimizer.clip_norm or UNLIMITED)
        if not math.isfinite(norm) and self.accelerator.scaler is None:
            raise RunError(
                f"The gradient of step {step} is {norm}.", "Lower schedule.peak or set optimizer.clip_norm, and resume."
            )
        self.optimizer.step()
        return norm

    def _clipped_norm(self, largest: float) -> float:
        norm = self.accelerator.clip_grad_norm_(self._learning(), largest)
        # Of sharded gradients the norm is sharded too.
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)

    def _learning(self) -> list[torch.nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _learn(self, ready: Ready, tally: Tally) -> None:
        self.model.connector.watch = lambda weights: tally.add_experts(ready.draw.name, weights.tolist())
        loss = self.wrapped(**self.inputs(ready)).loss
        self.model.connector.watch = None
        value = float(loss.detach())
        if not math.isfinite(value):
            raise RunError(
                f"The loss of {ready.draw.name} at step {ready.draw.step} is {value}.",
                "Nothing was learned from it. Lower schedule.peak or set optimizer.clip_norm, and go on with --resume.",
            )
        self.accelerator.backward(loss / self.recipe.micro_batches)
        tokens = int(ready.batch["attention_mask"].sum())
        tally.add(ready.draw.name, value, samples=len(ready.draw.indices), tokens=tokens)

    def inputs(self, ready: Ready) -> Batch:
        """Return what the model takes, on its device; the tasks stay on the CPU, where they choose experts."""
        device = self.accelerator.device
        batch = {name: t if name == "task_ids" else t.to(device, non_blocking=True) for name, t in ready.batch.items()}
        if self.cache is not None and ready.digests:
            batch["image_features"] = self._features(ready, self.cache)
        elif ready.pixels is not None:
            batch["pixel_values"] = ready.pixels.to(device, self.model.vision_tower.vit.dtype)
        return batch

    def _features(self, ready: Ready, cache: FeatureCache) -> torch.Tensor:
        device, dtype = self.accelerator.device, self.model.vision_tower.vit.dtype
        empty = torch.empty(0, device=device, dtype=dtype)
        pixels = empty if ready.pixels is None else ready.pixels.to(device, dtype)
        with self.accelerator.autocast():
            return features_of(ready.digests, ready.found, pixels, self.model.encode_images, cache)

    def agreed(self, wish: bool) -> bool:
        """Return whether any process wishes it; every process has to ask."""
        if self.accelerator.num_processes == 1:
            return wish
        wishes = torch.tensor([int(wish)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(wishes, reduction="sum").item())

    def weights(self, *, only_trained: bool) -> dict[str, torch.Tensor]:
        """Return the weights on the CPU; every process has to ask."""
        return gathered_weights(self.wrapped, only_trained=only_trained)

    def state(self) -> dict[str, Any]:
        """Return what has to be known to go on beside the weights; every process has to ask."""
        scaler = self.accelerator.scaler
        return {
            "optimizer": optimizer_state(self.wrapped, self._raw_optimizer()),
            "scaler": scaler.state_dict() if scaler is not None else None,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        restore_optimizer(self.wrapped, self._raw_optimizer(), state["optimizer"], self.model.config)
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    def _raw_optimizer(self) -> torch.optim.Optimizer:
        raw: torch.optim.Optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return raw
