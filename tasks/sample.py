"""One question of a task, as plain data: what every room of the house passes around."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal, NamedTuple

from medbench.tasks.validation import read_once

Split = Literal["train", "test"]
SPLITS: tuple[Split, ...] = ("train", "test")


class Box(NamedTuple):
    """An axis-aligned box in pixels of the original image, origin top-left, right and bottom edge exclusive."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def from_xywh(cls, left: float, top: float, width: float, height: float) -> "Box":
        """Return the box of a corner and a size, which is how datasets store it."""
        return cls(left, top, left + width, top + height)

    def scaled(self, horizontal: float, vertical: float) -> "Box":
        """Return the box with both axes multiplied, for a change of coordinate space."""
        return Box(self.left * horizontal, self.top * vertical, self.right * horizontal, self.bottom * vertical)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """Where one image is: a file, or a row of an array inside an `.npz` file; nothing is opened until it is decoded."""

    path: str  # Relative to the source folder of the prepared task.
    member: str = ""
    index: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One question of a task; docs/own-task.md says what each field is for."""

    sample_id: str  # Stable and unique inside its task, e.g. `xmlab3/12`.
    task: str
    split: Split
    images: tuple[ImageRef, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)  # What fills the prompt, by field (`question`, `object`).
    reference: str  # The right answer; a key of `choices` where there are some; of REC the name of the object.
    choices: Annotated[Mapping[str, str], read_once()] = field(
        default_factory=dict
    )  # The closed list of answers, key to text.
    box: Box | None = None  # REC: to find; REG: to name. Pixels of the original image.
    image_size: tuple[int, int] | None = None  # Width and height in pixels of the image that `box` refers to.
    labels: Annotated[Mapping[str, str], read_once()] = field(
        default_factory=dict
    )  # The dataset's own, for breakdowns (`modality`, `organ`).
    groups: Annotated[Mapping[str, str], read_once()] = field(
        default_factory=dict
    )  # What ties samples together (`image`, `patient`).
