"""Training from scratch: recipes, the corpus, batches, the vision stage, and a whole tiny training by command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from command_line import medbench
from PIL import Image
from transformers import Blip2VisionConfig

from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.sample import ImageRef, Sample
from medbench.unimed.modeling import IGNORED_LABEL, UniMedForConditionalGeneration
from medbench.unimed.processing import UniMedProcessor
from medbench.unimed.prompts import PromptForm
from medbench.unimed.training.corpus import (
    BatchMaker,
    Corpus,
    Draw,
    Example,
    Images,
    distorted,
    image_rows,
    load_corpus,
    text_batch,
)
from medbench.unimed.training.plan import build
from medbench.unimed.training.recipe import Recipe, Schedule, VisionStage, load_recipe, preset_names
from medbench.unimed.training.trainer import make_optimizer, matrices_decay
from medbench.unimed.training.vision_stage import make_targets, train_vision
from medbench.unimed.vision import VisionTower

TINY = (
    "steps=6",
    "micro_batch=2",
    "micro_batches=2",
    "schedule.warmup_steps=2",
    "validation={share: 0.04, every: 3, answers: 2}",
    "model.vocabulary=400",
    "vision_stage={steps: 3, batch: 4, peak_learning_rate: 0.001, weight_decay: 0.05}",
    "mixture={slake-vqa: 1, slake-rec: 1, medqa: 1, dermamnist: 1}",
    "log_every=1",
    "checkpoints={every: 4, keep: 1}",
)
CLEAN = PromptForm()


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("mini", TINY)


def scratch(data: Path, recipe: Recipe, tasks: list[str], size: int = 112, share: float = 0.0) -> tuple[Corpus, Recipe]:
    validation = replace(recipe.validation, share=share)
    chosen = replace(recipe, mixture=dict.fromkeys(tasks, 1.0), validation=validation)
    return load_corpus(data, chosen, image_size=size), chosen


def built(corpus: Corpus, recipe: Recipe) -> tuple[UniMedForConditionalGeneration, UniMedProcessor]:
    return build(recipe, corpus, None, frozen_dtype=torch.float32)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (("stepz=5",), "stepz"),
        (("steps=many",), "steps"),
        (("steps",), "has no value"),
        (("model={vision: {}}",), "one language model"),
        (("steps=[",), "not YAML"),
        (("mixture={}",), "mixture"),
        (("mixture={slake-vqq: 1}",), "slake-vqa"),
        (("mixture={slake-vqa: 1, slake-vqa+medqa: 1}",), "twice"),
        (("micro_batch=0",), "micro_batch"),
        (("draws=by_image",), "draws"),
        (("draws=image_centric", "micro_batches=1"), "micro_batches is 1"),
        (("validation.share=1.0",), "share"),
        (("checkpoints.dtype=foo",), "dtype"),
        (("schedule.warmup_steps=2000",), "warmup_steps"),
        (("feature_cache_gb=1",), "cached"),
        (("optimizer.betas=[0.9, 1.5]",), "betas"),
        (("mixture.medqa=.inf",), "finite"),
        (("validation={share: 0, answers: 3}",), "nothing is held out"),
        (("model.unimed.language_tuning=none",), "text-only"),
        (("model.vision_weights=eva.pth",), "one vision tower"),
    ],
)
def test_a_recipe_with_a_wrong_setting_is_refused(overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load_recipe("mini", overrides)


@pytest.mark.parametrize("name", ["official", "paper", "small"])
def test_presets_ask_for_the_weights_that_they_may_not_bring(name: str) -> None:
    with pytest.raises(UsageError, match="language_model"):
        load_recipe(name)
    assert load_recipe(name, planned=True).name == name


def test_an_unknown_preset_is_refused_with_the_list_of_presets() -> None:
    with pytest.raises(UsageError, match="mini, mini-ablation, mini-scratch, official, paper, small"):
        load_recipe("offical")
    assert preset_names() == ["mini", "mini-ablation", "mini-scratch", "official", "paper", "small"]


def test_the_learning_rate_warms_up_and_ends_where_it_should() -> None:
    schedule = Schedule(shape="cosine", peak=1e-3, floor=5e-5, warmup_steps=10)
    rates = [schedule.rate(step, 1000) for step in range(1000)]
    assert rates[9] == max(rates) == pytest.approx(1e-3)
    assert rates[0] == pytest.approx(1e-4)
    assert rates[-1] == pytest.approx(5e-5, rel=0.01)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_batches_learn_the_answer_and_nothing_else(small_data: Path, recipe: Recipe) -> None:
    corpus, chosen = scratch(small_data, recipe, ["slake-rec"])
    model, processor = built(corpus, chosen)
    examples = corpus.train["slake-rec"][:2]
    batch = text_batch(examples, [example.spec.prompt for example in examples], processor)
    for row, example in enumerate(examples):
        learned = batch["labels"][row][batch["labels"][row] != IGNORED_LABEL].tolist()
        assert processor.tokenizer.decode(learned[:-1]).strip() == example.answer(CLEAN)
        assert learned[-1] == processor.tokenizer.eos_token_id
    assert int(batch["input_ids"].eq(processor.image_token_id).sum()) == 2 * model.config.visual_tokens
    assert batch["task_ids"].tolist() == [1, 1]


def test_text_only_batches_have_no_pictures_and_are_cut_at_their_limits(small_data: Path, recipe: Recipe) -> None:
    corpus, chosen = scratch(small_data, recipe, ["medqa"])
    _, processor = built(corpus, chosen)
    examples = corpus.train["medqa"][:2]
    templates = [example.spec.prompt for example in examples]
    whole = text_batch(examples, templates, processor)
    assert set(whole) == {"input_ids", "attention_mask", "labels"}
    seen = corpus.train["medqa"][0].prompt(CLEAN)
    assert len(processor.prompt_ids(seen)) > 5
    cut = text_batch(examples, templates, processor, longest_prompt=5, longest_answer=2)
    assert cut["input_ids"].shape[1] == 7
    assert torch.equal(cut["input_ids"][:, :5], whole["input_ids"][:, :5])


def test_held_out_groups_do_not_cross(small_data: Path, recipe: Recipe) -> None:
    corpus, _ = scratch(small_data, recipe, ["dermamnist"], 28, share=0.5)
    train = {example.sample.groups["image"] for example in corpus.train["dermamnist"]}
    held_out = {example.sample.groups["image"] for example in corpus.held_out["dermamnist"]}
    assert train
    assert held_out
    assert not train & held_out


def test_an_entry_without_samples_is_an_error_before_anything_is_built(small_data: Path, recipe: Recipe) -> None:
    with pytest.raises(RunError, match="No training samples: dermamnist"):
        scratch(small_data, recipe, ["dermamnist"], 28, share=0.9999)


def test_joined_tasks_are_one_entry(small_data: Path, recipe: Recipe) -> None:
    joined, _ = scratch(small_data, recipe, ["dermamnist+organsmnist"], 28)
    apart, _ = scratch(small_data, recipe, ["dermamnist", "organsmnist"], 28)
    assert joined.sizes() == {"dermamnist+organsmnist": sum(apart.sizes().values())}


def test_images_are_decoded_once_while_they_fit_and_again_when_not(small_data: Path, recipe: Recipe) -> None:
    corpus, _ = scratch(small_data, recipe, ["dermamnist"], 28)
    rows = image_rows(corpus.train["dermamnist"])
    kept = corpus.images.pixels(rows)
    forgetful = Images(28, memory=0)
    again = [forgetful.add(*corpus.images.place(row)) for row in rows]
    assert torch.equal(forgetful.pixels(again), kept)
    assert torch.equal(corpus.images.pixels(rows), kept)
    digests = {corpus.images.digest(row) for row in rows}
    assert len(digests) == len(set(rows))
    assert digests == {forgetful.digest(row) for row in again}


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


def test_only_classified_images_are_distorted(small_data: Path, recipe: Recipe) -> None:
    corpus, chosen = scratch(small_data, recipe, ["dermamnist", "slake-rec"])
    _, processor = built(corpus, chosen)
    maker = BatchMaker(recipe=chosen, corpus=corpus, processor=processor, cache=None, rank=0)
    for task, changes in (("dermamnist", True), ("slake-rec", False)):
        made = maker.make(Draw(step=0, part=0, name=task, indices=(0, 1), turns=(0, 1))).pixels
        assert made is not None
        assert torch.equal(made, corpus.images.pixels(image_rows(corpus.train[task][:2]))) != changes


def test_weight_decay_spares_vectors_and_task_tokens(small_data: Path, recipe: Recipe) -> None:
    corpus, chosen = scratch(small_data, recipe, ["slake-rec"])
    model, _ = built(corpus, chosen)
    learning = model.trainable()
    groups = make_optimizer(learning, decays=matrices_decay, weight_decay=0.05, betas=(0.9, 0.98)).param_groups
    names = {id(parameter): name for name, parameter in learning.items()}
    decayed = [group for group in groups if group["weight_decay"]]
    spared = {names[id(item)] for group in groups if not group["weight_decay"] for item in group["params"]}
    assert "connector.task_tokens.vqa" in spared
    assert all(parameter.ndim > 1 for group in decayed for parameter in group["params"])
    assert sum(len(group["params"]) for group in groups) == len(names)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_tower_learns_on_at_its_own_rate_or_not_at_all(small_data: Path, recipe: Recipe, share: float) -> None:
    assert recipe.vision_stage is not None
    corpus, chosen = scratch(small_data, recipe, ["slake-rec"])
    chosen = replace(chosen, vision_stage=replace(recipe.vision_stage, later_rate=share))
    model, _ = built(corpus, chosen)
    groups = make_optimizer(
        model.trainable(), decays=matrices_decay, weight_decay=0.05, betas=(0.9, 0.98),
        shares={"vision_tower.": chosen.tower_share},
    ).param_groups  # fmt: skip
    of_tower = {id(parameter) for parameter in model.vision_tower.parameters()}
    shares = {group["share"] for group in groups for parameter in group["params"] if id(parameter) in of_tower}
    assert shares == ({share} if share else set())


@pytest.mark.slow
def test_train_then_run_through_the_command_line(small_data: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    settings = [word for setting in TINY for word in ("--set", setting)]
    trained = medbench("train", "--config", "mini", *settings, "--data-dir", small_data, "--output", checkpoint)
    assert trained.returncode == 0, trained.stderr
    records = [json.loads(line) for line in (checkpoint / "train_log.jsonl").read_text().splitlines()]
    assert records[0]["stage"] == "vision"
    last = records[-1]
    assert last["step"] == 6
    assert set(last["held_out"]) <= {"slake-vqa", "slake-rec", "medqa", "dermamnist"}
    assert all(0 <= value <= 1 for metrics in last["scores"].values() for value in metrics.values())
    assert set(last) >= {"gradient_norm", "learning_rate", "tokens_per_second", "loss", "mean_loss"}
    for kind, weights in {
        kind: row for record in records[1:] for kind, row in record.get("expert_use", {}).items()
    }.items():
        assert kind != "medqa"
        assert sum(weights) == pytest.approx(1, abs=1e-3)
    assert yaml.safe_load((checkpoint / "recipe.yaml").read_text())["steps"] == 6
    assert (checkpoint / "learning_curve.svg").read_text().startswith("<?xml")
    assert list((checkpoint / "tensorboard").glob("events.*"))
    again = medbench("train", "--config", "mini", *settings, "--data-dir", small_data, "--output", checkpoint)
    assert again.returncode == 1
    assert "finished training already" in again.stderr
    for folder in (checkpoint, checkpoint / "checkpoints" / "step-00000004"):
        result = medbench(
            "run", "--model", "uni-med", "--checkpoint", folder, "--data-dir", small_data, "--tasks", "slake-*,medqa",
            "--output-dir", tmp_path / "runs",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        assert "MINI WEIGHTS" not in result.stderr


def test_the_vision_stage_knows_what_is_said_and_shown(small_data: Path, recipe: Recipe) -> None:
    corpus, _ = scratch(small_data, recipe, ["slake-reg", "dermamnist", "mimic-cxr", "medqa"])
    examples = [example for of_task in corpus.train.values() for example in of_task]
    targets = make_targets(examples, len(corpus.images), 8)
    classified, others = targets.known_rows()
    assert len(classified) == len(corpus.train["dermamnist"])
    assert not set(classified) & set(others)
    boxed = corpus.train["slake-reg"][0]
    assert boxed.sample.box is not None
    assert boxed.sample.image_size is not None
    covered = targets.regions[boxed.image].any(dim=1).reshape(8, 8)
    left, top, right, bottom = boxed.sample.box.scaled(8 / boxed.sample.image_size[0], 8 / boxed.sample.image_size[1])
    assert covered[round(top) : round(bottom), round(left) : round(right)].all()


def test_the_vision_stage_learns_classes_and_changes_only_the_tower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 60, (40, 28, 28, 3), dtype=torch.uint8)
    pictures[::2, 8:20, 8:20] += 180
    images = Images(28)
    for row, picture in enumerate(pictures.numpy()):
        Image.fromarray(picture).save(tmp_path / f"{row}.png")
        assert images.add(tmp_path, ImageRef(path=f"{row}.png")) == row
    spec = get_task("dermamnist")
    examples = [
        Example(
            spec=spec,
            sample=Sample(
                sample_id=str(row), task=spec.name, split="train", reference="bright" if row % 2 == 0 else "dark"
            ),
            image=row,
        )
        for row in range(40)
    ]
    corpus = Corpus(train={spec.name: examples[:30]}, held_out={spec.name: examples[30:]}, images=images)
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
