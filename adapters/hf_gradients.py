"""The gradient of the loss on right answers over the connector of a model of transformers, batch after batch.

It lies beside `hf`, not in it: what answers is a part of a run's identity, and this does not answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from medbench.adapters.base import Dtype, LoadOptions
from medbench.adapters.hf.adapter import HfAdapter, find_model, load_adapter, read_hf_config
from medbench.adapters.hf.entry import CONNECTORS, ENTRY
from medbench.tasks.catalog import get_task, main_task_names
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Sample
from medbench.unimed.interpret.choice import Choice, Chosen, Precision, choose_tasks
from medbench.unimed.interpret.measure import Needs, Subject
from medbench.unimed.interpret.streaming import Layout, Step
from medbench.unimed.training.corpus import Mixture
from medbench.unimed.training.plan import ANSWER_TOKENS, PROMPT_TOKENS

VISUAL_TOKENS = 256  # Of an image, for a plan: most models have about as many.
_TYPES: Mapping[Precision, Dtype] = {"fp32": "float32", "bf16": "bfloat16"}


def connector_of(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters between vision and decoder, by name; UsageError if no module is known as that."""
    modules: list[str] = []
    for name, _ in model.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in modules)
        if name.rpartition(".")[2] in CONNECTORS and not inner:
            modules.append(name)
    found = {
        name: parameter for name, parameter in model.named_parameters()
        if any(name.startswith(f"{module}.") for module in modules)
    }  # fmt: skip
    if not found:
        problem = f"{type(model).__name__} has no part that is known as its connector."
        raise UsageError(problem, f"Known are modules called {', '.join(sorted(CONNECTORS))}.")
    return found


def group_of(name: str) -> str:
    """Return the module that a parameter belongs to, as `merger`."""
    return next(part for part in name.split(".") if part in CONNECTORS)


@dataclass(frozen=True, slots=True, kw_only=True)
class HfSource:
    """A model, and the train splits that it is asked of, in its own words."""

    adapter: HfAdapter
    model: torch.nn.Module
    samples: Mapping[str, Sequence[Sample]]
    choice: Choice
    layout: Layout
    seed: int
    fingerprint: str
    connector: str

    @property
    def tasks(self) -> Sequence[str]:
        """The tasks, in their order."""
        return tuple(self.samples)

    @property
    def device(self) -> torch.device:
        """Where gradients are made."""
        return torch.device(self.adapter.device)

    def steps(self, task: str, first: int, count: int) -> Iterator[Step]:
        """Yield what the batches `first` to `first + count` of a task give; RunError if no gradient flows."""
        prepared, spec, samples = load_prepared(self.choice.data_dir, task), get_task(task), self.samples[task]
        size = self.choice.batch_size
        mixture = Mixture({task: len(samples)}, {task: 1.0}, micro_batch=size, seed=self.seed)
        for draw in islice(mixture.draws(parts=1, first_step=first), count):
            chosen = [samples[index] for index in draw.indices]
            yield self._step(self.adapter.taught([(one, spec, prepared.images(one)) for one in chosen]))

    def _step(self, inputs: Mapping[str, torch.Tensor]) -> Step:
        loss = self.model(**inputs).loss
        named = dict(self.model.named_parameters())
        parameters = [named[name] for name in self.layout.names]
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(loss, parameters, allow_unused=True)
        pairs = zip(parameters, found, strict=True)
        flat = [(torch.zeros_like(one) if given is None else given).flatten().float() for one, given in pairs]
        return Step(torch.cat(flat), float(loss.detach()), ())


def subject_of(name: str, label: str, choice: Choice) -> Subject[HfSource]:
    """Return a folder or a repository of the Hub; UsageError if it, its connector or its tasks are not to be had."""
    arguments = ENTRY.settled(name, {})
    folder, _ = find_model(name, arguments["revision"])
    chosen = choose_tasks(choice, main_task_names())
    opened: Callable[[], HfSource] = partial(_open, name, choice, chosen)
    return Subject(label=label, chosen=chosen, needs=_needs(folder, choice), open=opened)


def _needs(folder: Path, choice: Choice) -> Needs:
    with torch.device("meta"):
        model: torch.nn.Module = AutoModelForImageTextToText.from_config(read_hf_config(folder))
    connector = sum(one.numel() for one in connector_of(model).values())
    all_of_it = sum(one.numel() for one in model.parameters())
    tokens = choice.batch_size * (VISUAL_TOKENS + PROMPT_TOKENS + ANSWER_TOKENS)
    width = 4 if choice.precision == "fp32" else 2
    return Needs(parameters=connector, weights=all_of_it * width, operations=4.0 * all_of_it * tokens)


def _open(name: str, choice: Choice, chosen: Chosen) -> HfSource:
    options = LoadOptions(
        variant=name, device=choice.device, dtype=_TYPES[choice.precision], arguments=ENTRY.settled(name, {})
    )
    adapter = load_adapter(options)
    if adapter.quantised:
        problem = f"{adapter.title} is quantised, so its gradients are those of other weights."
        raise UsageError(problem, "Give the weights before they were quantised.")
    model: torch.nn.Module = adapter.decoder
    model.requires_grad_(requires_grad=False)
    parameters = connector_of(model)
    for parameter in parameters.values():
        parameter.requires_grad = True
    samples = {task: load_prepared(choice.data_dir, task).samples("train") for task in chosen.tasks}
    layout = Layout.of(parameters, group_of)
    return HfSource(
        adapter=adapter, model=model, samples=samples, choice=choice, layout=layout, seed=choice.seed or 0,
        fingerprint=adapter.weights_fingerprint, connector=f"{type(model).__name__}: {', '.join(layout.groups)}",
    )  # fmt: skip
