"""`--lora DIR`: a merged adapter answers as peft computes it, and one that does not fit is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import radfm_fixtures
import tiny_vlms
import torch
import xraygpt_fixtures
from command_line import medbench
from engine_helpers import answer, texts
from low_rank_helpers import change_weights, edit, publish
from safetensors.torch import load_file
from test_hf_layout import BUDGET, WIDER, asked, memory, model, run_in, said
from tiny_model import small

import medbench as medbench_api
from medbench.adapters import uni_med
from medbench.adapters.base import AdapterEntry, LoadOptions, LocalAdapter, Quantization
from medbench.adapters.hf.adapter import HfAdapter
from medbench.adapters.low_rank import put_on, read_low_rank
from medbench.adapters.radfm.entry import ENTRY as RADFM
from medbench.adapters.xraygpt.entry import ENTRY as XRAYGPT
from medbench.harness.engine.engine import Engine
from medbench.harness.engine.static import generate_alone
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.unimed.checkpoint import write_checkpoint

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.llava(tmp_path_factory.mktemp("models") / "tiny-llava", **WIDER)


@pytest.fixture(scope="module")
def adapter(llava: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "chest-x-rays"
    publish(model(llava)._model, folder, base="somebody/tiny-llava")
    return folder


@pytest.fixture
def copied(adapter: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter, tmp_path / "copied"))


def computed_by_peft(folder: Path, lora: Path, **settings: Any) -> HfAdapter:
    """Write an adapter for a model's folder; return the model with it, not merged."""
    plain = model(folder)
    publish(plain._model, lora, **settings)
    return plain


def alone(adapter: HfAdapter, folder: Path) -> dict[str, str]:
    return {one.sample.sample_id: generate_alone(adapter, one).text for one in asked(adapter, folder)}


def answered(adapter: HfAdapter, folder: Path) -> dict[str, str]:
    return texts(answer(adapter, asked(adapter, folder), BUDGET))


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"use_rslora": True}, {"bias": "lora_only"},
                                      {"modules_to_save": ["multi_modal_projector"]}], ids=str)  # fmt: skip
def test_a_merged_adapter_answers_as_peft_computes_it(settings: dict[str, Any], llava: Path, tmp_path: Path) -> None:
    theirs = alone(computed_by_peft(llava, tmp_path / "lora", **settings), tmp_path)
    merged = model(llava, lora=tmp_path / "lora")
    assert not any("lora" in name or "base_layer" in name for name in merged._model.state_dict())
    assert not Engine(merged, BUDGET, Phases()).why_static
    ours, without = answered(merged, tmp_path), answered(model(llava), tmp_path)
    # What is merged is rounded otherwise, and among random weights one of four answers may be a close call.
    assert sum(ours[name] != theirs[name] for name in theirs) <= 1
    assert sum(without[name] != theirs[name] for name in theirs) > 1


@pytest.mark.parametrize("make", [tiny_vlms.qwen2_5_vl, tiny_vlms.gemma3, tiny_vlms.qwen3_vl, tiny_vlms.mllama])
def test_other_families_too(make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / make.__name__)
    theirs = alone(computed_by_peft(folder, tmp_path / "lora"), tmp_path)
    assert answered(model(folder, lora=tmp_path / "lora"), tmp_path) == theirs


def test_names_of_before_transformers_5_are_understood(
    llava: Path, adapter: Path, copied: Path, tmp_path: Path
) -> None:
    new, old = "base_model.model.model.language_model.", "base_model.model.language_model.model."
    change_weights(copied, lambda tensors: {name.replace(new, old): one for name, one in tensors.items()})
    ours, theirs = (answered(model(llava, lora=one), tmp_path) for one in (copied, adapter))
    assert ours == theirs


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_on_rounded_weights_it_stays_beside_them(
    quantize: Quantization, llava: Path, adapter: Path, tmp_path: Path
) -> None:
    ours = model(llava, lora=adapter, quantize=quantize)
    assert any("lora_A" in name for name in ours._model.state_dict())
    assert ours.title == f"tiny-llava ({ours.quantised}) + chest-x-rays"
    by_peft = model(llava, quantize=quantize)
    put_on(by_peft._model, read_low_rank(adapter), merge=False)
    assert answered(ours, tmp_path) == alone(by_peft, tmp_path)
    assert answered(ours, tmp_path) != answered(model(llava, quantize=quantize), tmp_path)


def test_on_layers_on_the_disk_it_is_merged_first(llava: Path, adapter: Path, tmp_path: Path) -> None:
    spread = model(llava, memory(llava, 0.75), device="auto", device_map="auto", lora=adapter)
    assert "disk" in spread.only_whole
    assert answered(spread, tmp_path) == answered(model(llava, lora=adapter), tmp_path)
    spread.close()


def test_a_pickle_is_read_as_tensors_alone(llava: Path, adapter: Path, copied: Path, tmp_path: Path) -> None:
    file = copied / "adapter_model.safetensors"
    torch.save(load_file(file), copied / "adapter_model.bin")
    file.unlink()
    assert answered(model(llava, lora=copied), tmp_path) == answered(model(llava, lora=adapter), tmp_path)
    torch.save({"weights": Path("/")}, copied / "adapter_model.bin")
    with pytest.raises(DataError, match=r"adapter_model.bin cannot be read"):
        model(llava, lora=copied)


# What makes another model


def test_the_model_says_so_and_has_another_fingerprint(llava: Path, adapter: Path, copied: Path) -> None:
    plain, ours, renamed = model(llava), model(llava, lora=adapter), model(llava, lora=copied)
    assert (ours.title, renamed.title) == ("tiny-llava + chest-x-rays", "tiny-llava + copied")
    assert ours.trained_on is None
    assert ours.notices == plain.notices
    assert ours.weights_fingerprint == renamed.weights_fingerprint != plain.weights_fingerprint
    edit(copied, base_model_name_or_path="/somewhere/else/tiny-llava")
    assert model(llava, lora=copied).weights_fingerprint == ours.weights_fingerprint
    edit(copied, lora_alpha=16)
    assert model(llava, lora=copied).weights_fingerprint != ours.weights_fingerprint
    edit(copied, lora_alpha=8)
    change_weights(copied, lambda tensors: {name: one + 1e-3 for name, one in tensors.items()})
    assert model(llava, lora=copied).weights_fingerprint != ours.weights_fingerprint


def test_another_base_is_said(llava: Path, copied: Path) -> None:
    edit(copied, base_model_name_or_path="somebody/other-7b")
    assert any("trained on somebody/other-7b" in notice for notice in model(llava, lora=copied).notices)
    edit(copied, base_model_name_or_path="/cache/models--somebody--Tiny-LLaVA/snapshots/0123")
    assert not model(llava, lora=copied).notices


# What does not fit


def first(tensors: Tensors) -> str:
    return min(name for name in tensors if "lora_B" in name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3", "feedforward_modules": []}, "no LoRA, but IA3"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3}, "no LoRA, but PREFIX_TUNING"),
        ({"peft_type": None}, "no LoRA, but nothing"),
        ({"init_lora_weights": "pissa"}, "changes the frozen weights too"),
        ({"target_modules": ["query"]}, "does not fit the model: .*query"),
        ({"r": 5}, "does not fit the model: .*size mismatch"),
        ({"target_modules": ["gate_proj"]}, "unexpected"),
        ({"target_modules": r".*language_model.*_proj"}, "missing"),
        ({"r": "four"}, "cannot be used|does not fit"),
    ],
    ids=str,
)
def test_a_configuration_that_does_not_fit(change: dict[str, Any], says: str, llava: Path, copied: Path) -> None:
    edit(copied, **change)
    with pytest.raises(MedbenchError, match=says):
        model(llava, lora=copied)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tensors: {name: one for name, one in tensors.items() if name != first(tensors)}, "1 missing"),
        (lambda tensors: {**tensors, "base_model.model.of_another.lora_A.weight": torch.ones(4, 4)}, "1 unexpected"),
        (lambda tensors: {**tensors, first(tensors): torch.ones(7, 4)}, "size mismatch"),
        (lambda tensors: {**tensors, first(tensors): tensors[first(tensors)] / 0}, "NaN"),
    ],
    ids=["missing", "unexpected", "misshapen", "broken"],
)
def test_weights_that_do_not_fit(change: Callable[[Tensors], Tensors], says: str, llava: Path, copied: Path) -> None:
    change_weights(copied, change)
    with pytest.raises(DataError, match=says):
        model(llava, lora=copied)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors missing"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json missing"),
        (shutil.rmtree, "adapter_config.json, adapter_model.safetensors missing"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"torn"), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").write_text("<html>Sign in"), "a page of a web site"),
        (lambda folder: (folder / "non_lora_trainables.bin").write_bytes(b"x"), "would leave out"),
    ],
    ids=range(7),
)
def test_a_folder_that_is_none(change: Callable[[Path], object], says: str, llava: Path, copied: Path) -> None:
    change(copied)
    with pytest.raises(MedbenchError, match=says):
        model(llava, lora=copied)


# Models of other families


def merged_by_hand(plain: LocalAdapter, lora: Path) -> Tensors:
    """Return the weights of a decoder with `B A` times alpha / r added."""
    pairs = load_file(lora / "adapter_model.safetensors")
    weights = {name: one.detach().clone() for name, one in plain.decoder.named_parameters()}
    for name in (name for name in pairs if "lora_A" in name):
        inner = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        weights[inner] += 2.0 * pairs[name.replace("lora_A", "lora_B")] @ pairs[name]
    return weights


@pytest.mark.parametrize("tuning", ["none", "lora", "lora_moe"])
def test_uni_med_takes_one_onto_its_decoder(tuning: str, tmp_path: Path) -> None:
    given, processor = small(language_tuning=tuning)
    write_checkpoint(given, processor, tmp_path / "checkpoint")
    options = LoadOptions(checkpoint=tmp_path / "checkpoint", device="cpu")
    plain, base = uni_med.load(options), uni_med.load(options)
    theirs = publish(base.decoder, tmp_path / "lora")
    ours = uni_med.load(LoadOptions(checkpoint=tmp_path / "checkpoint", device="cpu", lora=tmp_path / "lora"))
    ids = torch.tensor([[1, 5, 9, 20]])
    torch.testing.assert_close(ours.decoder(ids).logits, theirs(ids).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours.decoder(ids).logits, plain.decoder(ids).logits, atol=1e-2)
    assert ours.title == "Uni-Med + lora"
    if tuning != "lora_moe":
        by_hand = merged_by_hand(plain, tmp_path / "lora")
        assert by_hand.keys() == dict(ours.decoder.named_parameters()).keys()
        for name, weight in ours.decoder.named_parameters():
            torch.testing.assert_close(weight, by_hand[name], msg=name)


@pytest.mark.parametrize(
    ("entry", "make"),
    [(RADFM, radfm_fixtures.write_checkpoint), (XRAYGPT, xraygpt_fixtures.make_four_files)],
    ids=["radfm", "xraygpt"],
)
def test_so_do_families_with_a_plain_decoder(entry: AdapterEntry, make: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = make(tmp_path / "checkpoint")
    options = LoadOptions(checkpoint=folder, device="cpu", dtype="float32", arguments=entry.settled("", {}))
    plain, base = entry.load(options), entry.load(options)
    assert isinstance(plain, LocalAdapter)
    assert isinstance(base, LocalAdapter)
    publish(base.decoder, tmp_path / "lora")
    ours = entry.load(replace(options, lora=tmp_path / "lora"))
    assert isinstance(ours, LocalAdapter)
    by_hand = merged_by_hand(plain, tmp_path / "lora")
    for name, weight in ours.decoder.named_parameters():
        torch.testing.assert_close(weight, by_hand[name], msg=name)
    assert ours.weights_fingerprint != plain.weights_fingerprint
    assert ours.title == f"{plain.title} + lora"


# Through the command line


@pytest.mark.slow
def test_a_run_with_it_is_another_run_and_stands_beside_its_base(llava: Path, adapter: Path, tmp_path: Path) -> None:
    common = ["run", "--model", f"hf:{llava}", "--tasks", "slake-vqa", "--limit", 3, "--output-dir", tmp_path / "runs"]
    assert said(*common, "--lora", adapter).startswith("0 ")
    folder = run_in(tmp_path / "runs")
    results = json.loads((folder / "results.json").read_text())
    assert results["model"]["title"] == "tiny-llava + chest-x-rays"
    assert not results["model"]["declared"]
    assert "nothing to do" in said("run", "--config", folder / "run.yaml")
    assert said(*common).startswith("0 ")
    assert len(list((tmp_path / "runs").glob("*/run.yaml"))) == 2
    board = medbench("leaderboard", tmp_path / "runs").stdout
    assert "tiny-llava + chest-x-rays" in board


@pytest.mark.slow
def test_from_python_too(llava: Path, adapter: Path, tmp_path: Path) -> None:
    run = medbench_api.run(
        f"hf:{llava}", "slake-vqa", limit=2, output_dir=tmp_path, progress=False, lora=str(adapter), quantize="8bit"
    )
    assert run.model == "tiny-llava (int8) + chest-x-rays"
    assert run.results.model.dtype == "float32 (weights int8)"


@pytest.mark.slow
def test_the_doctor_proves_it_too(llava: Path, adapter: Path) -> None:
    told = said(
        "doctor", "engine", "--model", f"hf:{llava}", "--lora", adapter, "--quantize", "8bit", "--tasks", "slake-vqa",
        "--samples", 4,
    )  # fmt: skip
    assert told.startswith("0 "), told
    assert "All schedules give the same answers" in told


def test_of_two_models_it_is_nobodys(adapter: Path, tmp_path: Path) -> None:
    told = said("run", "--model", "uni-med", "--model", "hf:x/y", "--lora", adapter, "--output-dir", tmp_path)
    assert told.startswith("2 ")
    assert "--lora names weights for uni-med, hf:x/y at once" in told


def test_a_folder_without_an_adapter_is_a_usage_error(llava: Path, tmp_path: Path) -> None:
    told = said("run", "--model", f"hf:{llava}", "--lora", tmp_path, "--output-dir", tmp_path / "runs")
    assert told.startswith("2 ")
    assert "holds no adapter of peft" in told


def test_checkpoints_for_tasks_take_none(adapter: Path) -> None:
    from medbench.harness.settings import Settings

    with pytest.raises(UsageError, match="--lora goes onto one model"):
        Settings(model="llava-med", lora=adapter, checkpoint_for={"slake-vqa": adapter})
