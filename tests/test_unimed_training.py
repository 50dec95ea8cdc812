"""Training: recipes, the schedule, the corpus, and a whole tiny training through the command line."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from command_line import medbench
from transformers import Blip2VisionConfig

from tasks.catalog import get_task
from tasks.foundation.errors import UsageError
from tasks.sample import Sample
from unimed.modeling import IGNORED_LABEL
from unimed.training.augmentation import distorted
from unimed.training.corpus import Corpus, Example, distort_classified, load_corpus, make_batch
from unimed.training.loop import Deck, build, learning_rate, make_optimizer
from unimed.training.recipe import Recipe, VisionStage, load_recipe
from unimed.training.vision_stage import make_targets, train_vision
from unimed.vision import VisionTower

TINY = (
    "steps=6",
    "micro_batch=2",
    "micro_batches=2",
    "warmup_steps=2",
    "validate_every=3",
    "vocabulary=400",
    "vision_stage={steps: 3, batch: 4, peak_learning_rate: 0.001, weight_decay: 0.05}",
    "mixture={slake-vqa: 1, slake-rec: 1, medqa: 1, dermamnist: 1}",
)


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("mini", TINY)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("stepz=5",), "stepz"),
        (("steps=many",), "steps"),
        (("steps",), "has no value"),
        (("model={vision: {}}",), "model"),
        (("steps=[",), "not YAML"),
        (("mixture={}",), "mixture"),
        (("micro_batch=0",), "micro_batch"),
        (("validation_share=1.0",), "validation_share"),
        (("save_dtype=foo",), "save_dtype"),
    ],
)
def test_a_recipe_with_a_wrong_setting_is_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("mini", overrides)


def test_the_learning_rate_warms_up_and_ends_where_it_should(recipe: Recipe) -> None:
    longer = replace(recipe, steps=1000, warmup_steps=10)
    rates = [learning_rate(longer, step) for step in range(1000)]
    assert rates[9] == pytest.approx(longer.peak_learning_rate)
    assert max(rates) == pytest.approx(longer.peak_learning_rate)
    assert rates[0] == pytest.approx(longer.peak_learning_rate / 10)
    assert rates[-1] == pytest.approx(longer.final_learning_rate, rel=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_deck_deals_everything_before_anything_twice() -> None:
    deck: Deck[int] = Deck(range(7), random.Random(0))
    dealt = [item for _ in range(7) for item in deck.deal(3)]
    assert sorted(dealt[:7]) == list(range(7))
    assert sorted(dealt) == sorted(list(range(7)) * 3)


def test_batches_learn_the_answer_and_nothing_else(small_data: Path, recipe: Recipe) -> None:
    corpus = load_corpus(small_data, recipe.mixture, image_size=112, validation_share=0.0)
    model, processor = build(recipe, corpus)
    examples = [corpus.train["slake-rec"][0], corpus.train["slake-rec"][1]]
    batch = make_batch(examples, corpus, processor, random.Random(0))
    for row, example in enumerate(examples):
        learned = batch["labels"][row][batch["labels"][row] != IGNORED_LABEL].tolist()
        assert processor.tokenizer.decode(learned[:-1]).strip() == example.answer()
        assert learned[-1] == processor.tokenizer.eos_token_id
    assert int(batch["input_ids"].eq(processor.image_token_id).sum()) == 2 * model.config.visual_tokens
    assert batch["task_ids"].tolist() == [1, 1]


def test_text_only_batches_have_no_pictures(small_data: Path, recipe: Recipe) -> None:
    corpus = load_corpus(small_data, ["medqa"], image_size=112, validation_share=0.0)
    _, processor = build(recipe, corpus)
    batch = make_batch(corpus.train["medqa"][:2], corpus, processor, random.Random(0))
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_held_out_groups_do_not_cross(small_data: Path) -> None:
    corpus = load_corpus(small_data, ["dermamnist"], image_size=28, validation_share=0.5)
    train = {example.sample.groups["image"] for example in corpus.train["dermamnist"]}
    held_out = {example.sample.groups["image"] for example in corpus.held_out["dermamnist"]}
    assert train
    assert held_out
    assert not train & held_out


def test_other_views_are_of_the_same_picture_and_repeatable() -> None:
    pixels = torch.zeros(6, 3, 32, 32)
    pixels[:, :, 8:24, 8:24] = 1.0
    first = distorted(pixels, torch.Generator().manual_seed(3))
    assert first.shape == pixels.shape
    assert torch.equal(first, distorted(pixels, torch.Generator().manual_seed(3)))
    assert len({tuple(view.flatten().tolist()) for view in first}) == 6
    assert first.min() >= 0
    assert first.max() <= 1
    # Turned, zoomed by at most 15 % and shifted by at most a tenth, the square keeps its area but for that.
    areas = first[:, 0].mean(dim=(1, 2)) / pixels[:, 0].mean(dim=(1, 2))
    assert bool(((areas > 0.7) & (areas < 1.45)).all())


def test_only_classified_pictures_are_distorted(small_data: Path, recipe: Recipe) -> None:
    corpus = load_corpus(small_data, ["dermamnist", "slake-rec"], image_size=112, validation_share=0.0)
    _, processor = build(recipe, corpus)
    for task, changes in (("dermamnist", True), ("slake-rec", False)):
        examples = corpus.train[task][:4]
        batch = make_batch(examples, corpus, processor, random.Random(0))
        coin = torch.Generator().manual_seed(1)
        distorted_pixels = distort_classified(batch, examples, coin)["pixel_values"]
        assert torch.equal(distorted_pixels, batch["pixel_values"]) != changes


def test_weight_decay_spares_vectors_and_task_tokens(small_data: Path, recipe: Recipe) -> None:
    corpus = load_corpus(small_data, ["slake-rec"], image_size=112, validation_share=0.0)
    model, _ = build(recipe, corpus)
    groups = make_optimizer(recipe, model).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = [group for group in groups if group["weight_decay"]]
    spared = {names[id(item)] for group in groups if not group["weight_decay"] for item in group["params"]}
    assert "connector.task_tokens.vqa" in spared
    assert all(parameter.ndim > 1 for group in decayed for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_tower_learns_on_at_its_own_rate_or_not_at_all(small_data: Path, recipe: Recipe, share: float) -> None:
    stage = replace(recipe.vision_stage, later_rate=share)
    corpus = load_corpus(small_data, ["slake-rec"], image_size=112, validation_share=0.0)
    model, _ = build(recipe, corpus)
    model.vision_tower.requires_grad_(requires_grad=share > 0)
    groups = make_optimizer(replace(recipe, vision_stage=stage), model).param_groups
    of_tower = {id(parameter) for parameter in model.vision_tower.parameters()}
    shares = {group["share"] for group in groups for parameter in group["params"] if id(parameter) in of_tower}
    assert shares == ({share} if share else set())


def test_train_then_run_through_the_command_line(small_data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    settings = [word for setting in TINY for word in ("--set", setting)]
    trained = medbench("train", "--config", "mini", *settings, "--data-dir", small_data, "--output", checkpoint)
    assert trained.returncode == 0, trained.stderr
    records = [json.loads(line) for line in (checkpoint / "train_log.jsonl").read_text().splitlines()]
    assert records[0]["stage"] == "vision"
    assert records[-1]["step"] == 6
    assert set(records[-1]["held_out"]) <= {"slake-vqa", "slake-rec", "medqa", "dermamnist"}
    assert yaml.safe_load((checkpoint / "recipe.yaml").read_text())["steps"] == 6
    assert (checkpoint / "learning_curve.svg").read_text().startswith("<?xml")
    again = medbench("train", "--config", "mini", *settings, "--data-dir", small_data, "--output", checkpoint)
    assert again.returncode == 1
    assert "holds a checkpoint already" in again.stderr
    result = medbench(
        "run", "--model", "uni-med", "--checkpoint", checkpoint, "--data-dir", small_data, "--tasks", "slake-*,medqa",
        "--output-dir", tmp_path / "runs",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "MINI WEIGHTS" not in result.stderr


def test_the_same_recipe_gives_the_same_weights(small_data: Path, tmp_path: Path) -> None:
    settings = [word for setting in (*TINY, "steps=2") for word in ("--set", setting)]
    for name in ("one", "two"):
        done = medbench("train", *settings, "--data-dir", small_data, "--output", tmp_path / name)
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


def test_the_vision_stage_knows_what_is_said_and_shown(small_data: Path) -> None:
    corpus = load_corpus(
        small_data, ["slake-reg", "dermamnist", "mimic-cxr", "medqa"], image_size=112, validation_share=0.0
    )
    examples = [example for of_task in corpus.train.values() for example in of_task]
    targets = make_targets(examples, len(corpus.pictures), 8)
    classified, others = targets.known_rows()
    assert len(classified) == len(corpus.train["dermamnist"])
    assert not set(classified) & set(others)
    boxed = corpus.train["slake-reg"][0]
    assert boxed.sample.box is not None
    assert boxed.sample.image_size is not None
    covered = targets.regions[boxed.picture].any(dim=1).reshape(8, 8)
    left, top, right, bottom = boxed.sample.box.scaled(8 / boxed.sample.image_size[0], 8 / boxed.sample.image_size[1])
    assert covered[round(top) : round(bottom), round(left) : round(right)].all()


def test_the_vision_stage_learns_classes_and_changes_only_the_tower() -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 60, (40, 3, 28, 28), dtype=torch.uint8)
    pictures[::2, :, 8:20, 8:20] += 180
    spec = get_task("dermamnist")
    examples = [
        Example(
            spec=spec,
            sample=Sample(
                sample_id=str(row), task=spec.name, split="train", reference="bright" if row % 2 == 0 else "dark"
            ),
            picture=row,
        )
        for row in range(40)
    ]
    corpus = Corpus(train={spec.name: examples[:30]}, held_out={spec.name: examples[30:]}, pictures=pictures)
    tower = VisionTower(
        Blip2VisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28,
            patch_size=7, initializer_range=0.2,
        )
    )  # fmt: skip
    stage = VisionStage(steps=60, batch=32, peak_learning_rate=3e-3, weight_decay=0.0)
    losses: list[float] = []
    found = train_vision(tower, corpus, 4, stage, seed=0, report=lambda _, loss: losses.append(loss))
    assert len(losses) == 60
    assert found == {"dermamnist": 1.0}
