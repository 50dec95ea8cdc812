"""A whole tiny official model against ours: prompts, ids, embeddings, loss, greedy answers, checkpoint, six steps."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from unimed_fixtures import close, document, root, tensors

from medbench.unimed.checkpoint import BaseWeights, assemble, processor_on, read_language_config
from medbench.unimed.configuration import CONNECTOR_TASKS, UniMedConfig
from medbench.unimed.convert import (
    config_of,
    dead_shapes,
    from_official,
    load_official,
    read_official,
    to_official,
    write_official,
)
from medbench.unimed.lora import merge_low_rank
from medbench.unimed.modeling import IGNORED_LABEL, UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import WrappedPrompt

ENTRY = "e2e/meta.json"


def base() -> BaseWeights:
    folder = root() / "e2e"
    return BaseWeights(language_model=str(folder / "llama_tiny"), vision=str(folder / "eva_vit_tiny.pth"))


def official_config() -> UniMedConfig:
    meta = document(ENTRY)
    vit = meta["vit"]
    vision = {
        "hidden_size": vit["embed_dim"],
        "num_hidden_layers": vit["depth_used"],
        "num_attention_heads": vit["heads"],
        "intermediate_size": vit["mlp_hidden"],
        "patch_size": vit["patch"],
    }
    text = read_language_config(Path(base().language_model)).to_dict()
    return config_of(meta["config"], vision=vision, text=text)


def checkpoint_path() -> Path:
    [path] = sorted((root() / "e2e").glob("checkpoint_*.pth"))
    return path


@pytest.fixture(scope="module")
def built() -> tuple[UniMedForConditionalGeneration, UniMedProcessor]:
    config = official_config()
    processor = processor_on(base(), config)
    model = assemble(config, base(), dtype=torch.float32)
    load_official(model, read_official(checkpoint_path()), "the official checkpoint")
    model.train(mode=False)
    return model, processor


def batches() -> Iterator[tuple[str, dict[str, Any]]]:
    yield from document(ENTRY)["train_batches"].items()


def official_batch(entry: dict[str, Any], processor: UniMedProcessor, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the batch of the recorded instructions, from their texts."""
    rows = []
    for prompt, answer in zip(entry["wrapped_prompts"], entry["answer"], strict=True):
        wrapped = WrappedPrompt(parts=tuple(prompt.split("<ImageHere>")))
        rows.append((processor.prompt_ids(wrapped), processor.answer_ids(answer)))
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), length), int(processor.tokenizer.pad_token_id))
    labels, mask = torch.full_like(ids, IGNORED_LABEL), torch.zeros_like(ids)
    for row, (prompt, answer) in enumerate(rows):
        ids[row, : len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        labels[row, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
        mask[row, : len(prompt) + len(answer)] = 1
    batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    if entry["task"] in CONNECTOR_TASKS:
        batch |= {"pixel_values": images[: len(rows)], "task_ids": torch.full((len(rows),), task_id(entry["task"]))}
    return batch


def task_id(task: str) -> int:
    return CONNECTOR_TASKS.index(task)


def test_token_ids_of_prompts_and_answers_equal_the_official_ones(
    built: tuple[UniMedForConditionalGeneration, UniMedProcessor],
) -> None:
    _, processor = built
    assert processor.tokenizer.pad_token_id == document(ENTRY)["pad_token_id"]
    for _, entry in batches():
        for prompt, ids in zip(entry["wrapped_prompts"], entry["prompt_segment_ids"], strict=True):
            segments = processor.segment_ids(WrappedPrompt(parts=tuple(prompt.split("<ImageHere>")), starts=0))
            assert segments == ids
        for answer, ids in zip(entry["answer"], entry["answer_ids"], strict=True):
            assert processor.answer_ids(answer) == ids


@torch.no_grad()
def test_the_tower_and_the_connector_equal_the_official_ones(
    built: tuple[UniMedForConditionalGeneration, UniMedProcessor],
) -> None:
    model, _ = built
    given = tensors("e2e/tensors.safetensors")
    features = model.vision_tower(given["in.images"])
    close(features, given["mid.ln_vision_out"][:, -features.shape[1] :])
    for name in given:
        if name.startswith("mid.") and name.endswith(".img_embeds"):
            task = name.split(".")[1]
            resampled = model.encode_images(given["in.images"])
            task_ids = torch.full((len(resampled),), task_id(task))
            close(model.project(resampled, task_ids), given[name])
            if f"mid.{task}.routing_weights" in given:
                close(model.connector.routing_weights(resampled, task_ids), given[f"mid.{task}.routing_weights"])


@torch.no_grad()
def test_embeddings_labels_and_losses_equal_the_official_ones(
    built: tuple[UniMedForConditionalGeneration, UniMedProcessor],
) -> None:
    model, processor = built
    given = tensors("e2e/tensors.safetensors")
    for name, entry in batches():
        batch = official_batch(entry, processor, given["in.images"])
        features = model.encode_images(batch["pixel_values"]) if "pixel_values" in batch else None
        embeddings = model.embed(batch["input_ids"], features, batch.get("task_ids"))
        # The official rows are as long as the longest prompt and the longest answer together: more padding, no more.
        length = batch["input_ids"].shape[1]
        assert not given[f"train.{name}.attention_mask"][:, length:].any()
        close(embeddings, given[f"train.{name}.inputs_embeds"][:, :length])
        assert torch.equal(batch["attention_mask"], given[f"train.{name}.attention_mask"][:, :length].long())
        assert torch.equal(batch["labels"], given[f"train.{name}.labels"][:, :length].long())
        loss = model(**batch).loss
        assert abs(float(loss) - entry["loss_mean"]) <= 5e-5
        without_labels = {key: value for key, value in batch.items() if key != "labels"}
        logits = model(**without_labels).logits
        seen = batch["attention_mask"].bool()
        close(logits[seen], given[f"train.{name}.logits"][:, :length][seen])


@torch.no_grad()
def test_greedy_answers_equal_the_official_ones(
    built: tuple[UniMedForConditionalGeneration, UniMedProcessor],
) -> None:
    model, processor = built
    given = tensors("e2e/tensors.safetensors")
    for name, entry in document(ENTRY)["generate"].items():
        rows = []
        for prompt in entry["prompts"]:
            parts = tuple(prompt.removeprefix("<s>").split("<ImageHere>"))
            rows.append(processor.prompt_ids(WrappedPrompt(parts=parts, starts=2)))
        length = max(map(len, rows))
        ids = torch.tensor([[processor.tokenizer.pad_token_id] * (length - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
        inputs: dict[str, torch.Tensor] = {}
        if name in CONNECTOR_TASKS:
            inputs = {
                "pixel_values": given["in.images"][: len(rows)],
                "task_ids": torch.full((len(rows),), task_id(name)),
            }
        generate = cast("Any", model).generate
        written = generate(
            input_ids=ids, attention_mask=mask, **inputs, do_sample=False, max_new_tokens=entry["max_new_tokens"],
            temperature=None, top_p=None, pad_token_id=int(processor.tokenizer.eos_token_id),
        )[:, length:]  # fmt: skip
        end = int(processor.tokenizer.eos_token_id)
        for row, official in zip(written.tolist(), entry["generated_ids"], strict=True):
            assert until(row, end) == until(official, end)


def until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


@torch.no_grad()
def test_merged_lora_answers_as_before() -> None:
    config = official_config()
    processor = processor_on(base(), config)
    model = assemble(config, base(), dtype=torch.float32)
    model.train(mode=False)
    load_official(model, read_official(checkpoint_path()), "the official checkpoint")
    _, entry = next(batches())
    batch = official_batch(entry, processor, tensors("e2e/tensors.safetensors")["in.images"])
    del batch["labels"]
    before = model(**batch).logits
    merge_low_rank(model.language_model)
    assert not any("lora" in name for name in model.state_dict())
    close(model(**batch).logits, before)


def test_an_official_checkpoint_comes_back_under_its_own_names(
    built: tuple[UniMedForConditionalGeneration, UniMedProcessor], tmp_path: Path
) -> None:
    model, _ = built
    write_official(model, tmp_path / "again.pth")
    official, again = read_official(checkpoint_path()), read_official(tmp_path / "again.pth")
    dead = dead_shapes(model.config)
    assert set(again.tensors) == set(official.tensors) - set(dead)
    for name, tensor in official.tensors.items():
        if name in dead:
            continue
        close(again.tensors[name], tensor, 1e-4 if "inv_freq" in name else 0)  # that buffer went through float16
    shared = document(ENTRY)["checkpoint_shared_storage"]
    for first, second, *_ in shared:
        assert again.tensors[first].data_ptr() == again.tensors[second].data_ptr()
    ours = {key: again.settings[key] for key in again.settings if key in official.settings}
    assert ours == {key: official.settings[key] for key in ours}


def test_the_whole_official_state_maps_both_ways(
    built: tuple[UniMedForConditionalGeneration, UniMedProcessor],
) -> None:
    model, _ = built
    whole = tensors("e2e/full_state_dict.safetensors")
    state = from_official(whole, model.config, model.state_dict().keys())
    assert set(state) == set(model.state_dict())
    for name, tensor in model.state_dict().items():
        close(tensor, state[name])
    back = to_official(model.state_dict(), model.config)
    assert {name for name in whole if name not in back} <= {
        name for name in whole if "inv_freq" in name or "ln_vision" in name or "base_layer" in name
    } | set(dead_shapes(model.config))


def test_six_official_steps_give_the_official_weights() -> None:
    from medbench.unimed.training.recipe import Schedule
    from medbench.unimed.training.trainer import decay_idle_experts, make_optimizer, official_decays

    meta = document(ENTRY)
    steps, run = meta["train_steps"], meta["train_steps"]["run"]
    config = official_config()
    config.lora_dropout = 0.0
    processor = processor_on(base(), config)
    model = assemble(config, base(), dtype=torch.float32)
    load_official(model, read_official(checkpoint_path()), "the official checkpoint")
    schedule = Schedule(
        shape="official", peak=run["init_lr"], floor=run["min_lr"], start=run["warmup_lr"],
        warmup_steps=run["warmup_steps"],
    )  # fmt: skip
    [group] = [group for group in meta["optimizer_groups"] if group["weight_decay"]]
    optimizer = make_optimizer(
        model.trainable(), decays=official_decays, weight_decay=run["weight_decay"],
        betas=tuple(group["betas"]), epsilon=group["eps"],
    )  # fmt: skip
    model.train()
    images = tensors("e2e/tensors.safetensors")["in.images"]
    entries = dict(batches())
    for step, (name, official_loss) in enumerate(zip(steps["order"], steps["losses"], strict=True)):
        rate = schedule.rate(step, run["max_epoch"] * run["iters_per_epoch"])
        assert rate == pytest.approx(steps["lrs"][step], rel=1e-12)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss = model(**official_batch(entries[name], processor, images)).loss
        assert abs(float(loss.detach()) - official_loss) <= 5e-5
        loss.backward()
        decay_idle_experts(model.connector)
        optimizer.step()
    after = from_official(tensors("e2e/trainable_after_6_steps.safetensors"), config, model.state_dict().keys())
    assert set(after) == set(model.trainable())
    for name, parameter in model.trainable().items():
        close(parameter.detach(), after[name])


def test_parameter_groups_equal_the_official_ones() -> None:
    from medbench.unimed.convert import official_name
    from medbench.unimed.training.trainer import official_decays

    config = official_config()
    model = assemble(config, base(), dtype=torch.float32)
    decayed: set[str] = set()
    spared: set[str] = set()
    for name, parameter in model.trainable().items():
        official = official_name(name, config)
        (decayed if official_decays(official, parameter) else spared).add(official)
    for group in document(ENTRY)["optimizer_groups"]:
        assert set(group["params"]) - set(dead_shapes(config)) == (decayed if group["weight_decay"] else spared)
