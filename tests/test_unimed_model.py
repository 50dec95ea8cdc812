"""Uni-Med as a transformers model, and its checkpoints."""

from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_model import small

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.unimed.checkpoint import load_checkpoint
from medbench.unimed.weights import device_and_dtype


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    model, processor = small(router_hidden_size=16)
    model.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    return folder


def picture(shade: int) -> Image.Image:
    return Image.new("RGB", (40, 30), (shade, 255 - shade, 90))


@torch.no_grad()
def test_a_checkpoint_comes_back_as_it_was(checkpoint: Path) -> None:
    model, _ = small(router_hidden_size=16)
    loaded = load_checkpoint(checkpoint, device="cpu", merge=False).model
    for (name, before), (_, after) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert torch.equal(before, after), name


@torch.no_grad()
def test_the_answer_depends_on_the_image_and_on_the_task(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint, device="cpu")
    logits = []
    for shade in (10, 240):
        for task in (0, 3):
            inputs = loaded.processor(["[INST] <Img><ImageHere></Img> what? [/INST]"], [picture(shade)])
            logits.append(loaded.model(**inputs, task_ids=torch.tensor([task])).logits[0, -1])
    for one, other in combinations(logits, 2):
        assert (one - other).abs().max() > 1e-4


@torch.no_grad()
def test_a_batch_of_prompts_is_padded_without_harm(checkpoint: Path) -> None:
    loaded = load_checkpoint(checkpoint, device="cpu")
    prompts = [
        "[INST] <Img><ImageHere></Img> what? [/INST]",
        "[INST] <Img><ImageHere></Img> what organ is that? [/INST]",
    ]
    pictures = [picture(10), picture(200)]

    def write(texts: list[str], images: list[Image.Image]) -> list[list[int]]:
        inputs = loaded.processor(texts, images)
        tasks = torch.zeros(len(images), dtype=torch.long)
        length = inputs["input_ids"].shape[1]
        rows: list[list[int]] = (
            cast("Any", loaded.model)
            .generate(**inputs, task_ids=tasks, max_new_tokens=10, min_new_tokens=10, do_sample=False)[:, length:]
            .tolist()
        )
        return rows

    alone = [write([prompt], [image])[0] for prompt, image in zip(prompts, pictures, strict=True)]
    assert write(prompts, pictures) == alone


def test_placeholders_and_images_must_agree() -> None:
    model, processor = small(router_hidden_size=16)
    inputs = processor(["no image here"], [picture(1)])
    with pytest.raises(ValueError, match="0 image placeholders"):
        model(**inputs, task_ids=torch.tensor([0]))
    with pytest.raises(ValueError, match="task_ids"):
        model(**inputs)


def test_a_question_cannot_pass_for_a_special_token() -> None:
    _, processor = small(router_hidden_size=16)
    ids = processor.text_ids("tell me </s><s><ImageHere> now")
    assert not {processor.image_token_id, processor.tokenizer.eos_token_id, processor.tokenizer.bos_token_id} & set(ids)
    assert processor.tokenizer.decode(ids).strip() == "tell me </s><s><ImageHere> now"


@pytest.mark.parametrize("number", [0, 7, 42, 100])
def test_a_coordinate_is_one_token(number: int) -> None:
    _, processor = small(router_hidden_size=16)
    assert str(number) in processor.tokenizer.convert_ids_to_tokens(processor.text_ids(f"{{<{number}><5>}}"))


def test_only_labelled_tokens_enter_the_loss() -> None:
    model, processor = small(router_hidden_size=16)
    inputs = processor(["[INST] <Img><ImageHere></Img> what? [/INST] Liver"], [picture(3)])
    labels = torch.full_like(inputs["input_ids"], -100)
    labels[0, -2:] = inputs["input_ids"][0, -2:]
    tasks = torch.tensor([0])
    logits = model(**inputs, task_ids=tasks).logits
    expected = torch.nn.functional.cross_entropy(logits[0, -3:-1], labels[0, -2:])
    torch.testing.assert_close(model(**inputs, task_ids=tasks, labels=labels).loss, expected)


def damaged(checkpoint: Path, tmp_path: Path, change: str) -> Path:
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    if change == "missing":
        del weights["connector.router.fc1_bias"]
    elif change == "unexpected":
        weights["connector.experts.9.0.weight"] = torch.zeros(2)
    elif change == "misshapen":
        weights["connector.router.fc2.bias"] = torch.zeros(7)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    if change == "truncated":
        whole = (tmp_path / "model.safetensors").read_bytes()
        (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    if change == "no config":
        (tmp_path / "config.json").unlink()
    return tmp_path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("missing", "1 missing: connector.router.fc1_bias"),
        ("unexpected", "1 unexpected: connector.experts.9.0.weight"),
        ("misshapen", "1 mismatched: connector.router.fc2.bias"),
        ("truncated", "cannot be read"),
        ("no config", "config.json missing"),
    ],
)
def test_a_checkpoint_that_does_not_fit_stops_the_load(
    checkpoint: Path, tmp_path: Path, change: str, says: str
) -> None:
    with pytest.raises(DataError) as caught:
        load_checkpoint(damaged(checkpoint, tmp_path, change), device="cpu")
    assert says in str(caught.value)


def test_a_device_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(UsageError, match="no device 'cuda'"):
        device_and_dtype("cuda", "auto")
