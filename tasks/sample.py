"""One question of a task, as plain data: what every room of the house passes around."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

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
    """One question of a task.

    Attributes:
        sample_id: Stable and unique inside its task, e.g. `xmlab3/12`.
        task: Name of the task.
        split: `train` or `test`.
        images: The images that the question is about; empty for text-only tasks.
        inputs: What fills the prompt template, by field name (`question`, `object`).
        reference: The right answer as text (for REC the name of the object, whose box is in `box`); a key of
            `choices` where there are some.
        choices: The closed list that the answer comes from, key to text (`A` to an option, a class to itself);
            empty for open questions.
        box: REC: the box to find; REG: the box to name; otherwise None. Pixels of the original image.
        image_size: Width and height in pixels of the image that `box` refers to.
        labels: The dataset's own labels, for breakdowns (`answer_type`, `modality`, `organ`).
        groups: Ids that tie samples together (`image`, `study`, `patient`, `volume`, `document`).
    """

    sample_id: str
    task: str
    split: Split
    images: tuple[ImageRef, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    reference: str
    choices: Mapping[str, str] = field(default_factory=dict)
    box: Box | None = None
    image_size: tuple[int, int] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, str] = field(default_factory=dict)
