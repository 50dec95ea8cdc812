"""What is compared of a sample or of a row of training data: texts, pictures, ids, and the three together."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medbench.tasks.prepared import Prepared
from medbench.tasks.sample import ImageRef, Sample, Split
from medbench.tasks.spec import Kind, TaskSpec

SAME_NAME = "image name"
"""The group that rows of other people's files share with samples by the name of their picture's file."""

# Which id decides, where the task's own group key is only the best that its files have.
_DECISIVE = {"dermamnist": "lesion", "organsmnist": "volume", "mimic-cxr": "patient"}
_ASKED_IN_MANY_WAYS = ("-vqa", "-rec", "-reg")
# File names that say nothing without their folder.
_BARE_NAMES = frozenset({"source", "image", "img", "picture", "scan", "slice"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One test sample or one row of training data, as far as it can overlap.

    Attributes:
        item_id: What a report calls it.
        texts: Texts that are searched for: the question, or the report; every text of a training row.
        question: What is asked, with the object or the box of regions; empty for reports.
        answer: The right answer as text.
        images: Its pictures, relative to `source`.
        source: The folder that pictures start from.
        groups: Ids by name (`image`, `study`, `patient`, `case`, `volume`, `lesion`, `document`).
        family: The dataset whose ids these are; empty if they may be any dataset's.
        language: As the data say; empty if they do not.
    """

    item_id: str
    texts: tuple[str, ...] = ()
    question: str = ""
    answer: str = ""
    images: tuple[ImageRef, ...] = ()
    source: Path = Path()
    groups: Mapping[str, str] = field(default_factory=dict)
    family: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskItems:
    """The items of one task.

    Attributes:
        task: Its name.
        kind: What is asked.
        family: The dataset whose ids its items have; tasks on the same pictures share it.
        decisive: The id whose sharing decides whether two items are independent.
        credentialed: Whether its data need a signed agreement.
        withheld: Whether its texts must not be shown.
        items: In their order.
    """

    task: str
    kind: Kind
    family: str
    decisive: str
    credentialed: bool = False
    withheld: bool = False
    items: tuple[Item, ...]


def items_of(
    prepared: Prepared,
    split: Split,
    ids: Mapping[str, Mapping[str, str]],
    *,
    credentialed: bool = False,
    reveal: bool = False,
) -> TaskItems:
    """Return the items of a split.

    Args:
        prepared: The prepared task.
        split: Which half.
        ids: More ids by sample, which the native files lack (a lesion, a scan).
        credentialed: Whether its data need a signed agreement.
        reveal: Whether such texts may be shown all the same.

    Raises:
        DataError: If the split's file is broken.
    """
    spec = prepared.spec
    return TaskItems(
        task=spec.name,
        kind=spec.kind,
        family=family_of(spec),
        decisive=decisive_id(spec),
        credentialed=credentialed,
        withheld=credentialed and not reveal,
        items=tuple(
            item_of(sample, spec, prepared.source, ids.get(sample.sample_id, {})) for sample in prepared.samples(split)
        ),
    )


def item_of(sample: Sample, spec: TaskSpec, source: Path, more_ids: Mapping[str, str]) -> Item:
    """Return what is compared of a sample."""
    answer = sample.choices.get(sample.reference, sample.reference)
    question = sample.inputs.get("question", "")
    if spec.kind in {"rec", "reg"}:
        question = json.dumps([sample.inputs.get("object", ""), sample.box])
    texts = {"qa": (question,), "vqa": (question,), "report": (answer,)}.get(spec.kind, ())
    return Item(
        item_id=sample.sample_id,
        texts=texts,
        question=question,
        answer=answer,
        images=sample.images,
        source=source,
        groups={**sample.groups, **more_ids},
        family=family_of(spec),
    )


def family_of(spec: TaskSpec) -> str:
    """Return the dataset whose ids a task's samples have: `slake` for all that is asked about Slake's pictures."""
    name = spec.variant_of or spec.name
    return next((name.removesuffix(way) for way in _ASKED_IN_MANY_WAYS if name.endswith(way)), name)


def decisive_id(spec: TaskSpec) -> str:
    """Return the id whose sharing decides: the patient, lesion, scan or case, not the picture, where there is one."""
    return _DECISIVE.get(spec.variant_of or spec.name, spec.group_key)


def has_id(item: Item, key: str) -> bool:
    """Return whether an item has an id of its own; a picture's name that stands in for a case or volume is none."""
    value = item.groups.get(key)
    return bool(value) and (key == "image" or value != item.groups.get("image"))


def picture_names(images: Sequence[ImageRef]) -> Iterator[str]:
    """Yield by what name other people's lists know each picture: its file, with the folder where the file says nothing.

    Rows of arrays and files that are only numbered have none: too many datasets have the same.
    """
    for image in images:
        path = Path(image.path)
        bare = path.stem.lower() in _BARE_NAMES
        name = "/".join(path.parts[-2:]) if bare else path.name
        distinct = any(character.isalpha() for character in Path(name).parent.name if bare) or (
            not bare and any(character.isalpha() for character in path.stem)
        )
        if not image.member and distinct:
            yield name.lower()
