"""The mixture `image_centric`: as much of each sample as the official one, but tasks of one image in one step."""

import random
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import medbench
from test_unimed_training import TINY, scratch

from medbench.tasks.foundation.errors import RunError
from medbench.unimed.training.by_image import ImageMixture, mixture_of, spread
from medbench.unimed.training.corpus import BatchMaker, Draw, Mixture
from medbench.unimed.training.plan import build
from medbench.unimed.training.recipe import load_recipe

PARTS, BATCH = 3, 2
WEIGHTS = {"vqa": 2.0, "rec": 3.0, "reg": 1.0, "report": 1.0, "qa": 0.5}
# Images 0 to 5 have three tasks, 6 to 8 two, 9 only questions, r0 to r3 only reports; texts have none.
IMAGES: Mapping[str, Sequence[Hashable]] = {
    "vqa": [0, 0, 0, 1, 1, 2, 3, 4, 4, 4, 4, 5, 6, 7, 7, 8, 9, 9],
    "rec": [0, 1, 1, 2, 2, 3, 4, 5, 5, 5], "reg": [0, 1, 2, 3, 3, 4, 5, 6, 6, 6, 7, 8],
    "report": ["r0", "r1", "r2", "r3"], "qa": [None, None, None],
}  # fmt: skip
TOGETHER = {image: {name for name, of in IMAGES.items() if image in of} for image in range(9)}


def steps(count: int, seed: int = 0, first: int = 0, rank: int = 0, workers: int = 1) -> list[list[Draw]]:
    mixture = ImageMixture(IMAGES, WEIGHTS, micro_batch=BATCH, seed=seed, rank=rank, workers=workers)
    draws = mixture.draws(parts=PARTS, first_step=first)
    return [list(islice(draws, PARTS)) for _ in range(count)]


def shown_images(step: Sequence[Draw]) -> set[Hashable]:
    return {IMAGES[draw.name][index] for draw in step for index in draw.indices}


def test_every_sample_is_shown_as_often_as_by_the_official_mixture() -> None:
    seeds, count = 500, 12
    shown = [
        Counter((draw.name, index) for step in steps(count, seed) for draw in step for index in draw.indices)
        for seed in range(seeds)
    ]
    parts = count * PARTS * BATCH
    for name, images in IMAGES.items():
        share = WEIGHTS[name] / sum(WEIGHTS.values())
        of_entry = np.array([sum(one[name, index] for index in range(len(images))) for one in shown])
        assert abs(of_entry.mean() - parts * share) < 4 * of_entry.std() / seeds**0.5, name
        for index in range(len(images)):
            times = np.array([one[name, index] for one in shown])
            # Above four standard errors a sample in 16,000 would lie by chance.
            assert abs(times.mean() - parts * share / len(images)) < 4 * times.std() / seeds**0.5, (name, index)


def test_over_a_long_training_the_shares_are_the_official_ones() -> None:
    drawn = Counter(draw.name for step in steps(3000) for draw in step)
    for name, weight in WEIGHTS.items():
        assert drawn[name] / drawn.total() == pytest.approx(weight / sum(WEIGHTS.values()), rel=0.05), name


def test_the_micro_batches_of_a_step_are_about_the_same_images() -> None:
    found = steps(400)
    about = [step for step in found if shown_images(step) & TOGETHER.keys()]
    assert 200 < len(about) < 380
    for step in about:
        images = shown_images(step)
        [tasks] = {frozenset(TOGETHER[int(str(image))]) for image in images}
        # Four images at most fill micro-batches of two of these tasks, with what is left over at the end.
        assert len(images) <= 4
        assert {draw.name for draw in step} <= tasks
    # The share of one task may be rounded up to all three.
    assert sum(len({draw.name for draw in step}) > 1 for step in about) > 0.9 * len(about)
    # Three parts of an image with two tasks: one comes twice, and no sample does before all were shown.
    assert max(Counter((draw.name, index) for draw in about[0] for index in draw.indices).values()) <= 2


def test_the_others_are_drawn_as_by_the_official_mixture() -> None:
    others = [step for step in steps(400) if not shown_images(step) & TOGETHER.keys()]
    sizes = {"report": 4, "qa": 3, "vqa": 2}
    weights = {"vqa": 2.0 / 18 * 2, "report": 1.0, "qa": 0.5}
    official = Mixture(sizes, weights, micro_batch=BATCH, seed=0).draws(parts=PARTS)
    names = [draw.name for step in others for draw in step]
    assert names == [draw.name for draw in islice(official, len(names))]
    assert {index for step in others for draw in step if draw.name == "vqa" for index in draw.indices} == {16, 17}


def test_bundles_fill_a_micro_batch_of_each_entry_and_lose_no_image() -> None:
    mixture = ImageMixture(IMAGES, WEIGHTS, micro_batch=BATCH, seed=0)
    bundles = [one for one in mixture._visits(0) if one is not None]
    assert all(min(map(len, one.values())) >= BATCH for one in bundles)
    whole = ImageMixture(IMAGES, WEIGHTS, micro_batch=100, seed=0)
    visits = (one for epoch in range(9) for one in whole._visits(epoch))
    together = {tuple(one): one for one in visits if one is not None}
    assert together.keys() == {("vqa", "rec", "reg"), ("vqa", "reg")}
    assert sorted(together["vqa", "rec", "reg"]["rec"]) == list(range(10))


def test_a_step_is_a_function_of_seed_step_and_process() -> None:
    whole = steps(60)
    assert [step[0].step for step in whole] == list(range(60))
    assert steps(35, first=25) == whole[25:]
    assert steps(60) == whole != steps(60, seed=1)
    two = [steps(60, rank=rank, workers=2) for rank in (0, 1)]
    turns = [{(draw.name, turn) for step in one for draw in step for turn in draw.turns} for one in two]
    assert not turns[0] & turns[1]
    assert [len(one) for one in turns] == [60 * PARTS * BATCH] * 2


def test_sharded_processes_draw_the_same_entries() -> None:
    mixtures = [
        ImageMixture(IMAGES, WEIGHTS, micro_batch=BATCH, seed=0, rank=rank, workers=2, together=True) for rank in (0, 1)
    ]
    first, second = (list(islice(one.draws(parts=PARTS), 90)) for one in mixtures)
    assert [draw.name for draw in first] == [draw.name for draw in second]
    assert [draw.indices for draw in first] != [draw.indices for draw in second]


def test_spreading_is_as_even_as_it_can_be() -> None:
    draw = random.Random(0)
    found = [Counter(spread([0.0, 1.0, 2.0, 3.5], 4, draw)) for _ in range(2000)]
    assert {one[0] for one in found} == {0}
    assert {one[3] for one in found} == {2, 3}
    assert np.mean([one[3] for one in found]) == pytest.approx(4 * 3.5 / 6.5, abs=0.03)


def test_images_without_a_second_entry_are_refused(small_data: Path) -> None:
    with pytest.raises(RunError, match="No image"):
        ImageMixture({"a": [1, 2], "b": [3, None]}, {"a": 1, "b": 1}, micro_batch=1, seed=0)
    recipe = load_recipe("mini", (*TINY, "draws=image_centric"))
    corpus, chosen = scratch(small_data, recipe, ["mpx-single", "medqa"])
    with pytest.raises(RunError, match="data profile"):
        mixture_of(chosen, corpus)


def test_batches_are_made_of_its_draws_and_the_default_is_the_official_mixture(small_data: Path) -> None:
    recipe = load_recipe("mini", (*TINY, "draws=image_centric"))
    corpus, chosen = scratch(small_data, recipe, ["slake-vqa", "slake-rec", "medqa"])
    _, processor = build(chosen, corpus, None, frozen_dtype=torch.float32)
    maker = BatchMaker(recipe=chosen, corpus=corpus, processor=processor, cache=None, rank=0)
    made = [maker.make(draw) for draw in islice(mixture_of(chosen, corpus).draws(parts=2), 40)]
    assert {one.name for one in made} == {"slake-vqa", "slake-rec", "medqa"}
    assert isinstance(mixture_of(load_recipe("mini", TINY), corpus), Mixture)
    assert "draws" not in load_recipe("mini", TINY).table()
    assert chosen.table()["draws"] == "image_centric"


def test_a_training_by_image_goes_on_to_the_same_bytes(small_data: Path, tmp_path: Path) -> None:
    words = [word for setting in (*TINY, "draws=image_centric") for word in ("--set", setting)]
    begun = ("train", "--config", "mini", *words, "--data-dir", small_data, "--output")
    assert medbench(*begun, tmp_path / "whole").returncode == 0
    weights = (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert [one.name for one in (tmp_path / "whole" / "checkpoints").iterdir()] == ["step-00000004"]
    for file in ("config.json", "model.safetensors"):
        (tmp_path / "whole" / file).unlink()
    done = medbench(*begun, tmp_path / "whole", "--resume")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == weights
    (tmp_path / "whole" / "config.json").unlink()
    official = [word.replace("image_centric", "official") for word in map(str, begun)]
    other = medbench(*official, tmp_path / "whole", "--resume")
    assert (other.returncode, "draws" in other.stderr) == (1, True)
