"""Questions asked in another way, to see what answers rest on: without their image, say, or with another one.

A probe changes samples before a run and nothing else. A drop is no sign of a leak by itself: a harder question is
harder for all. `medbench audit probe` compares a model's drop with that of its peers.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec

Asked = tuple[TaskSpec, list[Sample]]
Change = Callable[[TaskSpec, Sequence[Sample], int], Asked | None]
_LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One way of asking."""

    asked: str  # How it asks, as the beginning of a sentence.
    meaning: str  # What is changed and what it tells.
    kinds: frozenset[Kind]  # Kinds of tasks that it can change.
    # From a task, its test samples and a seed to what is asked; None if they have nothing that it changes.
    change: Change
    finds: Callable[[TaskSpec], bool] = lambda _: True  # Whether the prompts of a task have what it changes.


def probed(name: str, spec: TaskSpec, samples: Sequence[Sample], seed: int) -> Asked | None:
    """Return a task and its test samples as a probe asks them; None if the probe does not apply to the task."""
    refuse_unknown(name)
    probe = PROBES[name]
    return probe.change(spec, samples, seed) if spec.kind in probe.kinds and samples else None


def may_change(name: str, task: str, kind: Kind) -> bool:
    """Return whether a probe may change a task, as far as its kind and, of one of the catalogue, its prompts tell."""
    probe = PROBES[name]
    return kind in probe.kinds and (task not in TASKS or probe.finds(get_task(task)))


def refuse_unknown(name: str) -> None:
    """Refuse, by a UsageError with the probes that there are, a name that is none."""
    if name not in PROBES:
        raise UsageError(f"There is no probe {name!r}.", f"Allowed: {', '.join(PROBES)}.")


def _without_images(spec: TaskSpec, samples: Sequence[Sample], _seed: int) -> Asked | None:
    blind = [replace(sample, images=()) for sample in samples]
    return (spec, blind) if any(sample.images for sample in samples) else None


def _with_other_images(spec: TaskSpec, samples: Sequence[Sample], seed: int) -> Asked | None:
    """Give each group the images of another one; no group keeps its own."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(sample.groups.get(spec.group_key, sample.sample_id), []).append(sample)
    if len(groups) == 1 or not any(sample.images for sample in samples):
        return None
    order = sorted(groups)
    random.Random(seed).shuffle(order)
    # Along a shuffled circle everybody has a neighbour who is not himself.
    giver = dict(zip(order, order[1:] + order[:1], strict=True))
    changed = []
    for sample in samples:
        others = groups[giver[sample.groups.get(spec.group_key, sample.sample_id)]]
        like = next((other for other in others if len(other.images) == len(sample.images)), others[0])
        changed.append(replace(sample, images=like.images))
    return spec, changed


def _with_other_options(spec: TaskSpec, samples: Sequence[Sample], seed: int) -> Asked | None:
    """Put the options under other letters; the right one moves too."""
    if not all("options" in sample.inputs and set(sample.choices) <= set(_LETTERS) for sample in samples):
        return None
    return spec, [_reordered(sample, random.Random(f"{seed} {sample.sample_id}")) for sample in samples]


def _reordered(sample: Sample, generator: random.Random) -> Sample:
    letters, texts = list(sample.choices), list(sample.choices.values())
    # A rotation moves every option.
    shift = generator.randrange(1, len(letters)) if len(letters) > 1 else 0
    moved = dict(zip(letters, texts[shift:] + texts[:shift], strict=True))
    right = letters[(letters.index(sample.reference) - shift) % len(letters)]
    options = "\n".join(f"{letter}. {text}" for letter, text in moved.items())
    return replace(sample, choices=moved, reference=right, inputs={**sample.inputs, "options": options})


def _prompts(spec: TaskSpec) -> list[str]:
    """Return the training instructions that are not the evaluation's."""
    return [prompt for prompt in spec.train_prompts if prompt != spec.prompt]


def _in_other_words(spec: TaskSpec, samples: Sequence[Sample], seed: int) -> Asked | None:
    """Ask by another of the task's training instructions."""
    others = _prompts(spec)
    return (replace(spec, prompt=random.Random(seed).choice(others)), list(samples)) if others else None


PROBES: dict[str, Probe] = {
    "image-off": Probe(
        asked="Without images", meaning="no image: what is still right rests on the question alone",
        kinds=frozenset({"vqa", "report", "cls", "reg"}), change=_without_images,
    ),
    "image-shuffled": Probe(
        asked="With the images of others",
        meaning="the image of another patient: what is still right does not rest on the image",
        kinds=frozenset({"vqa", "report", "cls"}), change=_with_other_images,
    ),
    "options-shuffled": Probe(
        asked="With the options in another order",
        meaning="the options under other letters: a model that knows the letter by heart falls",
        kinds=frozenset({"qa"}), change=_with_other_options, finds=lambda spec: "{options}" in spec.prompt,
    ),
    "paraphrase": Probe(
        asked="By another instruction", meaning="another instruction: a model that knows the question by heart falls",
        kinds=frozenset(get_args(Kind)), change=_in_other_words, finds=lambda spec: bool(_prompts(spec)),
    ),
}  # fmt: skip
