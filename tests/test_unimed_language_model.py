"""What training does without: masks that cost much, and hidden states that nobody reads."""

import pytest
import torch
from tiny_model import small

from medbench.unimed.lora import Dropout, keep_mask


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_every_place_is_dropped_equally_often(rate: float) -> None:
    torch.manual_seed(1)
    masks = keep_mask(torch.Size([20_000, 7]), round(rate * 65536))
    assert set(masks.flatten().tolist()) == {0.0, masks.max().item()}
    deviation = (rate * (1 - rate) / 20_000) ** 0.5
    assert ((masks == 0).float().mean(dim=0) - rate).abs().max() < 5 * deviation
    assert masks.mean() == pytest.approx(1, abs=5 * deviation / (1 - rate) / 7**0.5)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(2)
    dropped = (keep_mask(torch.Size([40_000, 4]), 1 << 15) == 0).float()
    assert (torch.corrcoef(dropped.T) - torch.eye(4)).abs().max() < 5 / 40_000**0.5


def test_a_seed_repeats_a_mask_and_gradients_pass_where_values_do() -> None:
    values = torch.ones(3, 5, requires_grad=True)
    layer = Dropout(0.5)
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        outputs.append(layer(values))
    outputs[0].sum().backward()
    assert torch.equal(outputs[0], outputs[1])
    assert values.grad is not None
    assert torch.equal(values.grad, outputs[0])
    assert 0 < int(outputs[0].count_nonzero()) < values.numel()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edges_are_those_of_pytorch(dtype: torch.dtype) -> None:
    values = torch.ones(3, dtype=dtype)
    assert Dropout(0.0)(values) is values
    assert Dropout(0.5).eval()(values) is values
    assert torch.equal(Dropout(1.0)(values), torch.zeros(3, dtype=dtype))
    assert Dropout(0.5)(values).dtype == dtype


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_is_read_has_the_values_and_gradients_of_the_whole(checkpointing: bool) -> None:
    model = small(language_tuning="lora", lora_dropout=0.0)[0].language_model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    embeddings = torch.randn(2, 6, 32, requires_grad=True)
    attention_mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    read = torch.tensor([[0, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 0]], dtype=torch.bool)
    parts = model.hidden_where(embeddings, attention_mask, read)
    whole = model.model(inputs_embeds=embeddings, attention_mask=attention_mask).last_hidden_state[read]
    torch.testing.assert_close(parts, whole)
    (of_parts,) = torch.autograd.grad(parts.square().sum(), embeddings)
    (of_whole,) = torch.autograd.grad(whole.square().sum(), embeddings)
    torch.testing.assert_close(of_parts, of_whole)


def test_the_last_mlp_sees_what_is_read_and_nothing_else() -> None:
    model = small()[0].language_model
    rows: list[list[int]] = []
    for block in model.model.layers:
        block.mlp.register_forward_pre_hook(lambda _, inputs: rows.append(list(inputs[0].shape)))
    read = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 1]], dtype=torch.bool)
    model.hidden_where(torch.randn(2, 4, 32), None, read)
    assert rows == [[2, 4, 32], [3, 32]]
