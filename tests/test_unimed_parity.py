"""Uni-Med's tower, pictures, prompts, token ids, schedule and sampling against the official code's own outputs."""

import os
import re
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Blip2VisionConfig
from unimed_fixtures import close, document, root, tensors

from medbench.tasks.answers.box_space import UNI_MED
from medbench.tasks.answers.texts import first_words
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import Box
from medbench.tasks.spec import Kind
from medbench.unimed.checkpoint import checked_config
from medbench.unimed.processing import UniMedProcessor, pixels_of
from medbench.unimed.prompts import IMAGE_PLACEHOLDER, PromptForm, WrappedPrompt, wrap
from medbench.unimed.tokens import load_language_model_tokenizer
from medbench.unimed.training.corpus import Mixture
from medbench.unimed.training.plan import dead_parameters, meta_model, parameters_of
from medbench.unimed.training.recipe import Schedule, load_recipe
from medbench.unimed.vision import LN_VISION_EPSILON, VisionTower, from_eva, interpolated_positions, to_eva

OFFICIAL = PromptForm(style="official")
OFFICIAL_NAMES = {
    "medqa_en": "medqa", "pubmedqa": "pubmedqa", "slakevqa_en": "slake-vqa", "path_vqa": "path-vqa",
    "ref_slake": "slake-rec", "invref_slake": "slake-reg", "ref_sa_med": "sa-med2d-rec",
    "invref_sa_med": "sa-med2d-reg", "medpix_single": "mpx-single", "mimic_caption": "mimic-cxr",
    "medmnist_2d_small": "dermamnist+organsmnist", "medmnist_2d_derma": "dermamnist",
    "medmnist_2d_organs": "organsmnist",
}  # fmt: skip


def tower_of(depth: int) -> tuple[VisionTower, Blip2VisionConfig, dict[str, torch.Tensor]]:
    sizes = document("vit/index.json")["config"]
    config = Blip2VisionConfig(
        hidden_size=sizes["embed_dim"], intermediate_size=sizes["mlp_hidden"], num_hidden_layers=depth,
        num_attention_heads=sizes["heads"], image_size=sizes["img"], patch_size=sizes["patch"],
    )  # fmt: skip
    given = tensors("vit/eva_vit_tiny.safetensors")
    official = {name.removeprefix("sd."): tensor for name, tensor in given.items() if name.startswith("sd.")}
    tower = VisionTower(config)
    tower.vit.load_state_dict(from_eva(official, config), strict=True)
    return tower.eval(), config, official


@torch.no_grad()
def test_the_tower_equals_the_official_one_block_by_block() -> None:
    sizes, given = document("vit/index.json")["config"], tensors("vit/eva_vit_tiny.safetensors")
    tower, _, _ = tower_of(sizes["depth_file"])
    pixels = given[f"in.image{sizes['img']}"]
    states = tower.vit(pixel_values=pixels, output_hidden_states=True).hidden_states
    for block in range(sizes["depth_file"]):
        close(states[block + 1], given[f"out.block{block}"])


@torch.no_grad()
def test_the_features_of_the_second_to_last_block_are_normalised_without_the_class_token() -> None:
    sizes, given = document("vit/index.json")["config"], tensors("vit/eva_vit_tiny.safetensors")
    tower, _, _ = tower_of(sizes["depth_used"])
    expected = given[f"out.vit_depth{sizes['depth_used']}"]
    normalised = torch.nn.functional.layer_norm(expected, expected.shape[-1:], eps=LN_VISION_EPSILON)
    close(tower(given[f"in.image{sizes['img']}"]), normalised[:, 1:])
    close(normalised, given[f"out.ln_vision_depth{sizes['depth_used']}"])


@torch.no_grad()
def test_other_image_sizes_interpolate_the_positions_as_the_official_loader_does() -> None:
    sizes, given = document("vit/index.json")["config"], tensors("vit/eva_vit_tiny.safetensors")
    tower, _, official = tower_of(sizes["depth_used"])
    [pixels] = [name for name in given if name.startswith("in.image") and name != f"in.image{sizes['img']}"]
    size = int(pixels.removeprefix("in.image"))
    grid = size // sizes["patch"]
    positions = interpolated_positions(official["pos_embed"], grid)
    close(positions, given[f"out.pos_embed_{grid}x{grid}"])
    expected = given[f"out.vit_depth{sizes['depth_used']}_img{size}"]
    normalised = torch.nn.functional.layer_norm(expected, expected.shape[-1:], eps=LN_VISION_EPSILON)[:, 1:]
    close(tower(given[pixels]), normalised)
    larger = Blip2VisionConfig(**{**tower.vit.config.to_dict(), "image_size": size})
    state = from_eva(official, larger)
    close(state["embeddings.position_embedding"], positions)


def test_the_tower_goes_back_into_evas_names() -> None:
    sizes = document("vit/index.json")["config"]
    tower, _, official = tower_of(sizes["depth_used"])
    back = to_eva(tower.vit.state_dict())
    assert set(official) - set(back) == set(document("vit/index.json")["unexpected"])
    for name, tensor in back.items():
        close(tensor, official[name], 0)


def test_the_image_transform_equals_the_official_one() -> None:
    expected = tensors("data/image_preprocess.safetensors")
    assert expected
    for name, pixels in expected.items():
        picture, _, size = name.rpartition(".")
        path = root() / "data" / (picture if picture.endswith(".png") else f"{picture}.png")
        close(pixels_of(Image.open(path), int(size)), pixels, 1e-6)


@pytest.mark.slow
def test_full_size_parameter_counts_equal_the_official_ones() -> None:
    """Facts, section 1.7; the official code also trains what nothing reads, which we leave out and count apart."""
    table: dict[int, dict[str, Any]] = {
        727_068_165: {},
        346_299_909: {"router_input": "token"},
        59_900_000: {"connector_type": "mlp2x_gelu"},
        43_100_000: {"connector_type": "linear"},
        164_500_000: {"resample_rate": 1},
        288_600_000: {"resample_rate": 2},
        647_300_000: {"num_experts": 3},
        1_166_000_000: {"num_experts": 16},
        717_100_000: {"lora_rank": 4},
        867_000_000: {"lora_rank": 64},
    }
    for official, settings in table.items():
        config = checked_config(**settings)
        trained = sum(trained for trained, _ in parameters_of(meta_model(config)).values()) + dead_parameters(config)
        assert trained == official or (abs(trained - official) <= 50_000 and official % 100_000 == 0), settings


def test_the_parts_of_the_full_size_model_have_the_official_sizes() -> None:
    parts = parameters_of(meta_model(checked_config()))
    trained = {name: learns for name, (learns, _) in parts.items() if learns}
    assert trained == {"task tokens": 28_160, "router": 507_781_125, "experts": 199_270_400, "LoRA": 19_988_480}
    assert parts["language model"][1] == 6_738_415_616
    # transformers' tower also has a (zero) bias for the keys: 39 blocks of 1408.
    assert parts["vision tower"][1] == 985_894_528 + 39 * 1408


def test_evaluation_prompts_equal_the_official_ones() -> None:
    checked = 0
    for name, entry in document("data/datasets.json")["eval"].items():
        spec = get_task(OFFICIAL_NAMES[name])
        for values, prompt in zip(entry["tuples"], entry["prompt_sent_to_generate"], strict=True):
            [text] = [value for value in values if isinstance(value, str) and value.startswith("[")]
            instruction = text.split("] ", 1)[1].rstrip(" ")
            wrapped = wrap(spec.kind, instruction, images=1, form=OFFICIAL, purpose="generate")
            assert wrapped.starts == 2
            assert "<s>" + IMAGE_PLACEHOLDER.join(wrapped.parts) == prompt
            checked += 1
    assert checked


def test_training_prompts_and_their_pools_equal_the_official_ones() -> None:
    for name, entry in document("data/datasets.json")["train"].items():
        specs = [get_task(part) for part in OFFICIAL_NAMES[name].split("+")]
        kind = specs[0].kind
        pool = {re.sub(r"\{.*?\}", "{}", template) for spec in specs for template in spec.train_prompts}
        if entry["instruction_pool"]:
            assert {re.sub(r"^\[\w+\] ", "", text) for text in entry["instruction_pool"]} == pool
        for sample in entry["samples(random.seed(100+i))"]:
            text = re.sub(r"^(<Img><ImageHere></Img> )?\[\w+\] ", "", sample["instruction_input"])
            images = int(kind != "qa")
            wrapped = wrap(
                kind, text.removesuffix(" ") if images else text, images=images, form=OFFICIAL, purpose="train"
            )
            assert IMAGE_PLACEHOLDER.join(wrapped.parts) == f"[INST] {sample['instruction_input']} [/INST]"
            assert sample["answer"] == first_words(sample["answer"])


def test_texts_are_cut_as_the_official_processor_cuts_them() -> None:
    pairs = document("data/datasets.json")["text_processor"]
    assert [first_words(pair["in"]) for pair in pairs] == [pair["out"] for pair in pairs]


@pytest.mark.parametrize("kind", ["vqa", "qa", "report"])
def test_the_clean_style_is_the_same_for_training_and_answering(kind: Kind) -> None:
    long = " ".join(f"w{number}" for number in range(80))
    images = int(kind != "qa")
    taught, asked = (wrap(kind, long, images=images, purpose=purpose) for purpose in ("train", "generate"))
    assert taught == asked
    assert taught.starts == 1
    assert taught.parts[-1].endswith("w79 [/INST]")


def test_box_strings_equal_the_official_ones() -> None:
    entry = document("data/datasets.json")["eval"]["invref_slake"]
    boxes = document("data/datasets.json")["eval"]["ref_slake"]["tuples"]
    for prompt, (*_, box, size) in zip(entry["prompt_sent_to_generate"], boxes, strict=True):
        assert UNI_MED.write(Box.from_xywh(*box), (int(size[0]), int(size[1]))) in prompt


def test_the_learning_rates_equal_the_official_ones() -> None:
    checked = 0
    for name, rates in document("schedule_and_sampling.json").items():
        numbers = re.search(r"init([\d.e-]+),min([\d.e-]+),warmup_lr([\d.e-]+),warm(\d+),iters(\d+)", name)
        if numbers is None:
            continue
        peak, floor, start, warmup, steps = map(float, numbers.groups())
        schedule = Schedule(shape="official", peak=peak, floor=floor, start=start, warmup_steps=int(warmup))
        for step, rate in rates.items():
            assert schedule.rate(int(step.split(":")[1]), int(steps)) == pytest.approx(rate, rel=1e-12)
            checked += 1
    assert checked


def test_the_datasets_are_drawn_in_the_official_order() -> None:
    given = document("schedule_and_sampling.json")
    [name] = [name for name in given if name.startswith("dataset_pick_sequence")]
    [seed] = re.findall(r"seed(\d+)", name)
    recipe = load_recipe("official", planned=True)
    total = sum(recipe.mixture.values())
    ours = {entry: weight / total for entry, weight in recipe.mixture.items()}
    assert ours == pytest.approx({OFFICIAL_NAMES[entry]: rate for entry, rate in given["ratios"].items()})
    mixture = Mixture(dict.fromkeys(recipe.mixture, 10), recipe.mixture, micro_batch=4, seed=int(seed))
    assert list(islice(mixture.picks(), len(given[name]))) == [OFFICIAL_NAMES[entry] for entry in given[name]]


def test_segments_of_the_real_tokenizers_fixture_are_ours() -> None:
    for entry in document("tokenizer_llama2.json")["prompts"]:
        inner = re.fullmatch(
            r"(?:<s>)?\[INST\] (?:<Img><ImageHere></Img> )?\[(\w+)\] (.*) \[/INST\]", entry["prompt"], re.DOTALL
        )
        if inner is None:
            continue
        kinds: dict[str, Kind] = {
            "caption": "report",
            "refer": "rec",
            "identify": "reg",
            "qa": "qa",
            "vqa": "vqa",
            "cls": "cls",
        }
        kind, images = kinds[inner[1]], entry["prompt"].count(IMAGE_PLACEHOLDER)
        generating = entry["prompt"].startswith("<s>")
        instruction = inner[2].rstrip(" ")
        wrapped = wrap(kind, instruction, images=images, form=OFFICIAL, purpose="generate" if generating else "train")
        first, *others = wrapped.parts
        assert [("<s>" if generating else "") + first, *others] == entry["segments"]


def test_token_ids_of_the_real_llama_tokenizer() -> None:
    folder = os.environ.get("MEDBENCH_LLAMA_TOKENIZER")
    if not folder:
        pytest.skip("LLaMA's tokenizer.model may not be passed on: set MEDBENCH_LLAMA_TOKENIZER to a folder with it")
    given = document("tokenizer_llama2.json")
    tokenizer = load_language_model_tokenizer(Path(folder))
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (
        given["pad_token_id"], given["bos"], given["eos"],
    )  # fmt: skip
    processor = UniMedProcessor(tokenizer)
    for entry in given["prompts"]:
        generating = entry["segments"][0].startswith("<s>")
        parts = (entry["segments"][0].removeprefix("<s>"), *entry["segments"][1:])
        assert processor.segment_ids(WrappedPrompt(parts=parts, starts=2 if generating else 0)) == entry["ids"]
    for entry in given["answers"]:
        assert processor.answer_ids(entry["text"].removesuffix("</s>")) == entry["ids"]
