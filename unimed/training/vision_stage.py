"""The vision stage: a ViT that no one has pretrained learns to see before the language model looks through it.

It learns from the train split's own annotations by three linear heads that are thrown away: the class of an image, the
words of its reports and open answers, and for every patch the structures whose boxes cover it. Then it is frozen, as
the paper's is, or learns on. Why so, and why other views: docs/design/0002-mini-weights.md.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import nn

from medbench.unimed.training.corpus import Corpus, Example, distorted, jittered
from medbench.unimed.training.recipe import VisionStage
from medbench.unimed.vision import VisionTower

MIN_WORD_COUNT = 8
CLOSED_ANSWERS = frozenset({"yes", "no"})
PRESENT_WEIGHT = 10.0  # Few of many words and structures are present in an image; the absent ones may not drown them.
Report = Callable[[int, float], None]
Label = TypeVar("Label", str, tuple[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """What is known of each image, by row of the corpus; W and R are 1 where there are no words and no structures."""

    tasks: list[str]  # Classification task of each image [N], or "".
    classes: torch.Tensor  # Column of its class [N], or -1.
    possible: torch.Tensor  # Whether each class is one of its task's [N, K].
    words: torch.Tensor  # Whether each word is said of it [N, W]; all False for images without texts.
    regions: torch.Tensor  # Whether each structure's box covers each patch [N, P, R].

    def known_rows(self) -> tuple[list[int], list[int]]:
        """Return the rows of classified images, and those of all others of which something is known."""
        classified = self.classes >= 0
        told = self.words.any(dim=1) | self.regions.any(dim=2).any(dim=1)
        return classified.nonzero().flatten().tolist(), (told & ~classified).nonzero().flatten().tolist()


def make_targets(examples: Iterable[Example], images: int, grid: int) -> Targets:
    """Collect what examples say of the `images` of a corpus; `grid` is the number of patches along one side."""
    seen = [example for example in examples if example.image >= 0]
    classified = [example for example in seen if example.spec.kind == "cls"]
    labels = _columns((example.spec.name, example.sample.reference) for example in classified)
    tasks, classes = [""] * images, torch.full((images,), -1)
    for example in classified:
        tasks[example.image] = example.spec.name
        classes[example.image] = labels[example.spec.name, example.sample.reference]
    own = {task: torch.tensor([task == of for of, _ in labels], dtype=torch.bool) for task in set(tasks)}
    possible = torch.stack([own[task] for task in tasks])
    words, regions = _word_targets(seen, images), _region_targets(seen, images, grid)
    return Targets(tasks=tasks, classes=classes, possible=possible, words=words, regions=regions)


def _columns(labels: Iterable[Label]) -> dict[Label, int]:
    return {label: index for index, label in enumerate(sorted(set(labels)))}


def _word_targets(examples: Iterable[Example], images: int) -> torch.Tensor:
    texts = [(one.image, one.sample.reference) for one in examples if one.spec.kind in {"report", "vqa"}]
    said = [(image, {word.strip(".,").lower() for word in text.split()} - CLOSED_ANSWERS) for image, text in texts]
    counts = Counter(word for _, words in said for word in words)
    columns = _columns(word for word, count in counts.items() if count >= MIN_WORD_COUNT)
    targets = torch.zeros(images, max(1, len(columns)), dtype=torch.bool)
    for image, words in said:
        targets[image, [columns[word] for word in words & columns.keys()]] = True
    return targets


def _region_targets(examples: Iterable[Example], images: int, grid: int) -> torch.Tensor:
    boxed = [example for example in examples if example.spec.kind == "reg"]
    columns = _columns(example.sample.reference for example in boxed)
    targets = torch.zeros(images, grid, grid, max(1, len(columns)), dtype=torch.bool)
    for example in boxed:
        box, size = example.sample.box, example.sample.image_size
        if box is not None and size is not None:
            left, top, right, bottom = box.scaled(grid / size[0], grid / size[1])
            down = slice(round(top), max(round(bottom), round(top) + 1))
            across = slice(round(left), max(round(right), round(left) + 1))
            targets[example.image, down, across, columns[example.sample.reference]] = True
    return targets.flatten(1, 2)


class VisionHeads(nn.Module):
    """The three linear heads of the stage."""

    def __init__(self, width: int, targets: Targets) -> None:
        super().__init__()
        self.classes = nn.Linear(width, max(1, targets.possible.shape[1]))
        self.words = nn.Linear(width, targets.words.shape[1])
        self.regions = nn.Linear(width, targets.regions.shape[2])

    def loss(self, features: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Return the sum of the heads' losses for patch features [B, P, C] of the images `rows` [B]."""
        pooled, total = features.mean(dim=1), features.new_zeros(())
        presence = nn.functional.binary_cross_entropy_with_logits
        classified = targets.classes[rows] >= 0
        if classified.any():
            logits = self.class_logits(pooled[classified], rows[classified], targets)
            total = total + nn.functional.cross_entropy(logits, targets.classes[rows[classified]])
        for head, seen, present in ((self.words, pooled, targets.words), (self.regions, features, targets.regions)):
            known = present[rows].flatten(1).any(dim=1)
            if known.any():
                logits, weight = head(seen[known]), torch.tensor(PRESENT_WEIGHT)
                total = total + presence(logits, present[rows[known]].float(), pos_weight=weight)
        return total

    def class_logits(self, pooled: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Return logits [B, K], minus infinity for the classes of other tasks."""
        logits: torch.Tensor = self.classes(pooled)
        return logits.masked_fill(~targets.possible[rows], float("-inf"))


def train_vision(
    tower: VisionTower, corpus: Corpus, grid: int, stage: VisionStage, *, seed: int, report: Report
) -> dict[str, float]:
    """Train the tower in place; return the share of held-out images that its own head classifies rightly, by task."""
    train, held_out = ([*chain(*part.values())] for part in (corpus.train, corpus.held_out))
    targets = make_targets([*train, *held_out], len(corpus.images), grid)
    decks = _decks(targets, {example.image for example in train}, stage.batch)
    heads = VisionHeads(int(tower.vit.config.hidden_size), targets)
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, stage.peak_learning_rate, weight_decay=stage.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.peak_learning_rate, stage.steps, pct_start=0.1)
    draw, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    for step in range(stage.steps):
        rows = torch.tensor([row for deck, share in decks for row in draw.choices(deck, k=share)])
        pixels = jittered(corpus.images.pixels(rows.tolist()), generator)
        classified = (targets.classes[rows] >= 0).view(-1, 1, 1, 1)
        pixels = torch.where(classified, distorted(pixels, generator), pixels)
        loss = heads.loss(tower(pixels), rows, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        report(step, loss.item())
    return _held_out_accuracy(tower, heads, corpus, targets)


def _decks(targets: Targets, learned: set[int], batch: int) -> list[tuple[list[int], int]]:
    """Return rows that are drawn from, each with its share of a batch: half of it to the classification tasks."""
    classified, told = ([row for row in rows if row in learned] for rows in targets.known_rows())
    by_task: dict[str, list[int]] = {}
    for row in classified:
        by_task.setdefault(targets.tasks[row], []).append(row)
    half = batch // 2
    decks = [(by_task[task], max(1, half // len(by_task))) for task in sorted(by_task)]
    return [*decks, (told, half)] if told else decks


@torch.no_grad()
def _held_out_accuracy(tower: VisionTower, heads: VisionHeads, corpus: Corpus, targets: Targets) -> dict[str, float]:
    accuracies = {}
    for task, examples in corpus.held_out.items():
        rows = torch.tensor([one.image for one in examples if one.spec.kind == "cls"], dtype=torch.long)
        if len(rows):
            pooled = tower(corpus.images.pixels(rows.tolist())).mean(dim=1)
            right = heads.class_logits(pooled, rows, targets).argmax(dim=1) == targets.classes[rows]
            accuracies[task] = round(float(right.float().mean()), 4)
    return accuracies
