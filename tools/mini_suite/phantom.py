"""What every phantom of the MPx folder has in common."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from tools.mini_suite.drawing import Floats

Option = TypeVar("Option")


@dataclass(frozen=True, slots=True, kw_only=True)
class Phantom:
    """A drawn picture with what MedPix says of one.

    Attributes:
        image: Brightness between 0 and 1, [height, width].
        caption: What it shows.
        modality: In the vocabulary of MedPix.
        plane: In the vocabulary of MedPix.
        finding: The abnormality in one or two words, or `none`.
        side: `right` or `left` of the patient, where the finding has one; else empty.
    """

    image: Floats
    caption: str
    modality: str
    plane: str
    finding: str
    side: str


class Drawn(NamedTuple):
    """A picture with a finding painted in: the picture, the end of its caption, and the side of the finding."""

    image: Floats
    words: str
    side: str = ""


def over(image: Floats, brightness: Floats | float, cover: Floats) -> Floats:
    """Return `image` with `brightness` painted over it where `cover` is 1."""
    return np.asarray(image * (1.0 - cover) + brightness * cover)


def pick(options: Sequence[Option], random: np.random.Generator) -> Option:
    """Return one of the options, each as likely as the others."""
    return options[int(random.integers(len(options)))]
