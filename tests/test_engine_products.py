"""What the engine does for speed on a CPU: oneDNN's products, packed weights, attention as memory delivers it."""

from pathlib import Path
from typing import cast

import pytest
import torch
from engine_helpers import Small, answer, generate_alone, make_requests
from safetensors.torch import load_file
from torch import nn

from medbench.harness.engine import vllm
from medbench.harness.engine.attention import attend_plainly
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.packing import AttentionSettings
from medbench.harness.engine.products import OneDnnLinear, is_onednn_here, pack_weights, use_onednn
from medbench.harness.engine.slots import CHUNK, DecodeBlock
from medbench.harness.engine.streaming import attend_streaming, can_stream

needs_onednn = pytest.mark.skipif(not is_onednn_here(), reason="products stay as they are on this processor")
ROOMY = Budget(rows=16, tokens=4096)


class Holder:
    """Holds a module, as an adapter does."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
def test_packed_weights_are_the_same_weights(bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 160, bias=bias)
    plain = nn.Linear(96, 160, bias=bias)
    plain.load_state_dict(layer.state_dict())
    use_onednn(Holder(layer))
    assert type(layer) is OneDnnLinear
    pack_weights(layer)
    assert layer.weight.is_mkldnn
    assert torch.equal(layer.weight.to_dense(), plain.weight)
    with torch.inference_mode():
        for rows in (0, 1, 7, 33, 600):
            states = torch.randn(1, rows, 96)
            torch.testing.assert_close(layer(states), plain(states))


@needs_onednn
def test_what_others_read_stays_plain() -> None:
    class Head(nn.Linear):
        """A class of somebody else's."""

    table = nn.Embedding(8, 16)
    tied, own, low = nn.Linear(16, 8, bias=False), nn.Linear(16, 8), nn.Linear(16, 8, dtype=torch.bfloat16)
    replaced = nn.Linear(16, 8)
    vars(replaced)["forward"] = torch.relu
    tied.weight = table.weight
    modules = nn.ModuleList([table, tied, own, low, replaced, Head(16, 8)])
    use_onednn(Holder(modules))
    pack_weights(modules)
    assert [type(module) for module in modules] == [
        nn.Embedding, OneDnnLinear, OneDnnLinear, nn.Linear, nn.Linear, Head,
    ]  # fmt: skip
    assert [module for module in modules if module.weight.is_mkldnn] == [own]
    assert tied.weight is table.weight


@needs_onednn
def test_what_peft_wraps_stays_plain() -> None:
    wrapped = nn.ModuleDict({"base_layer": nn.Linear(8, 8), "other": nn.Linear(8, 8)})
    use_onednn(Holder(wrapped))
    pack_weights(wrapped)
    assert [name for name, layer in wrapped.items() if cast("nn.Linear", layer).weight.is_mkldnn] == ["other"]


@needs_onednn
def test_compiled_layers_keep_their_weights() -> None:
    layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    layers[0].compile(backend="eager")
    use_onednn(Holder(layers))
    pack_weights(layers)
    assert not any(layer.weight.is_mkldnn for layer in layers)


@needs_onednn
def test_a_packed_decoder_writes_what_it_wrote_before(picture_folder: Path, tmp_path: Path) -> None:
    """The engine, the library's own `generate`, and what vLLM is given."""
    adapter, untouched = Small(), Small()
    requests = make_requests(picture_folder, 12, seed=2)
    alone = {request.sample.sample_id: generate_alone(untouched, request) for request in requests}
    outcomes = answer(adapter, requests, ROOMY)
    layers = [module for module in adapter.decoder.modules() if isinstance(module, OneDnnLinear)]
    assert layers
    assert all(layer.weight.is_mkldnn for layer in layers)
    assert {name: one.generation.text for name, one in outcomes.items() if one.generation} == alone
    assert {request.sample.sample_id: generate_alone(adapter, request) for request in requests} == alone
    vllm._write(adapter.decoder, tmp_path)  # what vLLM reads
    written = load_file(tmp_path / "model.safetensors")
    plain = vllm.published(untouched.decoder)
    assert written.keys() == plain.keys()
    assert all(torch.equal(written[name], plain[name]) for name in plain)


@needs_onednn
def test_a_model_that_others_have_too_stays_as_it_is(picture_folder: Path) -> None:
    """One in training, or in a notebook, is trained on, copied and looked at when it has answered."""
    adapter = Small()
    adapter.exclusive = False
    before = dict(adapter.decoder.named_parameters())
    answer(adapter, make_requests(picture_folder, 4, seed=2), ROOMY)
    assert not any(isinstance(module, OneDnnLinear) for module in adapter.decoder.modules())
    assert all(own is before[name] for name, own in adapter.decoder.named_parameters())


@needs_onednn
def test_gradients_and_other_types_are_pytorchs() -> None:
    torch.manual_seed(0)
    layer, plain, states = nn.Linear(16, 8), nn.Linear(16, 8), torch.randn(3, 16)
    plain.load_state_dict(layer.state_dict())
    use_onednn(Holder(layer))
    layer(states).square().sum().backward()
    plain(states).square().sum().backward()
    assert layer.weight.grad is not None
    assert plain.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, plain.weight.grad)
    pack_weights(layer)
    inputs = torch.randn(3, 16, requires_grad=True)
    layer(inputs).sum().backward()
    assert inputs.grad is not None
    torch.testing.assert_close(inputs.grad, plain.weight.sum(dim=0).expand(3, -1))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(states.bfloat16()).dtype == torch.bfloat16


def test_a_library_keeps_its_layers(picture_folder: Path) -> None:
    adapter = Small()
    answer(adapter, make_requests(picture_folder, 3, seed=2), ROOMY, library=True)
    assert not any(isinstance(module, OneDnnLinear) for module in adapter.decoder.modules())


@pytest.mark.parametrize("window", [None, 20])
def test_streaming_reads_what_the_definition_says(window: int | None) -> None:
    torch.manual_seed(0)
    settings = AttentionSettings(scale=0.3, softcap=None, window=window)
    keys, values = torch.randn(6, 4, CHUNK, 16), torch.randn(6, 4, CHUNK, 16)
    places = torch.tensor([CHUNK + 40, CHUNK + 3, CHUNK + 11])
    block = DecodeBlock(rows=slice(2, 5), chunk=1, reach=41, places=places)
    queries = torch.randn(3, 4, 16)
    assert can_stream(queries, values)
    assert not can_stream(torch.randn(3, 8, 16), values)
    mask = block.mask(window)
    assert mask is not None
    own_keys, own_values = (store[2:5, :, :41] for store in (keys, values))
    out, sums = attend_streaming(queries * settings.scale, own_keys, values, block.lines(4), mask)
    wanted, wanted_sums = attend_plainly(queries[:, :, None], own_keys, own_values, settings, mask[:, None])
    torch.testing.assert_close(out, wanted[:, :, 0])
    torch.testing.assert_close(sums, wanted_sums[:, :, 0])
