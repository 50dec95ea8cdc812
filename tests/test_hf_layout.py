"""Large models: layers on several devices, rounded weights, and what cannot be; tiny here, the CPU and the disk."""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_vlms
import torch
from command_line import medbench
from engine_helpers import answer, texts
from PIL import Image
from transformers import BitsAndBytesConfig

from medbench.adapters.base import Dtype, LoadOptions, Quantization
from medbench.adapters.hf import loading
from medbench.adapters.hf.adapter import HfAdapter
from medbench.adapters.hf.adapter import load_adapter as load
from medbench.adapters.hf.entry import ENTRY
from medbench.harness.engine.budget import Budget
from medbench.harness.engine.choice import choose_engine
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.requests import Request, make_request
from medbench.harness.engine.static import generate_alone
from medbench.harness.local import self_test
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.sample import ImageRef, Sample

VQA = get_task("slake-vqa")
TOKENS = 20
BUDGET = Budget(rows=4, tokens=4000, prefill=200)
WIDER: dict[str, Any] = {"hidden_size": 64, "head_dim": 16, "intermediate_size": 128}
"""Whole blocks of 64 numbers in every row, which 4 bits want on a CPU."""
WORDS = ("What is shown?", "Which organ is the largest of all that can be seen here?", "Where?", "Is it healthy?")


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.llava(tmp_path_factory.mktemp("models") / "tiny-llava", **WIDER)


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.qwen3_vl(tmp_path_factory.mktemp("models") / "tiny-qwen3-vl")


def model(folder: Path, arguments: dict[str, str] | None = None, **options: Any) -> HfAdapter:
    settled = ENTRY.settled(str(folder), arguments or {})
    return load(LoadOptions(variant=str(folder), arguments=settled, **{"device": "cpu", "dtype": "float32", **options}))


def asked(adapter: HfAdapter, folder: Path, words: Sequence[str] = WORDS) -> list[Request]:
    if not (folder / "0.png").exists():
        Image.effect_noise((60, 60), 90).convert("RGB").save(folder / "0.png")
    samples = [
        Sample(
            sample_id=word, task=VQA.name, split="test", reference="", images=(ImageRef(path="0.png"),),
            inputs={"question": word},
        )
        for word in words
    ]  # fmt: skip
    requests = [make_request(adapter, sample, VQA, folder) for sample in samples]
    return [replace(one, decoding=replace(one.decoding, max_new_tokens=TOKENS)) for one in requests]


def answered(adapter: HfAdapter, folder: Path) -> dict[str, str]:
    return texts(answer(adapter, asked(adapter, folder), BUDGET))


def bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def memory(folder: Path, share: float) -> dict[str, str]:
    return {"max_memory": json.dumps({"cpu": int(share * bytes_of(folder))})}


# Several devices


@pytest.mark.parametrize("make", ["llava", "qwen3"])
@pytest.mark.parametrize("share", [0.0, 0.75])
def test_layers_on_the_disk_answer_as_those_in_memory(
    make: str, share: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(make)
    spread = model(folder, memory(folder, share), device="auto", device_map="auto")
    assert {one.device.type for one in spread.decoder.parameters()} >= {"meta"}
    assert "disk" in spread.only_whole
    assert ("cpu" in spread.only_whole) == (share > 0)
    assert spread.device == "cpu"
    assert answered(spread, tmp_path) == answered(model(folder), tmp_path)
    assert self_test(spread, asked(spread, tmp_path), BUDGET).equal == 2
    spread.close()


def test_what_fits_onto_one_device_is_driven_as_ever(llava: Path, tmp_path: Path) -> None:
    adapter = model(llava, device="auto", device_map="auto")
    assert not adapter.only_whole
    assert not Engine(adapter, BUDGET, Phases()).why_whole
    assert answered(adapter, tmp_path) == answered(model(llava), tmp_path)


def test_layers_that_are_written_to_the_disk_leave_with_the_model(
    qwen3: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    adapter = model(qwen3, memory(qwen3, 0.5), device="auto", device_map="auto")
    assert [one.name.startswith("medbench-layers-") for one in tmp_path.iterdir()] == [True]
    adapter.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("20GiB", "says no sizes"),
        ('{"cpu": "much"}', "says no sizes"),
        ('{"7": "20GiB"}', "names 7, which is no device here"),
    ],
)
def test_sizes_that_are_none_are_told(text: str, said: str, llava: Path) -> None:
    with pytest.raises(UsageError, match=said):
        model(llava, {"max_memory": text}, device="auto", device_map="auto")


def test_sizes_without_a_map_would_say_nothing(llava: Path) -> None:
    with pytest.raises(UsageError, match="says nothing") as caught:
        model(llava, memory(llava, 1))
    assert "--device-map auto" in caught.value.hint


def test_a_full_disk_is_a_sentence(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loading, "_read", full)
    with pytest.raises(RunError, match=r"cannot be written to .*No space left") as caught:
        model(llava, memory(llava, 0.5), device="auto", device_map="auto")
    assert "TMPDIR" in caught.value.hint


def test_a_device_and_a_map_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="--device cpu and --device-map auto"):
        Settings(model="hf:x", device="cpu", device_map="auto")


# Rounded weights


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_rounded_decoder_is_driven_and_writes_what_its_own_generate_writes(
    quantize: Quantization, dtype: Dtype, llava: Path, tmp_path: Path
) -> None:
    adapter = model(llava, quantize=quantize, dtype=dtype)
    kind = loading.METHODS[quantize][1]
    assert (adapter.quantised, adapter.title, adapter.dtype) == (kind, f"tiny-llava ({kind})", dtype)
    assert not Engine(adapter, BUDGET, Phases()).why_static
    requests = asked(adapter, tmp_path)
    if dtype == "float32":
        alone = {one.sample.sample_id: generate_alone(adapter, one).text for one in requests}
        assert texts(answer(adapter, requests, BUDGET)) == alone
        assert alone != answered(model(llava), tmp_path)
    else:
        assert len(texts(answer(adapter, requests, BUDGET))) == len(WORDS)


def is_rounded(layer: torch.nn.Module) -> bool:
    return type(layer).__name__ == "Linear4bit" or type(layer.weight) is not torch.nn.Parameter


@pytest.mark.slow
@pytest.mark.parametrize("family", [*tiny_vlms.FAMILIES, *tiny_vlms.WHOLE])
@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_in_every_family_the_decoder_is_rounded_and_nothing_else(
    quantize: Quantization, family: str, tmp_path: Path
) -> None:
    adapter = model({**tiny_vlms.FAMILIES, **tiny_vlms.WHOLE}[family](tmp_path / family), quantize=quantize)
    inside = set(adapter._model.get_decoder().modules())
    linear = [one for one in adapter._model.modules() if isinstance(one, torch.nn.Linear)]
    assert {one for one in linear if is_rounded(one)} == inside.intersection(linear)
    assert inside.isdisjoint(linear) is False
    requests = asked(adapter, tmp_path)
    alone = {one.sample.sample_id: generate_alone(adapter, one).text for one in requests}
    assert texts(answer(adapter, requests, BUDGET)) == alone


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_only_the_decoder_is_rounded(quantize: Quantization, llava: Path) -> None:
    plain, rounded = model(llava), model(llava, quantize=quantize)
    image = plain.pixels(Image.effect_noise((60, 60), 90).convert("RGB"))
    [ours], [theirs] = rounded.encode_images([image]), plain.encode_images([image])
    assert torch.equal(ours, theirs)
    assert torch.equal(rounded._model.lm_head.weight, plain._model.lm_head.weight)
    layer, other = (one._model.model.language_model.layers[0].mlp.up_proj for one in (rounded, plain))
    given = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    far = (layer(given) - other(given)).abs().mean() / other(given).abs().mean()
    assert 0.001 < far < {"4bit": 0.2, "8bit": 0.02}[quantize]


def test_a_row_does_not_depend_on_its_neighbours_in_8_bits(llava: Path) -> None:
    layer = model(llava, quantize="8bit")._model.model.language_model.layers[0].mlp.up_proj
    given = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    given[0] *= 100  # An outlier, for which bitsandbytes would compute all rows otherwise.
    alone = torch.cat([layer(row[None]) for row in given])
    torch.testing.assert_close(layer(given), alone, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_a_library_that_is_not_installed_is_named(
    quantize: Quantization, llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, _ = loading.METHODS[quantize]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=f"--quantize {quantize} needs {library}") as caught:
        model(llava, quantize=quantize)
    assert "medbench[quantized]" in caught.value.hint


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_a_checkpoint_of_rounded_weights_is_known_as_one(quantize: Quantization, llava: Path, tmp_path: Path) -> None:
    first = model(llava, quantize=quantize)
    folder = tmp_path / "saved"
    first._model.save_pretrained(folder)
    for file in llava.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    again = model(folder)
    assert again.quantised == {"4bit": "bitsandbytes", "8bit": "torchao"}[quantize]
    assert again.made_of[again.quantised]
    assert answered(again, tmp_path) == answered(first, tmp_path)
    with pytest.raises(UsageError, match="quantised already"):
        model(folder, quantize="8bit")


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_rounded_layers_that_would_lie_on_the_disk_are_told(
    quantize: Quantization, share: float, llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RunError, match="quantised layers can be fetched from nowhere else"):
        model(llava, memory(llava, share), device="auto", device_map="auto", quantize=quantize)
    assert not list(tmp_path.glob("medbench-layers-*"))


def test_a_checkpoint_in_which_rows_depend_on_their_neighbours_says_so(llava: Path, tmp_path: Path) -> None:
    plain = model(llava)._model
    kept = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]
    wish = cast("Any", BitsAndBytesConfig)(load_in_8bit=True, llm_int8_skip_modules=kept)
    folder = Path(shutil.copytree(llava, tmp_path / "tiny-llava-int8"))
    rounded = type(plain).from_pretrained(llava, quantization_config=wish, device_map={"": "cpu"}, dtype=torch.float32)
    rounded.save_pretrained(folder)
    adapter = model(folder)
    assert adapter.quantised == "bitsandbytes"
    assert any("depend on their neighbours" in notice for notice in adapter.notices)
    assert not any("neighbours" in notice for notice in model(llava, quantize="8bit").notices)


def test_vllm_is_not_handed_rounded_weights(llava: Path) -> None:
    adapter = model(llava, quantize="8bit")
    from medbench.harness.engine.vllm import why_not_vllm

    assert "vllm.quantization" in why_not_vllm(adapter)
    assert choose_engine("auto", adapter, {}, greedy=True, compiled=False).name == "medbench"


# Through the command line


def run_in(output: Path) -> Path:
    [file] = output.glob("*/run.yaml")
    return file.parent


def said(*words: object) -> str:
    result = medbench(*words)
    assert "Traceback" not in result.stderr
    return f"{result.returncode} {' '.join((result.stdout + result.stderr).split())}"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--quantize", "8bit"), ("--device-map", "auto", "--model-arg")])
def test_a_run_says_how_its_weights_lie(words: tuple[str, ...], llava: Path, tmp_path: Path) -> None:
    more = [f"max_memory={memory(llava, 0.75)['max_memory']}"] if words[-1] == "--model-arg" else []
    common = ["run", "--model", f"hf:{llava}", "--tasks", "slake-vqa", "--limit", 4, "--output-dir", tmp_path / "runs"]
    told = said(*common, *words, *more)
    assert told.startswith("0 ")
    folder = run_in(tmp_path / "runs")
    results, environment = (json.loads((folder / name).read_text()) for name in ("results.json", "env.json"))
    kind = {"8bit": "int8", "4bit": "nf4"}.get(words[1], "")
    assert results["model"]["dtype"] == (f"float32 (weights {kind})" if kind else "float32")
    assert environment["engine"]["batching"].startswith("continuous" if kind else "whole: its layers lie")
    assert kind or "its layers lie on cpu and disk" in told
    assert "nothing to do" in said(*common, *words, *more)


@pytest.mark.slow
def test_a_model_that_loads_nothing_takes_none_of_it(tmp_path: Path) -> None:
    for words in (("--quantize", "8bit"), ("--device-map", "auto"), ("--lora", tmp_path)):
        told = said("run", "--model", "mock", "--tasks", "slake-vqa", "--limit", 1, "--output-dir", tmp_path, *words)
        assert told.startswith("2 ")
        assert f"does not take {words[0]}" in told
    told = said("run", "--model", "uni-med", "--tasks", "slake-vqa", "--quantize", "8bit", "--output-dir", tmp_path)
    assert "does not take --quantize" in told
