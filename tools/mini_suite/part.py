"""What each source of the suite hands over: file bytes, and the record of where they come from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Origin = Literal["real", "stand-in", "phantom"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A body of material with one licence.

    Attributes:
        name: Identifier that items refer to.
        title: What it is.
        origin: `real` (the dataset that the task is named after), `stand-in` (real material of another
            dataset in that dataset's layout) or `phantom` (drawn by us).
        licence: SPDX identifier, or a short name where SPDX has none.
        attribution: Whom to credit and what to cite.
        retrieved_from: Public place and revision.
        changes: What was changed on the way into the suite.
    """

    name: str
    title: str
    origin: Origin
    licence: str
    attribution: str
    retrieved_from: str
    changes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """The manifest's account of one task.

    Attributes:
        task: Name of the task.
        folder: Source folder, relative to the suite.
        options: Reader options.
        split: How train and test were told apart.
        counts: Samples that a reader must find; `{"total": n}` where the reader makes the split.
        items: Item id or pattern (`*` stands for anything) to `source` or `source:original id`; where picture and
            questions are from two sources, their names are joined by `+`.
    """

    task: str
    folder: str
    options: Mapping[str, str] = field(default_factory=dict)
    split: str
    counts: Mapping[str, int]
    items: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The files and records of one folder of the suite.

    Attributes:
        files: Path relative to the suite, with `/`, to bytes.
        tasks: The tasks that read these files.
        sources: The material that the items refer to.
        notes: What a reader of the manifest has to know.
    """

    files: Mapping[str, bytes]
    tasks: tuple[TaskRecord, ...]
    sources: tuple[Source, ...]
    notes: tuple[str, ...] = ()
