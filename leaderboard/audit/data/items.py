"""What is compared of a sample or of a row of training data: texts, images, ids, and the three together."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import read_numbered_json_lines
from medbench.tasks.prepared import Prepared
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Kind, TaskSpec
from medbench.tasks.terms import is_under_agreement

SAME_NAME = "image name"
"""The id that rows of other people's files share with samples by the name of their image's file."""

# Which id decides, where the task's own group key is only the best that its files have.
_DECISIVE = {"dermamnist": "lesion", "organsmnist": "volume", "mimic-cxr": "patient"}
_ASKED_IN_MANY_WAYS = ("-vqa", "-rec", "-reg")
# File names that say nothing without their folder.
_BARE_NAMES = frozenset({"source", "image", "img", "picture", "scan", "slice"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One test sample or one row of training data, as far as it can overlap."""

    item_id: str  # what a report calls it
    # texts that are searched for: the question, or the report; every text of a training row
    texts: tuple[str, ...] = ()
    question: str = ""  # what is asked, with the object or the box of regions; empty for reports
    answer: str = ""  # the right answer as text
    images: tuple[ImageRef, ...] = ()  # its images, relative to `source`
    source: Path = Path()  # the folder that images start from
    # ids by name (`image`, `study`, `patient`, `case`, `volume`, `lesion`, `document`)
    groups: Mapping[str, str] = field(default_factory=dict)
    family: str = ""  # the dataset whose ids these are; empty if they may be any dataset's
    language: str = ""  # as the data say; empty if they do not

    def ids(self) -> list[tuple[str, str]]:
        """Return its ids with their names, the names of its images among them."""
        own = [(name, value) for name, value in self.groups.items() if value]
        return own + [(SAME_NAME, name) for name in image_names(self.images)]

    def has_id(self, key: str) -> bool:
        """Return whether it has an id of its own; an image's name that stands in for a case or volume is none."""
        value = self.groups.get(key)
        return bool(value) and (key == "image" or value != self.groups.get("image"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """The items of one task, in their order."""

    task: str
    kind: Kind
    family: str  # the dataset whose ids its items have; tasks on the same images share it
    decisive: str  # the id whose sharing decides whether two items are independent
    credentialed: bool = False  # whether its data need a signed agreement
    items: tuple[Item, ...]

    def unit_of(self, item: Item) -> str:
        """Return the case that an item belongs to: by the id that decides, else by its image, else itself."""
        return item.groups.get(self.decisive) or item.groups.get("image") or item.item_id


def items_of(prepared: Prepared, split: Split, ids: Mapping[str, Mapping[str, str]]) -> TaskItems:
    """Return the items of a split, with more ids by sample, which the native files lack (a lesion, a scan).

    Raises DataError if the split's file is broken.
    """
    spec = prepared.spec
    return TaskItems(
        task=spec.name, kind=spec.kind, family=family_of(spec),
        decisive=_DECISIVE.get(spec.variant_of or spec.name, spec.group_key), credentialed=is_under_agreement(prepared),
        items=tuple(
            _item_of(sample, spec, prepared.source, ids.get(sample.sample_id, {})) for sample in prepared.samples(split)
        ),
    )  # fmt: skip


def _item_of(sample: Sample, spec: TaskSpec, source: Path, more_ids: Mapping[str, str]) -> Item:
    answer = sample.choices.get(sample.reference, sample.reference)
    question = sample.inputs.get("question", "")
    if spec.kind in {"rec", "reg"}:
        question = json.dumps([sample.inputs.get("object", ""), sample.box])
    texts = {"qa": (question,), "vqa": (question,), "report": (answer,)}.get(spec.kind, ())
    return Item(
        item_id=sample.sample_id, texts=texts, question=question, answer=answer, images=sample.images, source=source,
        groups={**sample.groups, **more_ids}, family=family_of(spec),
    )  # fmt: skip


def family_of(spec: TaskSpec) -> str:
    """Return the dataset whose ids a task's samples have: `slake` for all that is asked about Slake's images."""
    name = spec.variant_of or spec.name
    return next((name.removesuffix(way) for way in _ASKED_IN_MANY_WAYS if name.endswith(way)), name)


def image_names(images: Sequence[ImageRef]) -> Iterator[str]:
    """Yield by what name other people's lists know each image: its file, with the folder where the file says nothing.

    Rows of arrays and files that are only numbered have none: too many datasets have the same.
    """
    for image in images:
        path = Path(image.path)
        bare = path.stem.lower() in _BARE_NAMES
        telling = path.parent.name if bare else path.stem
        if not image.member and any(character.isalpha() for character in telling):
            yield ("/".join(path.parts[-2:]) if bare else path.name).lower()


def read_ids(paths: Iterable[Path]) -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """Read ids that the native files lack: `{"task": "dermamnist", "sample_id": "test/12", "lesion": "HAM_0000118"}`.

    Returns:
        By task and sample, ids by name.

    Raises DataError if a line has no task or sample_id, or an id that is no text or number.
    """
    found: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for path in paths:
        for number, row in read_numbered_json_lines(path):
            task, sample = row.pop("task", None), row.pop("sample_id", None)
            if not isinstance(task, str) or not isinstance(sample, str):
                raise DataError(f"{path}, line {number} has no task or no sample_id.", "Give both as texts.")
            wrong = next((name for name, value in row.items() if not isinstance(value, str | int)), None)
            if wrong is not None:
                raise DataError(f"{path}, line {number}: the id {wrong!r} is no text.", "Give ids as texts.")
            found[task][sample] = {name: str(value) for name, value in row.items()}
    return found
