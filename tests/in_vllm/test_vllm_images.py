"""vLLM's own classes for vision-language models answer what transformers' do, given our ids and our pixels."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlms
from command_line import medbench
from engine_helpers import answer, texts
from PIL import Image
from safetensors.torch import load_file, save_file

from medbench.adapters.base import LoadOptions, LocalAdapter
from medbench.adapters.catalog import choose_model
from medbench.adapters.hf.adapter import load_adapter
from medbench.harness.engine import vllm_images
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.requests import Request, make_request
from medbench.harness.engine.vllm import NEAR, distances, refuse_far
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef
from medbench.tasks.suite import prepare_mini_suite

BUDGET = Budget(rows=16, tokens=1 << 15)
MAKE: dict[str, Callable[..., Path]] = {
    one.__name__: one for one in (tiny_vlms.glm4v, tiny_vlms.qwen2_vl, tiny_vlms.qwen2_5_vl, tiny_vlms.qwen3_vl)
}
VIDEOS = {"glm4v": "Glm4vVideoProcessor", "qwen3_vl": "Qwen3VLVideoProcessor"}


def published(family: str, folder: Path) -> Path:
    """Return a tiny model with heads that vLLM takes, and with what vLLM reads of a model beside what we read."""
    made = MAKE[family](folder, head_dim=32)
    # Four times as wide as others: weights of the same size would make rounding loud (0.0016 from float64).
    weights = load_file(made / "model.safetensors")
    calmer = {name: one / 2 if one.dim() > 1 else one for name, one in weights.items()}
    save_file(calmer, made / "model.safetensors", metadata={"format": "pt"})
    images = read_json(made / "processor_config.json")["image_processor"]
    videos = {
        "video_processor_type": VIDEOS.get(family, "Qwen2VLVideoProcessor"),
        **{name: images[name] for name in ("patch_size", "temporal_patch_size", "merge_size", "size")},
    }
    (made / "video_preprocessor_config.json").write_text(json.dumps(videos))
    return made


@pytest.fixture(scope="module", params=MAKE)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[LocalAdapter, Any]:
    folder = published(request.param, tmp_path_factory.mktemp(request.param) / "tiny")
    arguments = choose_model(f"hf:{folder}", {}).arguments
    adapter = load_adapter(LoadOptions(variant=str(folder), device="cpu", dtype="float32", arguments=arguments))
    assert vllm_images.is_seen_by_vllm(adapter)
    return adapter, vllm_images.start(adapter, BUDGET, {})


def asked(adapter: LocalAdapter, *tasks: str, each: int = 8) -> list[Request]:
    found = []
    for task in tasks:
        prepared = load_prepared(prepare_mini_suite(), task)
        short = replace(prepared.spec, max_new_tokens=8)
        found += [make_request(adapter, one, short, prepared.source) for one in prepared.samples("test")[:each]]
    return found


def with_two_images(adapter: LocalAdapter, folder: Path) -> Request:
    """Return a question about two pictures of unlike sizes."""
    for number, size in enumerate([(90, 60), (40, 130)]):
        noise = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    one = asked(adapter, "slake-vqa", each=1)[0]
    images = (ImageRef(path="0.png"), ImageRef(path="1.png"))
    return make_request(adapter, replace(one.sample, sample_id="two", images=images), one.spec, folder)


def test_all_families_are_tested() -> None:
    assert set(MAKE) == vllm_images.SEEN_BY_VLLM


def test_log_probabilities_and_answers_agree(served: tuple[LocalAdapter, Any], tmp_path: Path) -> None:
    adapter, llm = served
    requests = [with_two_images(adapter, tmp_path), *asked(adapter, "slake-vqa", "mimic-cxr", "pubmedqa")]
    wanted = vllm_images.with_prompts(llm, adapter, vllm_images.references(adapter, requests))
    assert len(wanted) == 8
    assert refuse_far(adapter, distances(llm, wanted)) < NEAR["float32"] / 10
    ours = texts(answer(adapter, requests, BUDGET))
    engine = vllm_images.VllmImagesEngine(adapter, BUDGET, Phases(), llm)
    outcomes = [one for some in engine.generate(requests) for one in some]
    assert [one.error for one in outcomes if one.error] == []
    assert texts({one.sample_id: one for one in outcomes}) == ours


def test_text_alone_is_asked(served: tuple[LocalAdapter, Any]) -> None:
    adapter, llm = served
    engine = vllm_images.VllmImagesEngine(adapter, BUDGET, Phases(), llm)
    requests = asked(adapter, "pubmedqa", each=3)
    assert not any(one.images for one in requests)
    assert all(one.generation for some in engine.generate(requests) for one in some)


def test_another_picture_is_seen(served: tuple[LocalAdapter, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    adapter, llm = served
    wanted = vllm_images.references(adapter, asked(adapter, "slake-vqa"))
    read = adapter.pixels
    monkeypatch.setattr(
        adapter, "pixels", lambda image: {**read(image), "pixel_values": 0 * read(image)["pixel_values"]}
    )
    # What is known by the same digest is not encoded again.
    monkeypatch.setattr(vllm_images, "digest_of", lambda _, image: f"black {image.path}")
    with pytest.raises(RunError, match="computes something else"):
        refuse_far(adapter, distances(llm, vllm_images.with_prompts(llm, adapter, wanted)))
    with pytest.raises(RunError, match="given other pixel_values"):
        vllm_images.references(adapter, asked(adapter, "slake-vqa"))


def test_a_run_has_the_answers_of_ours(tmp_path: Path) -> None:
    folder = published("qwen3_vl", tmp_path / "tiny")
    found = {}
    for engine in ("vllm", "medbench"):
        ran = medbench(
            "run", "--model", f"hf:{folder}", "--tasks", "all", "--limit", "4", "--engine", engine,
            "--dtype", "float32", "--max-new-tokens", "8", "--output-dir", tmp_path / engine,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        [run] = [file.parent for file in (tmp_path / engine).glob("*/results.json")]
        records = [json.loads(line) for file in sorted(run.glob("generations/*.jsonl")) for line in file.open()]
        found[engine] = [{**one, "run": ""} for one in records]
    assert found["vllm"] == found["medbench"]
    assert len(found["vllm"]) == 12 * 4
