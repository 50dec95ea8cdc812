"""Low-rank adaptation of the language model's linear layers: LoRA, and the mixture of pairs that the paper compares.

Both are subclasses of `nn.Linear`, so that the frozen weight keeps its name: a base language model loads under its own
keys whatever is trained on top of it. The numbers equal those of PEFT 0.7, which the official code uses.
"""

import math

import torch
from torch import nn

from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.dropout import Dropout
from medbench.unimed.router import sparse_weights

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Every linear layer of a LLaMA block; the head is left out, as in the official code."""


class LowRankLinear(nn.Linear):
    """A linear layer with trainable additions to a frozen weight."""

    def reset_additions(self) -> None:
        """Draw the additions anew so that they add nothing yet."""
        raise NotImplementedError

    def additions(self) -> list[nn.Parameter]:
        """Return the trainable parameters."""
        return [parameter for name, parameter in self.named_parameters() if name not in {"weight", "bias"}]


class LoraLinear(LowRankLinear):
    """`x W^T + (alpha / r) dropout(x) A^T B^T`, with A [r, in] and B [out, r]."""

    def __init__(self, base: nn.Linear, config: UniMedConfig) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        rank, device = config.lora_rank, base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.empty(base.out_features, rank, device=device))
        self.scale = config.lora_alpha / rank
        self.dropout = Dropout(config.lora_dropout)
        self.reset_additions()

    def reset_additions(self) -> None:
        """Draw A as PyTorch draws a linear layer and set B to zero, as PEFT does."""
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name of nn.Linear
        """Return [..., out] for [..., in]."""
        lowered = nn.functional.linear(self.dropout(input).to(self.lora_A.dtype), self.lora_A)
        added = nn.functional.linear(lowered, self.lora_B) * self.scale
        base = super().forward(input)
        return base + added.to(base.dtype)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """Return a plain linear layer that computes the same; the sum is formed in float32."""
        plain = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        update = self.lora_B.float() @ self.lora_A.float() * self.scale
        plain.weight = nn.Parameter((self.weight.float() + update).to(self.weight.dtype), requires_grad=False)
        plain.bias = self.bias
        return plain


class LoraMoeLinear(LowRankLinear):
    """`x W^T + (alpha / r) sum_e w_e(x) dropout(x) A_e^T B_e^T` over the best k of N pairs (Eq. 15).

    The weights are a softmax over the k largest of `x G^T`. The authors' code has no LoRA-MoE; the paper gives rank 4,
    alpha 8, N 5 and top 2 on every linear layer, the rest follows their sparse router.
    """

    def __init__(self, base: nn.Linear, config: UniMedConfig) -> None:
        super().__init__(base.in_features, base.out_features, bias=base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        experts, rank, device = config.lora_experts, config.lora_rank, base.weight.device
        self.lora_A = nn.Parameter(torch.empty(experts, rank, base.in_features, device=device))
        self.lora_B = nn.Parameter(torch.empty(experts, base.out_features, rank, device=device))
        self.lora_gate = nn.Parameter(torch.empty(experts, base.in_features, device=device))
        self.top_k, self.scale = config.lora_top_k, config.lora_alpha / rank
        self.dropout = Dropout(config.lora_dropout)
        self.reset_additions()

    def reset_additions(self) -> None:
        """Draw the gate and every A as PyTorch draws a linear layer, and set every B to zero."""
        for pair in self.lora_A:
            nn.init.kaiming_uniform_(pair, a=math.sqrt(5))
        nn.init.kaiming_uniform_(self.lora_gate, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B)

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name of nn.Linear
        """Return [..., out] for [..., in]."""
        seen = input.to(self.lora_A.dtype)
        weights = self.pair_weights(seen)
        lowered = torch.einsum("...i,eri->...er", self.dropout(seen), self.lora_A)
        added = torch.einsum("...er,eor->...o", lowered * weights.unsqueeze(-1), self.lora_B) * self.scale
        base = super().forward(input)
        return base + added.to(base.dtype)

    def pair_weights(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the pairs' weights [..., N] for tokens [..., in]: `top_k` of them positive, the others zero."""
        return sparse_weights(nn.functional.linear(tokens, self.lora_gate), self.top_k)


def add_low_rank(model: nn.Module, config: UniMedConfig) -> None:
    """Replace every linear layer of the blocks of `model` in place; the base weights stay the same objects."""
    kind = LoraLinear if config.language_tuning == "lora" else LoraMoeLinear
    for parent in list(model.modules()):
        for name in ADAPTED:
            base = getattr(parent, name, None)
            if isinstance(base, nn.Linear):
                setattr(parent, name, kind(base, config))


def merge_low_rank(model: nn.Module) -> None:
    """Fold every LoRA pair into its frozen weight in place; the model computes the same with fewer steps.

    Raises:
        ValueError: If there are mixtures of pairs: their weights depend on the input, so there is nothing to fold.
    """
    for parent in list(model.modules()):
        for name in ADAPTED:
            layer = getattr(parent, name, None)
            if isinstance(layer, LoraMoeLinear):
                raise ValueError("A LoRA-MoE layer cannot be merged: which pairs it uses depends on the token.")  # noqa: TRY004
            if isinstance(layer, LoraLinear):
                setattr(parent, name, layer.merged())
