"""The gradient of the training loss over the connector of a Uni-Med checkpoint, batch after batch, as in training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from medbench.tasks.foundation.files import read_yaml_table
from medbench.unimed.checkpoint import RECIPE_FILE, load_checkpoint
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.interpret.choice import DTYPES, Choice, Chosen, Precision
from medbench.unimed.interpret.streaming import Layout, Step
from medbench.unimed.modeling import UniMedForConditionalGeneration
from medbench.unimed.training.corpus import Batch, BatchMaker, MicroBatch, Mixture, load_corpus
from medbench.unimed.training.recipe import Recipe, load_recipe, recipe_of
from medbench.unimed.weights import cast_parameters, device_and_dtype


def recipe_beside(folder: Path) -> Recipe:
    """Return the recipe that a checkpoint was trained by; the official one if it has none (the authors' format)."""
    file = folder / RECIPE_FILE
    if not file.is_file():
        return load_recipe("official", planned=True)
    return recipe_of(read_yaml_table(file), str(file), planned=True)


def described(config: UniMedConfig) -> str:
    """Return what a connector is, in words: `mlp2x_gelu`, or `moe: 5 mlp experts, soft router by token_and_task`."""
    if not config.is_moe:
        return config.connector_type
    router = f"{config.router_type} router" + (f" by {config.router_input}" if config.has_router else "")
    return f"moe: {config.num_experts} {config.expert_type} experts, {router}"


def group_of(name: str) -> str:
    """Return the part of the connector that a parameter belongs to: experts, router, task tokens or projector."""
    return name.split(".", maxsplit=1)[0].replace("_", " ")


@dataclass(frozen=True, slots=True, kw_only=True)
class UniMedSource:
    """A checkpoint and its training data; dropout is off."""

    model: UniMedForConditionalGeneration
    maker: BatchMaker
    layout: Layout
    tasks: Sequence[str]
    device: torch.device
    precision: Precision
    fingerprint: str
    connector: str

    @property
    def seed(self) -> int:
        """Of the order, the prompts and the views of images."""
        return self.maker.recipe.seed

    def steps(self, task: str, first: int, count: int) -> Iterator[Step]:
        """Yield what the batches `first` to `first + count` of a task give; they are those of a training.

        The order, the prompts and the views of images are functions of the seed, the task and the number.
        """
        for batch in self._batches(task, first, count):
            yield self._step(batch)

    def _batches(self, task: str, first: int, count: int) -> Iterator[MicroBatch]:
        recipe, sizes = self.maker.recipe, self.maker.corpus.sizes()
        mixture = Mixture({task: sizes[task]}, {task: 1.0}, micro_batch=recipe.micro_batch, seed=recipe.seed)
        return map(self.maker.make, islice(mixture.draws(parts=1, first_step=first), count))

    @torch.no_grad()
    def routing(self, task: str, count: int) -> list[tuple[float, ...]]:
        """Return the mean weight of each expert in the first `count` batches of a task; none without experts."""
        weights: list[tuple[float, ...]] = []
        watch = self.model.connector
        for batch in self._batches(task, 0, count):
            watch.watch = lambda means: weights.append(tuple(means.float().tolist()))
            with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
                inputs = self._inputs(batch)
                self.model.project(self.model.encode_images(inputs["pixel_values"]), inputs["task_ids"])
        watch.watch = None
        return weights

    def _step(self, batch: MicroBatch) -> Step:
        connector, routing = self.model.connector, list[float]()
        named = dict(connector.named_parameters())
        parameters = [named[name] for name in self.layout.names]
        connector.watch = lambda weights: routing.extend(weights.float().tolist())
        with torch.autocast(self.device.type, DTYPES[self.precision], enabled=self.precision != "fp32"):
            loss = self.model(**self._inputs(batch)).loss
        connector.watch = None
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
        gradients = zip(parameters, found, strict=True)
        flat = [(torch.zeros_like(one) if given is None else given).flatten() for one, given in gradients]
        return Step(torch.cat(flat), float(loss.detach()), tuple(routing))

    def _inputs(self, batch: MicroBatch) -> Batch:
        """Return what the model takes; the tasks stay on the CPU, where they choose experts."""
        inputs = {name: one if name == "task_ids" else one.to(self.device) for name, one in batch.texts.items()}
        if batch.pixels is not None:
            inputs["pixel_values"] = batch.pixels.to(self.device, self.model.vision_tower.vit.dtype)
        return inputs


def open_source(folder: Path, choice: Choice, chosen: Chosen) -> UniMedSource:
    """Load a checkpoint with its training data; errors of `load_checkpoint`, `load_corpus` and `recipe_of`."""
    device, _ = device_and_dtype(choice.device, "auto")
    recipe = recipe_beside(folder)
    recipe = replace(
        recipe, mixture=dict.fromkeys(chosen.tasks, 1.0), micro_batch=choice.batch_size, feature_cache_gb=0.0,
        seed=recipe.seed if choice.seed is None else choice.seed,
    )  # fmt: skip
    # What learns stays in float32, as in training; so it is read on the CPU and then cast around it.
    loaded = load_checkpoint(folder, device="cpu", dtype="float32", merge=False)
    model = loaded.model
    cast_parameters(model, DTYPES[choice.precision], exact=model.connector.parameters())
    torch.nn.Module.to(model, device)
    model.requires_grad_(requires_grad=False)
    model.connector.requires_grad_(requires_grad=True)
    config = model.config
    corpus = load_corpus(choice.data_dir, recipe, image_size=config.image_size, scale=config.pixel_scale)
    return UniMedSource(
        model=model, maker=BatchMaker(recipe=recipe, corpus=corpus, processor=loaded.processor, cache=None, rank=0),
        layout=Layout.of(dict(model.connector.named_parameters()), group_of), tasks=chosen.tasks, device=device,
        precision=choice.precision, fingerprint=loaded.fingerprint, connector=described(model.config),
    )  # fmt: skip
