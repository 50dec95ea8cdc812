"""Every adapter's vision and connector run on a GPU that is not there: one device, and no value read on the way."""

from collections.abc import Callable, Iterator
from pathlib import Path

import llava_med_fixtures
import med_flamingo_fixtures
import pytest
import radfm_fixtures
import tiny_vlms
import torch
import xraygpt_fixtures
from fake_cuda import on_fake_gpu
from PIL import Image
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from medbench.adapters.base import LoadOptions, LocalAdapter
from medbench.adapters.catalog import choose_model

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


def rehearse(adapter: LocalAdapter) -> tuple[list[torch.Tensor], int, int]:
    """Return features, visual tokens and embedded words, and how often the host waits for pixels, and for the rest."""
    pixels = [adapter.pixels(Image.new("RGB", size, "grey")) for size in ((90, 60), (64, 64))]
    modules = {id(module): module for module in modules_of(adapter)}
    with on_fake_gpu(*modules.values()) as (fake, rehearsal):
        adapter.device = "cuda:0"
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
