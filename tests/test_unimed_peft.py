"""LoRA by peft: adapters are written and read in peft's format, and what older versions wrote still loads."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import medbench
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_base import make_base
from tiny_model import small
from transformers import LlamaForCausalLM

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.unimed.checkpoint import (
    BaseWeights,
    assemble,
    configure,
    load_checkpoint,
    processor_on,
    restore_weights,
    write_checkpoint,
)
from medbench.unimed.convert import to_authors, to_whole, with_adapter
from medbench.unimed.lora import lora_layers, name_on_hub
from medbench.unimed.modeling import UniMedForConditionalGeneration

IDS = torch.tensor([[1, 5, 9, 20]])
VISION = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
          "image_size": 28, "patch_size": 7}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseWeights:
    return make_base(tmp_path_factory.mktemp("base")).resolved()


@pytest.fixture(scope="module")
def folder(base: BaseWeights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint on base weights whose LoRA adds something."""
    path = tmp_path_factory.mktemp("checkpoint") / "lora"
    config = configure(base, {"lora_rank": 4}, vision=VISION)
    processor = processor_on(base, config)
    model = assemble(config, base, dtype=torch.float32)
    for _, _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    write_checkpoint(model, processor, path, base=base)
    return path


def answer(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model.eval()(input_ids=IDS).logits
    return logits


def logits_of(folder: Path, **options: Any) -> torch.Tensor:
    return answer(load_checkpoint(folder, device="cpu", **options).model)


def language_model(base: BaseWeights) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(base.language_model, dtype=torch.float32)


def published(base: BaseWeights, folder: Path, **settings: Any) -> PeftModel:
    """Write an adapter as peft's users publish it; return their model."""
    torch.manual_seed(3)
    config = LoraConfig(**{"r": 3, "lora_alpha": 7, "target_modules": ["q_proj", "up_proj"], **settings})
    model = get_peft_model(language_model(base), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(str(folder))
    return model


def test_a_checkpoint_folder_is_an_adapter_for_peft(base: BaseWeights, folder: Path) -> None:
    assert not any("lora" in name for name in load_file(folder / "trained.safetensors"))
    adapted = PeftModel.from_pretrained(language_model(base), folder)
    assert torch.equal(answer(adapted), logits_of(folder, merge=False))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_forms_the_sum_in_float32_as_it_always_did(folder: Path, dtype: str) -> None:
    apart = load_checkpoint(folder, device="cpu", dtype=dtype, merge=False).model
    merged = load_checkpoint(folder, device="cpu", dtype=dtype).model
    assert not any("lora" in name or "base_layer" in name for name in merged.state_dict())
    weights = load_file(folder / "adapter_model.safetensors")
    for name, plain in merged.language_model.named_parameters():
        if not name.endswith("_proj.weight"):
            continue
        [down, up] = [weights[f"base_model.model.{name.replace('weight', f'lora_{part}.weight')}"] for part in "AB"]
        frozen = apart.language_model.get_parameter(name.replace("weight", "base_layer.weight"))
        assert torch.equal(plain, (frozen.float() + up @ down * 4.0).to(frozen.dtype)), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"target_modules": "all-linear", "lora_dropout": 0.1},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {"up_proj": 1}},
        {"task_type": "CAUSAL_LM", "init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_a_published_adapter_goes_into_a_checkpoint(
    base: BaseWeights, folder: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    theirs = answer(published(base, tmp_path / "adapter", **settings))
    with_adapter(folder, tmp_path / "adapter", tmp_path / "new")
    torch.testing.assert_close(logits_of(tmp_path / "new", merge=False), theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(logits_of(tmp_path / "new"), theirs, atol=1e-5, rtol=1e-4)
    again = answer(PeftModel.from_pretrained(language_model(base), tmp_path / "new"))
    torch.testing.assert_close(again, theirs, atol=1e-6, rtol=1e-6)
    connector = [load_file(one / "trained.safetensors") for one in (folder, tmp_path / "new")]
    assert connector[0].keys() == connector[1].keys()
    to_whole(tmp_path / "new", tmp_path / "whole", merge_lora=True)
    torch.testing.assert_close(logits_of(tmp_path / "whole"), theirs, atol=1e-5, rtol=1e-4)
    with pytest.raises(DataError, match="plain LoRA"):
        to_authors(tmp_path / "new", tmp_path / "back.pth")
    with pytest.raises(UsageError, match="--merge-lora"):
        to_whole(tmp_path / "new", tmp_path / "unmerged")


def test_an_adapter_is_put_in_by_command(base: BaseWeights, folder: Path, tmp_path: Path) -> None:
    theirs = answer(published(base, tmp_path / "adapter"))
    done = medbench("convert", "uni-med", folder, "--adapter", tmp_path / "adapter", "--output", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(logits_of(tmp_path / "new", merge=False), theirs, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "IA3", "feedforward_modules": []}, "no LoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "changes the frozen weights"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"use_dora": True, "lora_bias": True}, "cannot be used"),
        ({"r": 0}, "does not fit"),
        ({"target_modules": ["query"]}, "does not fit"),
        ({"r": 5}, "of another shape"),
        ({"target_modules": ["q_proj"]}, "unexpected"),
        ({"target_modules": ["q_proj", "up_proj", "v_proj"]}, "missing"),
    ],
    ids=str,
)
def test_an_adapter_that_does_not_fit_is_refused(
    base: BaseWeights, folder: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    published(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises((DataError, UsageError), match=says):
        with_adapter(folder, tmp_path / "adapter", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_whole_model_takes_no_adapter(base: BaseWeights, tmp_path: Path) -> None:
    published(base, tmp_path / "adapter")
    model, processor = small()
    write_checkpoint(model, processor, tmp_path / "whole")
    with pytest.raises(UsageError, match="whole model"):
        with_adapter(tmp_path / "whole", tmp_path / "adapter", tmp_path / "new")


# What older versions wrote


def old_name(name: str) -> str:
    for part in ("lora_A", "lora_B"):
        name = name.replace(f".{part}.default.weight", f".{part}").replace(f".{part}.weight", f".{part}")
    return name.replace(".base_layer.", ".").replace("base_model.model.", "language_model.")


def as_older_versions_wrote_it(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    tensors = load_file(folder / "trained.safetensors") | load_file(folder / "adapter_model.safetensors")
    save_file({old_name(name): tensor for name, tensor in tensors.items()}, target / "trained.safetensors")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (target / name).unlink()
    return target


def test_a_checkpoint_of_an_older_version_loads(folder: Path, tmp_path: Path) -> None:
    old = as_older_versions_wrote_it(folder, tmp_path / "old")
    assert any(name.endswith("q_proj.lora_A") for name in load_file(old / "trained.safetensors"))
    for merge in (True, False):
        assert torch.equal(logits_of(old, merge=merge), logits_of(folder, merge=merge))
    model = load_checkpoint(folder, device="cpu", merge=False).model
    expected = {name: parameter.clone() for name, parameter in model.trainable().items()}
    for parameter in model.trainable().values():
        torch.nn.init.zeros_(parameter)
    restore_weights(model, old)
    assert all(torch.equal(parameter, expected[name]) for name, parameter in model.trainable().items())


def test_a_whole_model_of_an_older_version_loads(tmp_path: Path) -> None:
    model, processor = small()
    for _, _, layer in lora_layers(model):
        torch.nn.init.normal_(layer.lora_B["default"].weight, std=0.05)
    write_checkpoint(model, processor, tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    tensors = load_file(tmp_path / "new" / "model.safetensors")
    assert any(".base_layer." in name for name in tensors)
    save_file({old_name(name): one for name, one in tensors.items()}, tmp_path / "old" / "model.safetensors",
              metadata={"format": "pt"})  # fmt: skip
    expected = answer(model)
    for name in ("new", "old"):
        assert torch.equal(logits_of(tmp_path / name, merge=False), expected)
    to_whole(tmp_path / "old", tmp_path / "again")
    assert torch.equal(answer(UniMedForConditionalGeneration.from_pretrained(tmp_path / "again")), expected)
    fresh, _ = small()
    restore_weights(fresh, tmp_path / "old")
    assert torch.equal(answer(fresh), expected)


def test_the_adapter_names_its_base_as_the_hub_does() -> None:
    cached = "cache/hub/models--meta-llama--Llama-2-7b-chat-hf/snapshots/f5db02db"
    assert name_on_hub(cached) == "meta-llama/Llama-2-7b-chat-hf"
    assert name_on_hub("weights/llama") == "weights/llama"
