"""Reference nets: what a net of usual size learns of a task from its pictures alone, or what a user knows it reaches.

The epoch is chosen by balanced accuracy on validation, the nets by their mean of it. A net answers the test pictures
once, at its best epoch, and nothing here reads their labels. On a CPU a seed gives the same answers each time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from torch import nn
from transformers import get_cosine_schedule_with_warmup

from medbench.adapters.image_classifiers import Classifier, pretrained_classifier, small_classifiers
from medbench.harness.probing.targets import Parts
from medbench.tasks.foundation.console import Meter, meter
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import canonical_json, fingerprint, named_rows, write_atomically
from medbench.tasks.foundation.model_files import folder_named, room_for
from medbench.tasks.validation import parse_json, parse_json_file, read_bytes, read_text_bytes

SMALL = "small"
_FORM = 'Expected: a CSV with the columns sample_id and prediction (a class), or JSON such as {"TASK": 0.91}.'
_BATCH, _DECAY, _LONGEST_STEP, _SHIFTED = 32, 0.05, 1.0, 0.125
_NAMED = 5
_VERSION = 1  # Of the training here; raised when it would answer otherwise.
_PARTS = ("train", "validation", "test")

Indices = NDArray[np.intp]
Pixels = NDArray[np.float16]
Step = Callable[[torch.Tensor, Indices], None]
Share = Annotated[float, Field(ge=0, le=1, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The pictures of a task, each with its class; labels of test samples are not read."""

    task: str
    names: Sequence[str]  # Of the N samples.
    open: Callable[[int], Image.Image]
    labels: Indices  # Number of each sample's class [N].
    classes: Sequence[str]
    parts: Parts
    fingerprint: str  # Of the pictures: whatever changes with them, such as that of the prepared data.


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What a net answers to the test samples, by the seed of its training; one row for a user's file."""

    name: str
    validation: float | None  # Balanced accuracy on validation, mean over seeds; None for a user's file.
    predicted: Indices  # Classes [S, n_test], in the order of `Parts.test`.


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A balanced accuracy that a user gives: without answers nothing can be tested against it."""

    name: str
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How reference nets are trained; pictures are mirrored only if asked: left and right are medical information."""

    seeds: int = 3
    seed: int = 0  # The first.
    side: int = 64  # Of the small nets' pictures, in pixels.
    flips: bool = False
    device: str = "cpu"  # As torch names it.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What a seed leaves in the folder."""

    fingerprint: str
    validation: float
    epoch: int
    predicted: tuple[int, ...]


def references(kind: str, pictures: Pictures, folder: Path, training: Training) -> tuple[Reference | Stated, ...]:
    """Return the references of a kind: `small`, the folder of an image classifier, or a file of answers or accuracies.

    Nets leave their answers in `folder`, seed by seed, and the same call goes on from there. UsageError for another
    kind, errors of `small_classifiers` and `pretrained_classifier`; DataError for a file that does not fit the task, or
    for a task without samples of a part; RunError if there is no room in memory or on the disk.
    """
    for part in _PARTS:
        if not len(getattr(pictures.parts, part)):
            raise DataError(f"{pictures.task} has no {part} samples.", "A reference net needs some of each part.")
    if kind == SMALL:
        nets = small_classifiers(len(pictures.classes), training.side)
        return tuple(_trained(one, pictures, folder, training) for one in nets)
    if (source := folder_named(kind)) is not None:
        return (_trained(pretrained_classifier(source, len(pictures.classes)), pictures, folder, training),)
    with suppress(OSError, ValueError):  # What can be the name of no file names none.
        if Path(kind).is_file():
            return (read_reference(Path(kind), pictures),)
    problem = f"The reference {kind!r} is neither a folder nor a file here."
    raise UsageError(problem, f"Allowed: {SMALL}, a folder of an image classifier of transformers, a file. {_FORM}")


def balanced_accuracy(labels: Indices, predicted: Indices) -> float:
    """Return the mean recall over the classes of `labels` [n], which is not empty."""
    return float(np.mean([np.mean(predicted[labels == one] == one) for one in np.unique(labels)]))


def _trained(net: Classifier, pictures: Pictures, folder: Path, training: Training) -> Reference:
    numbers = range(training.seed, training.seed + training.seeds)
    seeds = {seed: folder / f"{net.name.replace(' ', '-')}-seed{seed}.json" for seed in numbers}
    prints = {seed: _fingerprint(net, pictures, training, seed) for seed in seeds}
    kept = {seed: found for seed, path in seeds.items() if (found := _read(path, prints[seed], pictures))}
    left, shown = [seed for seed in seeds if seed not in kept], f"{pictures.task}, {net.name}"
    if left:
        passes = len(left) * net.epochs * len(pictures.parts.train)
        room = room_for(f"The training of {net.name}")
        with room, _stored(net, pictures, folder) as parts, meter(shown, passes) as at:
            for seed in left:
                at.advance(0, label=f"{shown}, seed {seed}")
                kept[seed] = _learned(net, pictures, parts, training, seed, prints[seed], at)
                write_atomically(seeds[seed], canonical_json(asdict(kept[seed])) + "\n")
    predicted = np.array([kept[seed].predicted for seed in seeds], dtype=np.intp)
    validation = float(np.mean([kept[seed].validation for seed in seeds]))
    return Reference(name=net.name, validation=validation, predicted=predicted)


def _fingerprint(net: Classifier, pictures: Pictures, training: Training, seed: int) -> str:
    """Return what changes with anything that a training depends on; the labels of test samples are not among it."""
    parts = {part: getattr(pictures.parts, part) for part in _PARTS}
    return fingerprint({
        "net": net.identity, "epochs": net.epochs, "rate": net.rate, "flips": training.flips, "seed": seed,
        "version": _VERSION, "pictures": pictures.fingerprint, "classes": list(pictures.classes),
        "samples": {part: [pictures.names[row] for row in rows] for part, rows in parts.items()},
        "labels": {part: pictures.labels[parts[part]].tolist() for part in ("train", "validation")},
    })  # fmt: skip


def _read(path: Path, made_of: str, pictures: Pictures) -> _Kept | None:
    """Return what a seed left, or None if it was of something else, or is broken: it is trained anew."""
    with suppress(DataError):
        kept = parse_json_file(_Kept, path)
        whole = len(kept.predicted) == len(pictures.parts.test)
        if kept.fingerprint == made_of and whole and set(kept.predicted) <= set(range(len(pictures.classes))):
            return kept
    return None


@contextmanager
def _stored(net: Classifier, pictures: Pictures, folder: Path) -> Iterator[Mapping[str, Pixels]]:
    """Yield the pixels [n, 3, H, W] of each part, on the disk: each picture is opened once, however many there are."""
    lengths = [len(getattr(pictures.parts, part)) for part in _PARTS]
    shapes = set[tuple[int, ...]]()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder) as stream:
            with meter(f"{pictures.task}, pictures", sum(lengths)) as at:
                for row in np.concatenate([getattr(pictures.parts, part) for part in _PARTS]):
                    pixels = net.pixels(pictures.open(int(row))).numpy().astype(np.float16)
                    shapes.add(pixels.shape)
                    if len(shapes) > 1:
                        problem = (
                            f"The image processor of {net.name} makes pictures of several sizes: {sorted(shapes)}."
                        )
                        raise DataError(problem, "Name in its preprocessor_config.json one height and width.")
                    stream.write(pixels.tobytes())
                    at.advance()
            stream.flush()
            everything = np.memmap(stream, np.float16, mode="r", shape=(sum(lengths), *shapes.pop()))
            yield dict(zip(_PARTS, np.split(everything, np.cumsum(lengths)[:-1]), strict=True))
    except OSError as error:
        problem = f"The pictures cannot be kept in {folder} while {net.name} learns: {error.strerror or error}."
        raise RunError(problem, "Free some space or give another folder, and run the same command again.") from error


def _learned(
    net: Classifier, pictures: Pictures, parts: Mapping[str, Pixels], training: Training, seed: int, made_of: str,
    at: Meter,
) -> _Kept:  # fmt: skip
    """Train one net and return what it answers to the test samples at its best epoch, the last of equal ones."""
    device, dice = torch.device(training.device), torch.Generator().manual_seed(seed)
    labels, valid = (pictures.labels[rows] for rows in (pictures.parts.train, pictures.parts.validation))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = net.make().to(device)
        step = _stepper(net, model, labels, len(pictures.classes))
        best, epoch, state = -1.0, 0, dict[str, torch.Tensor]()
        for number in range(1, net.epochs + 1):
            model.train()
            for rows in torch.randperm(len(labels), generator=dice).tensor_split(ceil(len(labels) / _BATCH)):
                step(_shifted(_batch(parts["train"], rows, device), dice, flips=training.flips), labels[rows])
                at.advance(len(rows))
            reached = balanced_accuracy(valid, _answers(model, parts["validation"], device))
            at.advance(0, status=f"{reached:.1%} on validation")
            if reached >= best:
                best, epoch = reached, number
                state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        model.load_state_dict(state)
        predicted = tuple(_answers(model, parts["test"], device).tolist())
    return _Kept(fingerprint=made_of, validation=best, epoch=epoch, predicted=predicted)


def _stepper(net: Classifier, model: nn.Module, labels: Indices, classes: int) -> Step:
    """Return what takes a step on pixels [B, 3, H, W] with their labels [B]: each class weighs alike in the loss."""
    device = next(model.parameters()).device
    counts = np.bincount(labels, minlength=classes)
    weight = torch.tensor(len(labels) / (classes * np.maximum(counts, 1)), dtype=torch.float32, device=device)
    steps = net.epochs * ceil(len(labels) / _BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), net.rate, weight_decay=_DECAY)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)

    def step(pixels: torch.Tensor, of: Indices) -> None:
        target = torch.as_tensor(of, device=device)
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(pixels), target, weight=weight).backward()
        nn.utils.clip_grad_norm_(model.parameters(), _LONGEST_STEP)
        optimizer.step()
        schedule.step()

    return step


def _batch(pixels: Pixels, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(pixels[rows.numpy()]).to(device).float()


def _shifted(pixels: torch.Tensor, dice: torch.Generator, *, flips: bool) -> torch.Tensor:
    """Return pictures [B, 3, H, W], each moved by up to an eighth of its sides, and half of them mirrored if asked."""
    maps = torch.eye(2, 3).repeat(len(pixels), 1, 1)
    maps[:, :, 2] = (torch.rand(len(pixels), 2, generator=dice) * 2 - 1) * 2 * _SHIFTED  # A picture is 2 wide.
    if flips:
        maps[:, 0, 0] = torch.rand(len(pixels), generator=dice).round() * 2 - 1
    grid = nn.functional.affine_grid(maps.to(pixels.device), list(pixels.shape), align_corners=False)
    return nn.functional.grid_sample(pixels, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def _answers(model: nn.Module, pixels: Pixels, device: torch.device) -> Indices:
    """Return the likeliest class of each picture [n]."""
    model.eval()
    batches = torch.arange(len(pixels)).split(2 * _BATCH)
    found = [model(_batch(pixels, rows, device)).argmax(dim=1).cpu() for rows in batches]
    return torch.cat(found).numpy().astype(np.intp)


def read_reference(path: Path, pictures: Pictures) -> Reference | Stated:
    """Return what a user's file says of a task; DataError if it is no such file, or does not fit the test samples."""
    text, task = read_text_bytes(path), pictures.task
    if text.lstrip().startswith(b"{"):
        table = parse_json(dict[str, Share], text, str(path))
        if task not in table:
            raise DataError(f"{path} says no balanced accuracy of {task}.", f"It has: {_some(table) or 'none'}.")
        return Stated(name=path.name, accuracy=table[task])
    names = [pictures.names[row] for row in pictures.parts.test]
    answers = _answers_in(path, pictures)
    strange, missing = answers.keys() - set(names), set(names) - answers.keys()
    for which, what in ((strange, "has {} samples that are not"), (missing, "lacks {} samples that are")):
        if which:
            problem = f"{path} {what.format(len(which))} in the test split of {task}: {_some(which)}."
            raise DataError(problem, "Give one line for each test sample, by its name in the prepared task.")
    return Reference(name=path.name, validation=None, predicted=np.array([[answers[name] for name in names]], np.intp))


def _answers_in(path: Path, pictures: Pictures) -> dict[str, int]:
    """Return the number of the class that a CSV says of each sample."""
    answers, numbers = dict[str, int](), {name: number for number, name in enumerate(pictures.classes)}
    for line, row, more in named_rows(read_bytes(path), str(path), ("sample_id", "prediction"), _FORM):
        name, found = row["sample_id"], numbers.get(row["prediction"])
        if found is None or more or name in answers:
            twice = "a sample that an earlier line has" if name in answers else "a prediction that is no class"
            problem = f"{path}, line {line} has {'more cells than the header' if more else twice}."
            raise DataError(problem, f"The classes of {pictures.task}: {', '.join(pictures.classes)}.")
        answers[name] = found
    return answers


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join([*ordered[:_NAMED], *([f"and {len(ordered) - _NAMED} more"] if len(ordered) > _NAMED else [])])
