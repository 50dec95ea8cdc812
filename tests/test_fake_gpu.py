"""Every adapter's vision, connector and passes run on a GPU that is not there: one device, and no value read."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import llava_med_fixtures
import med_flamingo_fixtures
import pytest
import radfm_fixtures
import tiny_vlms
import torch
import xraygpt_fixtures
from engine_helpers import Small, prefix_of
from fake_cuda import GPU, Rehearsal, on_fake_gpu
from PIL import Image
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from medbench.adapters.base import ImageSlot, LoadOptions, LocalAdapter, Prompt, TextSegment
from medbench.adapters.catalog import choose_model
from medbench.harness.engine.budget import Budget, text_config
from medbench.harness.engine.packing import NewTokens
from medbench.harness.engine.pages import Kernel, KVPages
from medbench.harness.engine.passes import Passes
from medbench.harness.engine.requests import Layout, make_request
from medbench.harness.probing.reading import StateReader, _Seen
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def by_name(model: str) -> LocalAdapter:
    chosen = choose_model(model, {})
    adapter = chosen.entry.load(LoadOptions(variant=chosen.variant, arguments=chosen.arguments, device="cpu"))
    assert isinstance(adapter, LocalAdapter)
    return adapter


MODELS: dict[str, Callable[[Path], LocalAdapter]] = {
    "uni-med": lambda _: by_name("uni-med"),
    "llava-med": lambda folder: llava_med_fixtures.load(llava_med_fixtures.make_v15(folder / "v15")),
    "xraygpt": lambda folder: xraygpt_fixtures.load(xraygpt_fixtures.make_four_files(folder / "four")),
    "radfm": lambda folder: radfm_fixtures.load(radfm_fixtures.write_checkpoint(folder / "radfm")),
    "med-flamingo": lambda folder: med_flamingo_fixtures.load(
        med_flamingo_fixtures.write_checkpoint(folder / "flamingo")
    ),
    **{
        name: lambda folder, make=make, name=name: by_name(f"hf:{make(folder / name)}")  # type: ignore[misc]
        for name, make in tiny_vlms.FAMILIES.items()
        if name not in tiny_vlms.WHOLE
    },
}


# Families whose vision, in transformers itself, reads values of the device: sizes of grids, places of padding. It costs
# a wait for every batch of images, and is not ours to change.
READ_BY_TRANSFORMERS = frozenset({"llava_next", "glm4v", "qwen2_vl", "qwen2_5_vl", "idefics2", "idefics3"})


def modules_of(owner: object, depth: int = 0) -> Iterator[torch.nn.Module]:
    """Yield the modules that an adapter holds, itself or in parts of its own."""
    for value in vars(owner).values():
        if isinstance(value, torch.nn.Module):
            yield value
        elif depth < 2 and type(value).__module__.startswith("medbench") and hasattr(value, "__dict__"):
            yield from modules_of(value, depth + 1)


@contextmanager
def everything_on_gpu(adapter: LocalAdapter) -> Iterator[tuple[Callable[[Any], Any], Rehearsal]]:
    modules = {id(module): module for module in modules_of(adapter)}
    with on_fake_gpu(*modules.values()) as (fake, rehearsal):
        adapter.device = "cuda:0"
        yield fake, rehearsal


def rehearse(adapter: LocalAdapter) -> tuple[list[torch.Tensor], int, int]:
    """Return features, visual tokens and embedded words, and how often the host waits for pixels, and for the rest."""
    pixels = [adapter.pixels(Image.new("RGB", size, "grey")) for size in ((90, 60), (64, 64))]
    with everything_on_gpu(adapter) as (fake, rehearsal):
        features = adapter.encode_images([fake(one) for one in pixels])
        uploads = rehearsal.waits.total()
        visual = [] if adapter.has_row_states else adapter.project(features, "vqa")
        written = adapter.embed_tokens(torch.tensor([1, 2, 3]))
        return [*features, *visual, written], uploads, rehearsal.waits.total() - uploads


@pytest.mark.parametrize("name", [name for name in MODELS if name not in READ_BY_TRANSFORMERS])
def test_vision_reads_no_value_and_stays_on_its_device(name: str, tmp_path: Path) -> None:
    found, uploads, others = rehearse(MODELS[name](tmp_path))
    assert {one.device.type for one in found} == {"cuda"}
    # Pixels of two images come in one copy or in one each; the number of the task may come once, and words do.
    assert uploads <= 2
    assert others <= 2


@pytest.mark.parametrize("name", sorted(READ_BY_TRANSFORMERS))
def test_some_families_wait_inside_transformers(name: str, tmp_path: Path) -> None:
    adapter = MODELS[name](tmp_path)
    with pytest.raises((DataDependentOutputException, DynamicOutputShapeException, NotImplementedError)) as raised:
        rehearse(adapter)
    assert any("transformers" in str(entry.path) for entry in raised.traceback)


# Two are read whole, by their library, and one sorts a batch's tokens by what they see on the host.
@pytest.mark.parametrize("name", sorted(MODELS.keys() - READ_BY_TRANSFORMERS - {"gemma3", "paligemma", "med-flamingo"}))
def test_states_that_are_probed_stay_on_their_device(name: str, small_data: Path, tmp_path: Path) -> None:
    adapter, prepared = MODELS[name](tmp_path), load_prepared(small_data, "slake-vqa")
    reader = StateReader(adapter, prepared)
    sample = prepared.samples("test")[0]
    request = make_request(adapter, sample, prepared.spec, prepared.source)
    pixels = [adapter.pixels(image) for image in prepared.images(sample)]
    with everything_on_gpu(adapter) as (fake, _), torch.no_grad():
        [(vectors, visual)] = reader._encoded([fake(one) for one in pixels])
        reader._seen = {key: _Seen(digest="", vectors=vectors, visual=visual) for key in request.images}
        [states] = reader._decode([request])
    assert {one.device.type for one in (*vectors.values(), *states.values())} == {"cuda"}
    assert {one.dim() for one in (*vectors.values(), *states.values())} == {1}


# Passes of decoders over pages


def grid_of(adapter: LocalAdapter) -> Layout:
    """Return a layout of twelve tokens in which four are of an image, as a model's attention has them."""
    grids = ((2, (1, 2, 2)),) if "qwen2" in type(adapter.decoder).__module__ else ()
    return Layout(grids=grids, mutual={"causal": (), "images": ((2, 6),), "prompt": ((0, 12),)}[adapter.attention])


@pytest.mark.parametrize("kernel", [varlen_attn, None], ids=["kernel", "definition"])
@pytest.mark.parametrize("name", MODELS)
def test_passes_wait_for_nothing(name: str, kernel: Kernel | None, tmp_path: Path) -> None:
    """Whatever a GPU needs to know of a pass goes to it in copies that nobody waits for; logits stay on it."""
    adapter = MODELS[name](tmp_path)
    pixels = adapter.pixels(Image.new("RGB", (64, 64), "grey"))
    decoder, width = adapter.decoder, text_config(adapter.decoder).hidden_size
    with everything_on_gpu(adapter) as (fake, rehearsal):
        states = None
        if adapter.has_row_states:
            [features] = adapter.encode_images([fake(pixels)])
            prompt = Prompt(segments=(ImageSlot(image=ImageRef(path="a.png"), tokens=0), TextSegment(ids=(1,) * 12)))
            states = [adapter.row_state([features], prompt, "vqa")] * 2
        passes = Passes(decoder, KVPages(Budget(rows=2, tokens=2048), GPU, torch.float32, kernel=kernel))
        prefix = None if adapter.has_row_states else replace(prefix_of(12), layout=grid_of(adapter))
        parts = [NewTokens(slot=slot, place=0, length=5 + slot, prefix=prefix) for slot in range(2)]
        embedded = [torch.zeros(length, width, device=GPU) for length in (5, 6, 12)]
        rehearsal.clear()
        begun = [(prefix, embedded[2])] if prefix else []
        first = passes.run([], [], list(zip(parts, embedded, strict=False)), begun, states)
        steps = [NewTokens(slot=part.slot, place=part.length, length=1, prefix=prefix) for part in parts]
        then = passes.run([3, 4], steps, [], [], states)
    assert first.device.type == then.device.type == "cuda"
    assert first.shape == then.shape == (2, first.shape[1])
    assert rehearsal.waits == {}


def one_call(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any
) -> tuple[torch.Tensor, None]:
    """Attention as transformers calls a fused kernel: the heads of keys repeated, one operation, one copy."""
    del key, value, module
    return torch.empty_like(query).transpose(1, 2).contiguous(), None


def operations_of_library(decoder: PreTrainedModel, rows: int) -> int:
    """Return how many operations a step of `generate` needs, with a cache and a fused kernel."""
    AttentionInterface.register("one_call", one_call)
    decoder.config._attn_implementation = "one_call"
    with on_fake_gpu(decoder) as (_, rehearsal):
        ids, model = torch.ones(rows, 20, dtype=torch.long, device=GPU), cast("Any", decoder)
        cache = DynamicCache(config=decoder.config)
        model(input_ids=ids, past_key_values=cache, use_cache=True)
        rehearsal.clear()
        model(input_ids=ids[:, :1], position_ids=ids[:, :1], past_key_values=cache, use_cache=True)
    return rehearsal.operations.total()


def operations_of_pages(decoder: PreTrainedModel, rows: int, images: int) -> int:
    """Return how many operations a pass over rows needs that share the prefixes of images."""
    with on_fake_gpu(decoder) as (_, rehearsal):
        passes = Passes(decoder, KVPages(Budget(rows=rows, tokens=1 << 18), GPU, torch.bfloat16, kernel=varlen_attn))
        held = [prefix_of(40) for _ in range(images)]
        own, shared = (torch.zeros(length, 64, device=GPU, dtype=torch.bfloat16) for length in (9, 40))
        parts = [
            NewTokens(slot=slot, place=0, length=9, prefix=held[slot % images] if images else None)
            for slot in range(rows)
        ]
        passes.run([], [], [(part, own) for part in parts], [(one, shared) for one in held])
        rehearsal.clear()
        passes.run([5] * rows, [replace(part, place=9, length=1) for part in parts], [], [])
    return rehearsal.operations.total()


def test_a_step_needs_hardly_more_operations_than_the_library() -> None:
    """However many rows, and however many images they share: launches are what a small step on a GPU costs."""

    def decoder() -> PreTrainedModel:
        made = Small("llama", num_hidden_layers=8, hidden_size=64).decoder
        return cast("PreTrainedModel", cast("Any", made).to(torch.bfloat16))

    library = operations_of_library(decoder(), rows=64)
    ours = {operations_of_pages(decoder(), *case) for case in ((64, 0), (64, 32), (256, 64))}
    assert len(ours) == 1
    assert ours.pop() <= 1.3 * library
