"""A decoder that reads images by cross-attention: what a row reads stays with the row, whatever the schedule."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from engine_helpers import END, VOCABULARY, WIDTH, Small, answer, make_requests, texts
from transformers import LlamaConfig, LlamaForCausalLM

from medbench.adapters.base import ImageSlot, Prompt, RowStates
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.requests import Request
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.tasks.spec import Kind

SEEN_TOKENS = 4


class Looking(torch.nn.Module):
    """A decoder's layer that first looks at what its row reads: keys and values [M, D] of any number of images."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.query = torch.nn.Linear(WIDTH, WIDTH, bias=False)

    def forward(self, hidden: torch.Tensor, row_states: RowStates, **others: Any) -> torch.Tensor:
        seen = torch.zeros_like(hidden)
        tokens = self.query(hidden)
        for row, state in enumerate(row_states.states):
            keys, values = cast("tuple[torch.Tensor, torch.Tensor]", state)
            own: Any = row if row_states.rows is None else (0, torch.from_numpy(row_states.rows == row))
            if len(keys):
                seen[own] = (tokens[own] @ keys.T).softmax(dim=-1) @ values
        return cast("torch.Tensor", self.layer(hidden + seen, **others))


class LookingLlama(LlamaForCausalLM):  # type: ignore[no-untyped-call]
    def forward(self, row_states: RowStates | None = None, **inputs: Any) -> Any:  # noqa: ANN401 - as its base
        return super().forward(row_states=row_states, **inputs)


class CrossAttending(Small):
    """Prompts without visual tokens; pictures are read in two layers of three."""

    has_row_states = True

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            initializer_range=0.4, max_position_embeddings=512, eos_token_id=END, bos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(6)
        decoder = LookingLlama(config)
        decoder.config._attn_implementation = "sdpa"
        for place in (0, 2):
            decoder.model.layers[place] = Looking(decoder.model.layers[place])
        decoder.train(mode=False)
        self.decoder = decoder
        self._values = torch.randn(3, SEEN_TOKENS, WIDTH)

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        raise AssertionError(f"no prompt has visual tokens, but {len(features)} of a {kind} were asked for")

    def row_state(self, features: Sequence[torch.Tensor], prompt: Prompt, kind: Kind) -> object:
        assert len(features) == len(prompt.images())
        seen = [torch.einsum("c,cmd->md", one, self._values) * (1 + len(kind)) for one in features]
        keys = torch.cat([torch.zeros(0, WIDTH), *seen])
        return keys, keys * 2


@pytest.fixture(scope="module")
def adapter() -> CrossAttending:
    return CrossAttending()


def requests_of(folder: Path, seed: int) -> Any:  # noqa: ANN401 - requests
    return [_looking(one) for one in make_requests(folder, 20, seed)]


def _looking(request: Request) -> Request:
    """Return a request whose images take no place in the prompt."""
    segments = [
        replace(segment, tokens=0) if isinstance(segment, ImageSlot) else segment for segment in request.prompt.segments
    ]
    prompt = Prompt(segments=tuple(segments))
    return replace(request, prompt=prompt, length=prompt.length)


@pytest.mark.parametrize("continuous", [True, False])
@pytest.mark.parametrize("rows", [3, 16])
def test_rows_keep_what_they_look_at(
    adapter: CrossAttending, picture_folder: Path, rows: int, continuous: bool
) -> None:
    requests = requests_of(picture_folder, seed=13)
    alone = {one.sample.sample_id: generate_alone(adapter, one).text for one in requests}
    phases = Phases()
    found = texts(answer(adapter, requests, Budget(rows=rows, tokens=4096), phases, continuous=continuous))
    assert found == alone
    assert len(set(alone.values())) > 12
    assert phases.counts["images encoded"] == 4
    assert phases.counts["prompt tokens shared"] == 0


def test_beams_of_a_row_look_at_the_same(adapter: CrossAttending, picture_folder: Path) -> None:
    requests = [
        replace(one, decoding=replace(one.decoding, beams=2, max_new_tokens=6))
        for one in requests_of(picture_folder, seed=14)
    ]
    together = texts(answer(adapter, requests, Budget(rows=16, tokens=4096)))
    alone: dict[str, str] = {}
    for one in requests:
        alone |= texts(answer(adapter, [one], Budget(rows=1, tokens=1)))
    assert together == alone


def test_an_adapter_that_forgets_its_states_is_told(picture_folder: Path) -> None:
    forgetful = Small()
    forgetful.has_row_states = True
    with pytest.raises(NotImplementedError, match="Small says that it has row states"):
        answer(forgetful, make_requests(picture_folder, 2, seed=1), Budget(rows=4, tokens=4096))
