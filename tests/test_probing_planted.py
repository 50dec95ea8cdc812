"""A loss that is planted at a known place is found there and nowhere else; where there is none, none is found.

First in states that are drawn (every mode, a few seeds), then in the weights of a model whose states are read.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import tiny_model
import torch
from torch import nn

from medbench.adapters.uni_med import UniMedAdapter
from medbench.harness.probing.curves import Answers, Network, Options, found_of
from medbench.harness.probing.document import MODES, ModeName, TargetFound
from medbench.harness.probing.places import Module, Place, Readout, randomise
from medbench.harness.probing.probes import Probe, scale_of
from medbench.harness.probing.reading import StateReader
from medbench.harness.probing.states import States, read_states
from medbench.harness.probing.targets import Asked, Parts, Target, target_of
from medbench.tasks.catalog import get_task
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.unimed.checkpoint import LoadedCheckpoint

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.intp]
CLASSES = 3
TOLD: Sequence[tuple[ModeName, Module, Readout]] = (
    ("vision", "vision", "image"), ("connector", "connector", "image"), ("comprehension", "language", "image"),
    ("comprehension", "language", "image"), ("utilisation", "language", "last"),
)  # fmt: skip  # Where each loss is first seen.
SIZES = {"train": 400, "val": 1, "test": 250}
LATENT, SIDE, PATCH, NOISE = 6, 28, 7, 2  # Patterns of a picture; pixels; deviation of the noise in grey levels.
SEEDS = 20


def shown(found: TargetFound) -> tuple[str, ...]:
    return tuple(mode.name for mode in found.modes if mode.verdict == "shown")


def diagnosed(states: States, target: Target, latent: Array, loss: str, options: Options) -> TargetFound:
    """Return what is found of a model that says what its last token holds, beside a network that sees `latent`."""
    scale, test = scale_of(target), target.parts.test
    known = np.concatenate([target.parts.train, target.parts.validation])
    said, seen = (
        Probe.chosen(one, target, scale).predict(known, test) for one in (states.at(states.places[-1]), latent)
    )
    right = said == target.right[test]
    if loss == "answer":
        # As by a parser that takes one of the answers for something else.
        right &= said != 1
    answers = Answers(scores=right.astype(np.float64), there=np.arange(len(test)), failed=0)
    network = Network(name="reference", predicted=[seen])
    return found_of(target, "Planted", states, None, [network], answers, options)


def drawn(loss: str, seed: int) -> TargetFound:
    """Return what is found in states that are mixtures of one latent, from the loss on of noise."""
    dice, count = np.random.default_rng(seed), 400
    labels = dice.integers(0, CLASSES, count)
    noise = dice.standard_normal((2, count, 8))
    latent = 1.8 * np.eye(8)[labels] + noise[0]
    lost, values, places = False, list[Array](), list[Place]()
    for mode, module, readout in TOLD:
        lost = lost or mode == loss
        values.append((noise[1] if lost else latent) @ dice.standard_normal((8, 12)))
        places.append(Place(name=f"{module} {len(places)}", module=module, readout=readout, width=12))
    states = States(places=tuple(places), digests=(), values=np.concatenate(values, axis=1).astype(np.float32))
    train, validation, test = np.split(np.arange(count), [180, 230])
    target = Target(
        asked=Asked(task="planted"), kind="class", right=labels.astype(np.float64), classes=("a", "b", "c"),
        clusters=np.arange(count).astype(str), parts=Parts(train=train, validation=validation, test=test),
        needs_question=False, left_out={},
    )  # fmt: skip
    return diagnosed(states, target, latent, loss, Options(seed=seed, refits=4))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("loss", [*MODES, "none"])
def test_a_loss_in_drawn_states_is_shown_as_what_it_is(loss: str, seed: int) -> None:
    assert shown(drawn(loss, seed)) == tuple({loss} & set(MODES))


def pictures(folder: Path, seed: int) -> tuple[Prepared, Array]:
    """Write three classes of noisy patterns on noise as a data set; return it, and the pixels of its pictures."""
    dice = np.random.default_rng(seed)
    # Every patch shows the same, so a model without loss has it at any of its tokens.
    patterns = np.tile(dice.standard_normal((LATENT, PATCH, PATCH, 3)), (1, SIDE // PATCH, SIDE // PATCH, 1))
    arrays = dict[str, Any]()
    for split, count in SIZES.items():
        labels = np.arange(count) % CLASSES
        latent = 1.8 * np.eye(LATENT)[labels] + dice.standard_normal((count, LATENT))
        # Little changes on much: what is not linear in a model drowns in the noise.
        shades = 200 + 3 * np.einsum("nk,khwc->nhwc", latent, patterns)
        shades += NOISE * dice.standard_normal(shades.shape)
        arrays |= {f"{split}_images": shades.clip(0, 255).astype(np.uint8), f"{split}_labels": labels[:, None]}
    np.savez(folder / "dermamnist.npz", **arrays)
    prepare_task(get_task("dermamnist"), folder, folder / "data", {})
    pixels = np.concatenate([arrays["train_images"], arrays["test_images"]])
    return load_prepared(folder / "data", "dermamnist"), pixels.reshape(len(pixels), -1).astype(np.float64)


def without_classes(states: Array, labels: Labels) -> torch.Tensor:
    """Return what projects states [N, ..., C] so [C, C] that all classes have one mean at every token."""
    means = np.stack([states[labels == one].mean(axis=0) for one in np.unique(labels)])
    apart = (means - means.mean(axis=0)).reshape(-1, states.shape[-1])
    _, sizes, directions = np.linalg.svd(apart, full_matrices=False)
    kept = directions[sizes > 1e-6 * sizes[0]]
    return torch.tensor(np.eye(states.shape[-1]) - kept.T @ kept, dtype=torch.float32)


def blind_connector(adapter: UniMedAdapter, prepared: Prepared, labels: Labels) -> None:
    """Project the class away in the last layer of every expert."""
    samples = prepared.samples("train")
    features = adapter.encode_images([adapter.pixels(prepared.images(one)[0]) for one in samples])
    projection = without_classes(torch.stack(list(adapter.project(features, "cls"))).double().numpy(), labels)
    for expert in adapter._model.connector.experts:
        last = cast("nn.Linear", cast("nn.Sequential", expert)[-1])
        last.weight.copy_(projection @ last.weight)
        last.bias.copy_(projection @ last.bias)


@contextmanager
def forgetful(adapter: UniMedAdapter, states: Array, labels: Labels) -> Iterator[None]:
    """Let the decoder's last block, whose states [N, C] at the last token are given, drop the class from that token."""
    projection = without_classes(states, labels)

    def forget(_: nn.Module, __: object, output: torch.Tensor) -> torch.Tensor:
        return torch.cat([output[:, :-1], output[:, -1:] @ projection], dim=1)

    handle = adapter._model.language_model.model.layers[-1].register_forward_hook(forget)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def modelled(loss: str, seed: int, folder: Path) -> TargetFound:
    """Return what is found of a Uni-Med with random weights, which change with the seed, and a loss."""
    folder.mkdir()
    prepared, pixels = pictures(folder, seed)
    model, processor = tiny_model.small(language_tuning="none")
    adapter = UniMedAdapter(LoadedCheckpoint(model=model, processor=processor), ())
    randomise(adapter, seed)
    samples = [*prepared.samples("train"), *prepared.samples("test")]
    labels: Labels = np.arange(SIZES["train"]) % CLASSES
    read = partial(read_states, samples=samples, of="", batch=50)
    if loss == "connector":
        blind_connector(adapter, prepared, labels)
    states = read(StateReader(adapter, prepared), file=folder / "states.f32")
    if loss == "utilisation":
        before = next(one for one in states.places if one.label == "language 2, last token")
        with forgetful(adapter, states.at(before)[: len(labels)], labels):
            states = read(StateReader(adapter, prepared), file=folder / "forgotten.f32")
    target = target_of(Asked(task="dermamnist"), prepared, samples, states.digests, seed)
    return diagnosed(states, target, pixels, loss, Options(seed=seed))


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "others"), [("connector", 0), ("utilisation", 0), ("answer", 0), ("none", 1)])
def test_a_loss_in_a_models_weights_is_shown_as_what_it_is(loss: str, others: int, tmp_path: Path) -> None:
    found = [shown(modelled(loss, seed, tmp_path / f"{seed}")) for seed in range(SEEDS)]
    assert sum(one != tuple({loss} & set(MODES)) for one in found) <= others, found
