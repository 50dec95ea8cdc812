"""Devices, processes and precision, by Hugging Face accelerate."""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import DistributedType

from medbench.tasks.foundation.errors import UsageError
from medbench.unimed.training.recipe import Recipe

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def make_accelerator(recipe: Recipe) -> Accelerator:
    """Return the accelerator of a training; `accelerate launch` decides about processes, DDP and FSDP.

    Raises:
        UsageError: If this machine cannot compute in the recipe's precision, or the recipe does not go with FSDP.
    """
    if recipe.precision == "fp16" and not torch.cuda.is_available():
        raise UsageError(
            "precision fp16 needs a GPU: its small gradients vanish without a loss scaler.",
            "On a CPU use --set precision=fp32 (exact) or bf16.",
        )
    mixed = "no" if recipe.precision == "fp32" else recipe.precision
    # Each batch is of one task, so that in every step some parameters (other tasks' tokens, the whole connector on
    # text-only batches) are not used by any process.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=mixed, kwargs_handlers=[unused])
    if is_sharded(accelerator):
        _refuse_what_sharding_cannot(recipe, accelerator)
    return accelerator


def _refuse_what_sharding_cannot(recipe: Recipe, accelerator: Accelerator) -> None:
    problems = {
        "FSDP 1": (not accelerator.is_fsdp2, "Use version 2: accelerate launch --fsdp_version 2"),
        "validation.answers": (bool(recipe.validation.answers), "Set validation.answers=0; losses are watched."),
        "the feature cache": (bool(recipe.feature_cache_gb), "Set feature_cache_gb=0."),
        "a sparse router": (
            recipe.model.unimed.get("router_type") == "sparse",
            "Its experts depend on the tokens, and all processes must use the same ones: use DDP.",
        ),
    }
    for what, (is_there, hint) in problems.items():
        if is_there:
            raise UsageError(f"Training with FSDP does not go with {what}.", hint)


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether the weights are spread over processes."""
    return bool(accelerator.distributed_type == DistributedType.FSDP)


def frozen_dtype(recipe: Recipe, accelerator: Accelerator) -> torch.dtype:
    """Return the type of the frozen weights: that of computing, so that nothing is cast again.

    FSDP wants one type per block, so there the frozen weights are float32 like those that learn, and are cast when they
    are gathered.
    """
    return torch.float32 if is_sharded(accelerator) else DTYPES[recipe.precision]
