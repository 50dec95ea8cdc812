"""Low-rank adaptation of the language model: peft's LoRA, by its names and in its format, and the paper's LoRA-MoE."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from safetensors.torch import save_file
from torch import nn

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import canonical_json, read_json
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.connector import sparse_weights
from medbench.unimed.weights import LIBRARY_FAULTS, read_tensors

if TYPE_CHECKING:
    from peft import LoraConfig

T = TypeVar("T")
# Every linear layer of a LLaMA block; the head is left out, as in the official code.
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"
_NAME, _LANGUAGE, _PEFT_PREFIX = "default", "language_model.", "base_model.model."
# Fields of a peft configuration that say how a LoRA is computed, all of which peft sees to.
_COMPUTED = ("r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern",
             "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "fan_in_fan_out")  # fmt: skip
_TOLD = ("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
         "lora_dropout", "inference_mode", "init_lora_weights", "megatron_core", "qalora_group_size", "runtime_config",
         "eva_config")  # fmt: skip
_PLAIN_STARTS = (True, False, "gaussian", "orthogonal", "eva")  # They leave the frozen weights alone.
AGAIN = "Copy the adapter again, whole."
MERGE = "Merge it into its base where it was trained (`merge_and_unload()` of peft), and give what that writes."
_LEVELS = 1 << 16


class Dropout(nn.Dropout):
    """`nn.Dropout`, with the mask of a CPU cut from 64-bit random numbers: sixteen bits for each value.

    Drawing PyTorch's masks was an eighth of a training step at mini size. The rate is rounded to a multiple of 1/65536;
    the expectation stays exact. A seed repeats the masks. On a GPU it is `nn.Dropout`, which draws inside the kernel.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name of nn.Dropout
        """Return the input with values dropped while training, of the same shape."""
        levels = round(self.p * _LEVELS)
        if not self.training or levels == 0:
            return input
        if input.device.type != "cpu" or levels == _LEVELS:
            return super().forward(input)
        return input * keep_mask(input.shape, levels).to(input.dtype)


def keep_mask(shape: torch.Size, levels: int) -> torch.Tensor:
    """Return a float32 mask: zero with probability `levels / 65536`, else the inverse of the share that is kept."""
    numbers = torch.empty(-(-shape.numel() // 4), dtype=torch.int64).random_(-(1 << 63), None)
    draws = numbers.view(torch.int16)[: shape.numel()].view(shape).float()
    # Integers: the `levels` lowest become zero or less, all others one or more. Comparing is three times slower.
    return (draws - (levels - _LEVELS // 2 - 1)).clamp_(0, 1).mul_(_LEVELS / (_LEVELS - levels))


class LoraMoeLinear(nn.Linear):
    """`x W^T + (alpha / r) sum_e w_e(x) dropout(x) A_e^T B_e^T` over the best k of N pairs (Eq. 15).

    The weights are a softmax over the k largest of `x G^T`, as in the authors' sparse router; their code has no
    LoRA-MoE, nor has peft. The paper gives rank 4, alpha 8, N 5 and top 2. The frozen weight keeps its name.
    """

    def __init__(self, base: nn.Linear, config: UniMedConfig) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        experts, rank, device = config.lora_experts, config.lora_rank, base.weight.device
        self.lora_A = nn.Parameter(torch.empty(experts, rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(experts, base.out_features, rank, device=device))
        self.lora_gate = nn.Parameter(torch.empty(experts, base.in_features, device=device))
        self.top_k, self.scale = config.lora_top_k, config.lora_alpha / rank
        self.dropout = Dropout(config.lora_dropout)
        for drawn in (*self.lora_A, self.lora_gate):
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5))

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name of nn.Linear
        """Return [..., out] for [..., in]."""
        seen = input.to(self.lora_A.dtype)
        weights = self.pair_weights(seen)
        lowered = torch.einsum("...i,eri->...er", self.dropout(seen), self.lora_A)
        added = torch.einsum("...er,eor->...o", lowered * weights.unsqueeze(-1), self.lora_B) * self.scale
        # The frozen layer last: the order of operations is the order in which gradients are summed.
        base = super().forward(input)
        return base + added.to(base.dtype)

    def pair_weights(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the pairs' weights [..., N] for tokens [..., in]: `top_k` of them positive, the others zero."""
        return sparse_weights(nn.functional.linear(tokens, self.lora_gate), self.top_k)


def lora_config(config: UniMedConfig) -> "LoraConfig":
    """Return peft's configuration of a plain LoRA."""
    from peft import LoraConfig

    return LoraConfig(
        r=config.lora_rank, lora_alpha=cast("int", config.lora_alpha), lora_dropout=config.lora_dropout,
        target_modules=list(ADAPTED), task_type="CAUSAL_LM",
    )  # fmt: skip


def add_low_rank(model: nn.Module, config: UniMedConfig, adapter: "LoraConfig | None" = None) -> None:
    """Adapt the linear layers of the blocks of a LLaMA alone in place; the base weights stay the same objects.

    `adapter` is another LoRA than the configuration's; DataError if it names layers that are not there, or cannot be.
    """
    if config.language_tuning == "lora_moe":
        for parent in list(model.modules()):
            for name, base in list(parent.named_children()):
                if name in ADAPTED and isinstance(base, nn.Linear):
                    setattr(parent, name, LoraMoeLinear(base, config))
        return
    from peft import inject_adapter_in_model

    # peft draws every pair twice. Drawn anew once, in float32, a seed gives the weights that it always gave.
    state = torch.get_rng_state()
    try:
        inject_adapter_in_model(adapter or lora_config(config), model)
    except ValueError as error:
        raise DataError(f"The adapter does not fit the language model: {error}", "Give one of this model.") from error
    torch.set_rng_state(state)
    for _, _, layer in lora_layers(model):
        _to_float32(layer)
        nn.init.kaiming_uniform_(layer.lora_A[_NAME].weight, a=math.sqrt(5))
        nn.init.zeros_(layer.lora_B[_NAME].weight)
        layer.lora_dropout[_NAME] = Dropout(config.lora_dropout)


def lora_layers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    """Yield every layer of peft with the module that holds it and its name there."""
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if hasattr(layer, "base_layer"):
                yield parent, name, layer


def _to_float32(layer: Any) -> None:  # noqa: ANN401 - a layer of peft
    for part in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
        part.float()


def merge_low_rank(model: nn.Module) -> None:
    """Fold every LoRA into its frozen weight in place; ValueError if a mixture of pairs depends on its input."""
    if any(isinstance(layer, LoraMoeLinear) for layer in model.modules()):
        raise ValueError("A LoRA-MoE layer cannot be merged: which pairs it uses depends on the token.")
    for parent, name, layer in lora_layers(model):
        _to_float32(layer)
        layer.merge()
        setattr(parent, name, layer.get_base_layer())
    model.__dict__.pop("peft_config", None)


def is_plain(model: nn.Module, config: UniMedConfig) -> bool:
    """Return whether a model's LoRA is the one that its configuration describes: on all layers, of one rank."""
    adapter, plain = model.peft_config[_NAME], lora_config(config)  # type: ignore[index]  # peft's
    return all(getattr(adapter, name) == getattr(plain, name) for name in _COMPUTED)


# Patterns of the names that older versions gave to the weights of a layer with LoRA, and today's.
OLD_NAMES = {
    r"^(language_model\.model\.layers\..*_proj)\.(?=weight$|bias$)": r"\1.base_layer.",
    r"^(language_model\.model\.layers\..*\.lora_[AB])$": r"\1.default.weight",
}


def current_names(tensors: Mapping[str, T], config: UniMedConfig) -> dict[str, T]:
    """Return what is kept by the names of weights under today's, which are peft's; older versions had names of ours."""
    named = dict(tensors)
    for pattern, replacement in OLD_NAMES.items() if config.language_tuning == "lora" else ():
        named = {re.sub(pattern, replacement, name): tensor for name, tensor in named.items()}
    return named


def name_on_hub(base: str) -> str:
    """Return the name of a model whose folder is in the Hub's cache (`models--OWNER--NAME`); else what is given."""
    cached = [part for part in Path(base).parts if part.startswith("models--")]
    return cached[-1].removeprefix("models--").replace("--", "/", 1) if cached else base


def write_adapter(model: nn.Module, trained: Mapping[str, torch.Tensor], folder: Path, base: str) -> set[str]:
    """Write a LoRA (`trained` by the whole model's names, on a `base`) in peft's format; return the names in it."""
    adapter: LoraConfig = model.peft_config[_NAME]  # type: ignore[index, assignment]  # peft's
    told = replace(adapter, base_model_name_or_path=name_on_hub(base), inference_mode=True).to_dict()
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in told.items()}
    (folder / ADAPTER_CONFIG).write_text(canonical_json(plain, indent=2) + "\n", encoding="utf-8")
    # The adapter's own name stands in the model, but not in its file; of a magnitude (DoRA) neither does `weight`.
    names = {name: name.replace(f".{_NAME}.", ".") for name in sorted(trained) if ".lora_" in name}
    names = {name: inner.replace("magnitude_vector.weight", "magnitude_vector") for name, inner in names.items()}
    tensors = {_PEFT_PREFIX + inner.removeprefix(_LANGUAGE): trained[name] for name, inner in names.items()}
    save_file(tensors, folder / ADAPTER, metadata={"format": "pt"})
    return set(names)


def peft_lora(folder: Path) -> "LoraConfig":
    """Return the configuration of a LoRA in peft's format; nothing in the folder is run.

    DataError if it is unreadable; UsageError for another adapter, or one whose start changes the frozen weights.
    """
    from peft import PeftConfig

    values = read_json(folder / ADAPTER_CONFIG)
    kind = values.get("peft_type") if isinstance(values, dict) else None
    if kind != "LORA":
        raise UsageError(f"{folder} holds no LoRA, but {kind or 'nothing that peft knows'}.", MERGE)
    try:
        adapter = cast("LoraConfig", PeftConfig.from_pretrained(str(folder)))
    except LIBRARY_FAULTS as error:
        raise DataError(f"{folder / ADAPTER_CONFIG} cannot be used: {error}", AGAIN) from error
    if adapter.init_lora_weights not in _PLAIN_STARTS:
        start = f"begins with {adapter.init_lora_weights!r}, which changes the frozen weights too"
        raise UsageError(f"The LoRA in {folder} {start}.", MERGE)
    return adapter


def adapter_file(folder: Path) -> Path:
    """Return where the weights of a LoRA lie, by peft's name for them or its older one."""
    older = (folder / ADAPTER).with_suffix(".bin")
    return older if older.is_file() and not (folder / ADAPTER).is_file() else folder / ADAPTER


def read_adapter_config(folder: Path) -> "LoraConfig":
    """Return a LoRA's configuration; raises as `peft_lora`, and if it changes more than linear layers."""
    from peft import LoraConfig

    adapter, plain = peft_lora(folder), LoraConfig()
    other = [name for name, value in adapter.to_dict().items()
             if name not in (*_COMPUTED, *_TOLD) and value != getattr(plain, name)]  # fmt: skip
    if other:
        problem = f"The adapter in {folder} has what Uni-Med does not take: {', '.join(other)}."
        raise UsageError(problem, f"Give a LoRA on linear layers alone. {MERGE}")
    return replace(adapter, init_lora_weights=True, inference_mode=False)


def read_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a LoRA in peft's format by the names of the whole model; DataError if unreadable."""
    tensors = {}
    for name, tensor in read_tensors(adapter_file(folder), AGAIN).items():
        inner = re.sub(r"magnitude_vector$", "magnitude_vector.weight", name.removeprefix(_PEFT_PREFIX))
        tensors[_LANGUAGE + re.sub(r"(\.lora_\w+)\.", rf"\1.{_NAME}.", inner)] = tensor
    return tensors
