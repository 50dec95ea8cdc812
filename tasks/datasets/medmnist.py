"""DermaMNIST and OrganSMNIST: one small image, one label out of a closed list. Files and samples: docs/data.md.

Source: Yang et al., MedMNIST v2, 2023 (https://medmnist.com). Licence: DermaMNIST CC BY-NC 4.0, OrganSMNIST
CC BY 4.0; the stand-ins of the mini suite, RetinaMNIST and BreastMNIST, CC BY 4.0.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from medbench.tasks.datasets.native import Found, Native, collect
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.images import array_form, read_array, refuse_other_stacks
from medbench.tasks.sample import SPLITS, ImageRef, Sample, Split
from medbench.tasks.spec import Reading

# The paper's first, then the larger before the smaller.
_SIZES = ("_224", "_128", "_64", "")
_PAPER_SIZE = 224


@dataclass(frozen=True, slots=True)
class LabelSet:
    """What a question calls an image of one MedMNIST set, and the classes in label order, as MedMNIST has them."""

    subject: str
    names: tuple[str, ...]

    @property
    def spoken(self) -> tuple[str, ...]:
        """Class names as they are asked for and answered."""
        return tuple(spoken_name(name) for name in self.names)

    @property
    def listing(self) -> str:
        """The classes as one text: `a, b, or c`."""
        *others, last = self.spoken
        return f"{', '.join(others)}, or {last}"


LABEL_SETS: Mapping[str, LabelSet] = {
    flag: LabelSet(subject, tuple(names))
    for flag, (subject, *names) in read_yaml_table(Path(__file__).with_name("medmnist.yaml")).items()
}


def spoken_name(name: str) -> str:
    """Return a class name with a final `-left` or `-right` in front: `femur-left` is `left femur`."""
    organ, _, side = name.rpartition("-")
    return f"{side} {organ}" if side in {"left", "right"} else name


def read_labels(native: Native) -> Reading:
    """Read a MedMNIST file, labels only.

    Raises DataError if it is missing or its arrays do not fit together, UsageError if `flag` names no known set.
    """
    flag = native.options.get("flag", native.task)
    if flag not in LABEL_SETS:
        raise UsageError(f"The option flag={flag} names no known MedMNIST set.", f"Allowed: {', '.join(LABEL_SETS)}.")
    names = tuple(f"{flag}{size}.npz" for size in _SIZES)
    path = next((native.source / name for name in names if (native.source / name).is_file()), None)
    if path is None:
        raise replace(native, layout=native.layout.replace(native.task, flag)).other_layout(*names)
    found = chain.from_iterable(_split_samples(path, split, native.task, LABEL_SETS[flag]) for split in SPLITS)
    return collect(found, f"the dataset's own train and test arrays of {path.name}", _other_sizes(path))


def _other_sizes(path: Path) -> Iterator[str]:
    """Yield a warning where images have another size than the paper's; both splits have one file and one size."""
    sizes = {array_form(path, f"{split}_images")[0][1:3] for split in SPLITS}
    for height, width in sorted(sizes - {(_PAPER_SIZE, _PAPER_SIZE)}):
        found, other = f"{width} x {height} pixels", "numbers on them are another benchmark's and not comparable"
        yield f"the images of {path.name} have {found}, the paper's {_PAPER_SIZE} x {_PAPER_SIZE}: {other}"


def _split_samples(path: Path, split: Split, task: str, label_set: LabelSet) -> Found:
    inputs, spoken = {"subject": label_set.subject, "classes": label_set.listing}, label_set.spoken
    choices = {name: name for name in spoken}
    for index, label in enumerate(_labels(path, split, len(spoken))):
        item, image = f"{split}/{index}", ImageRef(path=path.name, member=f"{split}_images", index=index)
        yield Sample(
            sample_id=item, task=task, split=split, images=(image,), inputs=inputs, reference=spoken[label],
            choices=choices, labels={"label": spoken[label]}, groups={"image": item},
        )  # fmt: skip


def _labels(path: Path, split: Split, classes: int) -> list[int]:
    labels = read_array(path, f"{split}_labels")
    if labels.dtype.kind not in "ui" or labels.ndim == 0 or labels.size != len(labels):
        raise DataError(
            f"{path}: {split}_labels is {labels.dtype} {list(labels.shape)}; expected whole numbers [N, 1] or [N].",
            "Download the file again from its authors.",
        )
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{path}: {split}_labels go from {labels.min()} to {labels.max()}; the {classes} classes are 0 to "
            f"{classes - 1}.",
            "It is another set, or counted from 1. Download the file again from its authors.",
        )
    images, dtype = array_form(path, f"{split}_images")
    refuse_other_stacks(path, f"{split}_images", images, dtype)
    if images[0] != len(labels):
        raise DataError(f"{path} has {len(labels)} {split}_labels but {split}_images of shape {images}.")
    return [int(label) for label in labels.astype(np.int64).reshape(-1)]
