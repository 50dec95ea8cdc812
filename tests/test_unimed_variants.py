"""Every variant of the paper as a transformers model: built, trained one step, saved, loaded, refused if impossible."""

from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tiny_model import small
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

import medbench.unimed.auto  # noqa: F401 - registers the classes
from medbench.unimed import UniMedConfig, UniMedForConditionalGeneration, UniMedProcessor
from medbench.unimed.checkpoint import load_checkpoint, write_checkpoint
from medbench.unimed.lora import ADAPTED, LoraMoeLinear, lora_layers

ROUTERS = ("constant", "hard", "sparse", "soft")
ROUTER_INPUTS = ("token", "task", "token_and_task")
VARIANTS: list[dict[str, Any]] = [
    {"connector_type": "linear"},
    {"connector_type": "mlp2x_gelu"},
    {"connector_type": "mlp3x_gelu"},
    *({"resample_method": "projection", "resample_rate": rate} for rate in (1, 2, 4)),
    {"resample_method": "avgpool"},
    {"resample_method": "maxpool"},
    *({"router_type": router, "expert_type": expert} for router, expert in product(ROUTERS, ("mlp", "linear"))),
    *({"router_type": router, "router_input": seen} for router, seen in product(ROUTERS[2:], ROUTER_INPUTS)),
    {"num_experts": 16},
    {"num_experts": 1},
    {"task_tokens": False, "router_input": "token"},
    {"task_token_size": 20},
    {"text_identifiers": False},
    *({"lora_rank": rank} for rank in (4, 16, 64)),
    {"language_tuning": "lora_moe", "lora_rank": 4, "lora_alpha": 8},
    {"language_tuning": "full"},
    {"language_tuning": "none"},
    {"prompt_style": "official"},
]  # fmt: skip


def inputs_of(processor: UniMedProcessor) -> dict[str, torch.Tensor]:
    pictures = [Image.new("RGB", (40, 30), (shade, 90, 255 - shade)) for shade in (10, 200)]
    return dict(processor.instruct("rec", ["give me the location of Liver", "where is Liver ?"], pictures))


@pytest.mark.parametrize("settings", VARIANTS, ids=str)
def test_a_variant_learns_and_comes_back_from_its_folder(settings: dict[str, Any], tmp_path: Path) -> None:
    model, processor = small(**settings)
    model.train_what_is_tuned()
    inputs = inputs_of(processor)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD(model.trainable().values(), lr=0.1)
    for _ in range(2):
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed <= set(model.trainable())
    assert any(name.startswith("connector.") for name in changed)
    assert any(name.startswith("language_model.") for name in changed) == (model.config.language_tuning != "none")
    write_checkpoint(model, processor, tmp_path)
    loaded = load_checkpoint(tmp_path, device="cpu")
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=1e-4)
    assert loaded.processor.form == processor.form


def test_the_auto_classes_know_it(tmp_path: Path) -> None:
    model, processor = small(router_type="sparse", prompt_style="official")
    write_checkpoint(model, processor, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(config, UniMedConfig)
    assert config.router_type == "sparse"
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert isinstance(again, UniMedForConditionalGeneration)
    of_folder = cast("Any", AutoProcessor).from_pretrained(tmp_path)
    assert isinstance(of_folder, UniMedProcessor)
    assert of_folder.form == processor.form
    inputs = of_folder.instruct("vqa", ["what?"], [Image.new("RGB", (8, 8))])
    length = inputs["input_ids"].shape[1]
    written = cast("Any", again).generate(**inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert written.shape[1] == length + 3


def test_identifiers_can_be_left_out_and_official_prompts_have_two_starts() -> None:
    _, with_words = small()
    _, without = small(text_identifiers=False)
    _, official = small(prompt_style="official")
    picture = [Image.new("RGB", (8, 8))]
    said = [
        processor.tokenizer.decode(processor.instruct("vqa", ["what?"], picture)["input_ids"][0])
        for processor in (with_words, without, official)
    ]
    assert "[vqa] what?" in said[0]
    assert "[vqa]" not in said[1]
    assert said[2].count("<s>") == 2


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"resample_rate": 3}, "allowed are 1, 2, 4"),
        ({"resample_method": "avgpool", "resample_rate": 2}, "2 x 2"),
        ({"resample_method": "maxpool", "vision_config": {"image_size": 21, "patch_size": 7}}, "even grid"),
        ({"vision_config": {"image_size": 21, "patch_size": 7}}, "does not divide"),
        ({"num_experts": 0}, "at least one expert"),
        ({"router_type": "hard", "num_experts": 4}, "hard router"),
        ({"router_type": "sparse", "sparse_top_k": 6}, "sparse_top_k"),
        ({"task_tokens": False}, "reads them"),
        ({"task_tokens": True, "router_input": "token"}, "nothing reads them"),
        ({"task_tokens": True, "connector_type": "linear"}, "nothing reads them"),
        ({"task_token_size": 0}, "positive"),
        ({"lora_rank": 0}, "lora_rank"),
        ({"lora_dropout": 1.0}, "lora_dropout"),
        ({"language_tuning": "lora_moe", "lora_top_k": 9}, "lora_top_k"),
        ({"router_type": "noisy"}, "router_type"),
        ({"connector_type": "moe_mlp"}, "connector_type"),
    ],
)
def test_impossible_configurations_are_refused_at_once(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises((ValueError, StrictDataclassError), match=says):
        UniMedConfig(**wrong)


def test_lora_adapts_every_linear_layer_of_a_block_and_not_the_head() -> None:
    for tuning in ("lora", "lora_moe"):
        model, _ = small(language_tuning=tuning)
        of_peft = [name for _, name, _ in lora_layers(model)]
        ours = [name for name, module in model.named_modules() if isinstance(module, LoraMoeLinear)]
        adapted = ours if tuning == "lora_moe" else of_peft
        assert len(adapted) == len(of_peft) + len(ours) == len(ADAPTED) * model.config.text.num_hidden_layers
        assert not any("lm_head" in name for name in adapted)


def test_lora_moe_is_the_mixture_of_the_best_pairs() -> None:
    config = UniMedConfig(language_tuning="lora_moe", lora_rank=4, lora_alpha=8, lora_dropout=0.0)
    torch.manual_seed(1)
    layer = LoraMoeLinear(torch.nn.Linear(12, 10, bias=False), config)
    torch.nn.init.normal_(layer.lora_B)
    tokens = torch.randn(3, 7, 12)
    weights = layer.pair_weights(tokens)
    assert bool(((weights > 0).sum(dim=-1) == 2).all())
    expected = linear(tokens, layer.weight)
    logits = linear(tokens, layer.lora_gate)
    for row in range(3):
        for place in range(7):
            best = logits[row, place].topk(2)
            for share, pair in zip(best.values.softmax(dim=0), best.indices, strict=True):
                update = layer.lora_B[pair] @ layer.lora_A[pair] * (8 / 4)
                expected[row, place] += share * (update @ tokens[row, place])
    torch.testing.assert_close(layer(tokens), expected, atol=1e-5, rtol=1e-5)


def test_lora_moe_cannot_be_merged() -> None:
    from medbench.unimed.lora import merge_low_rank

    model, _ = small(language_tuning="lora_moe")
    with pytest.raises(ValueError, match="depends on the token"):
        merge_low_rank(model.language_model)


def test_lora_adds_nothing_before_it_has_learned() -> None:
    plain, processor = small(language_tuning="none")
    inputs = inputs_of(processor)
    for tuning in ("lora", "lora_moe"):
        model, _ = small(language_tuning=tuning)
        with torch.no_grad():
            assert torch.equal(model(**inputs).logits, plain(**inputs).logits)


def test_a_placeholder_behind_the_vocabulary_is_never_looked_up() -> None:
    model, processor = small()
    model.config.image_token_id = model.config.text.vocab_size + 5
    inputs = inputs_of(processor)
    inputs["input_ids"] = inputs["input_ids"].masked_fill(
        inputs["input_ids"].eq(processor.image_token_id), model.config.image_token_id
    )
    with torch.no_grad():
        assert torch.isfinite(model(**inputs).logits).all()


def test_instructions_and_images_must_agree() -> None:
    _, processor = small()
    with pytest.raises(ValueError, match="1 instructions of kind 'vqa' came with 0 images"):
        processor.instruct("vqa", ["what?"])


def test_bfloat16_computes_with_a_float32_connector() -> None:
    model, processor = small()
    model.train_what_is_tuned()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
            assert "connector" not in name
    inputs = inputs_of(processor)
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs, labels=inputs["input_ids"]).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(
        parameter.grad is None or parameter.grad.dtype == torch.float32 for parameter in model.trainable().values()
    )


@pytest.mark.parametrize("router", ["hard", "sparse"])
def test_idle_experts_are_decayed_like_those_that_the_official_code_multiplies_by_zero(router: str) -> None:
    from medbench.unimed.training.trainer import decay_idle_experts, make_optimizer, official_decays

    def step(*, dense: bool) -> dict[str, torch.Tensor]:
        model, processor = small(router_type=router, lora_dropout=0.0)
        model.train_what_is_tuned()
        connector = model.connector
        optimizer = make_optimizer(
            dict(connector.named_parameters()), decays=official_decays, weight_decay=0.5, betas=(0.9, 0.999),
            epsilon=1.0,
        )  # fmt: skip
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01
        inputs = inputs_of(processor)
        features = model.encode_images(inputs["pixel_values"])[:, :1]
        for task in (1, 3):
            optimizer.zero_grad()
            tasks = torch.full((len(features),), task)
            if dense:
                weights = connector.routing_weights(features, tasks)
                mixed = [weights[..., index, None] * expert(features) for index, expert in enumerate(connector.experts)]
                output = torch.stack(mixed).sum(dim=0)
            else:
                output = connector(features, tasks)
            torch.autograd.backward(output.pow(2).sum())
            decay_idle_experts(connector)
            optimizer.step()
        return {name: parameter.detach() for name, parameter in connector.named_parameters()}

    for (name, ours), (_, official) in zip(step(dense=False).items(), step(dense=True).items(), strict=True):
        torch.testing.assert_close(ours, official, atol=1e-6, rtol=1e-5, msg=name)
