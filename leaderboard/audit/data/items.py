"""What is compared of a sample or of a row of training data: texts, images, ids, and the three together.

Other people's training data are JSON lines, or one JSON list in a file that ends in `.json`. Both are read row by row,
so that a file may be of any length. `fields.yaml` has what fields are called in the wild.
"""

import json
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import ijson

from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation import files
from medbench.tasks.foundation.errors import DataError
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
    texts: tuple[str, ...] = ()  # what is searched for: the question, or the report; of a training row every text
    question: str = ""  # what is asked, with the object or the box of regions; empty for reports
    answer: str = ""  # the right answer as text
    images: tuple[ImageRef, ...] = ()  # its images, relative to `source`
    source: Path = Path()  # the folder that images start from
    groups: Mapping[str, str] = field(default_factory=dict)  # ids by name, such as `image` or `patient`
    family: str = ""  # the dataset whose ids these are; empty if they may be any dataset's
    language: str = ""  # as the data say; empty if they do not

    def ids(self) -> Iterator[tuple[str, str]]:
        """Yield its ids with their names, the names of its images among them."""
        yield from ((name, value) for name, value in self.groups.items() if value)
        yield from ((SAME_NAME, name) for name in image_names(self.images))

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
    spec, family = prepared.spec, family_of(prepared.spec)

    def item_of(sample: Sample) -> Item:
        answer = sample.choices.get(sample.reference, sample.reference)
        question = sample.inputs.get("question", "")
        if spec.kind in {"rec", "reg"}:
            question = json.dumps([sample.inputs.get("object", ""), sample.box])
        texts = {"qa": (question,), "vqa": (question,), "report": (answer,)}.get(spec.kind, ())
        return Item(
            item_id=sample.sample_id, texts=texts, question=question, answer=answer, images=sample.images,
            source=prepared.source, groups={**sample.groups, **ids.get(sample.sample_id, {})}, family=family,
        )  # fmt: skip

    return TaskItems(
        task=spec.name, kind=spec.kind, family=family, credentialed=is_under_agreement(prepared),
        decisive=_DECISIVE.get(spec.variant_of or spec.name, spec.group_key),
        items=tuple(map(item_of, prepared.samples(split))),
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
    """Read ids that the native files lack, by task and sample.

    A line is `{"task": "dermamnist", "sample_id": "test/12", "lesion": "HAM_0000118"}`. Raises DataError if it has no
    task or sample_id, or an id that is no text or number.
    """
    found: dict[str, dict[str, Mapping[str, str]]] = defaultdict(dict)
    for path, (number, row) in ((file, line) for file in paths for line in files.read_numbered_json_lines(file)):
        task, sample = row.pop("task", None), row.pop("sample_id", None)
        if not isinstance(task, str) or not isinstance(sample, str):
            raise DataError(f"{path}, line {number} has no task or no sample_id.", "Give both as texts.")
        for wrong in (name for name, value in row.items() if not isinstance(value, str | int)):
            raise DataError(f"{path}, line {number}: the id {wrong!r} is no text.", "Give ids as texts.")
        found[task][sample] = {name: str(value) for name, value in row.items()}
    return found


_FIELDS: Mapping[str, Any] = files.read_yaml_table(Path(__file__).resolve().parent.parent / "fields.yaml")
_BLOCK = 1 << 20


def training_rows(path: Path, images: Path) -> Iterator[Item]:
    """Yield the rows of a file of training data, JSON lines or a `.json` list, whose images start from a folder.

    Raises DataError if the file cannot be read, or a row has nothing to compare; the message names the line.
    """
    numbered = _listed(path) if path.suffix.lower() == ".json" else files.read_numbered_json_lines(path)
    for place, row in numbered:
        yield _item_of(row, f"{path.name}:{place}", images)


def row_count(path: Path) -> int:
    """Return about how many rows a file has: its lines, for a display of progress; DataError if it cannot be read."""
    with files.readable(path), path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(_BLOCK), b""))


def _listed(path: Path) -> Iterator[tuple[int, files.JsonObject]]:
    with files.readable(path), path.open("rb") as stream:
        try:
            events = files.json_events(stream)
            if next(events, ("", None))[0] != "start_array":
                raise DataError(f"{path} holds JSON, but not a list of rows.", "Give a list or JSON lines.")
            # What builds the rows bounds neither depth nor numbers.
            deque(events, maxlen=0)
            stream.seek(0)
            for place, row in enumerate(ijson.items(stream, "item", use_float=True), start=1):
                if not isinstance(row, dict):
                    raise DataError(f"{path}, row {place} is a JSON {type(row).__name__}, not an object.")
                yield place, row
        except (ijson.JSONError, ValueError) as error:
            raise DataError(f"{path} is not JSON: {error}.") from error


def _item_of(row: files.JsonObject, item_id: str, images: Path) -> Item:
    questions, answers, more, families, languages = (
        [row[name] for name in _FIELDS[kind] if isinstance(row.get(name), str) and row[name].strip()]
        for kind in ("questions", "answers", "texts", "families", "languages")
    )
    turns, groups = list(_turns(row)), _groups(row)
    texts, pictured = [*questions, *answers, *more, *turns], tuple(ImageRef(path=name) for name in _image_paths(row))
    if not texts and not pictured and not groups:
        kinds = ("questions", "answers", "texts", "turns", "images")
        allowed = ", ".join((*(name for kind in kinds for name in _FIELDS[kind]), "groups"))
        raise DataError(f"{item_id}: the row has no text, no image and no id.", f"Fields that are read: {allowed}.")
    question, answer, family, language = (next(iter(found), "") for found in (questions, answers, families, languages))
    if len(turns) > 1 and not answer:
        question, answer = question or turns[0], turns[1]
    return Item(
        item_id=item_id, texts=tuple(dict.fromkeys(texts)), question=_without_image_mark(question), answer=answer,
        images=pictured, source=images, groups=groups, language=language,
        family=family_of(get_task(family)) if family in TASKS else family.lower(),
    )  # fmt: skip


def _without_image_mark(question: str) -> str:
    return question.replace("<image>", " ").strip()


def _turns(row: files.JsonObject) -> Iterator[str]:
    """Yield what is said in conversations, by whomever but the system."""
    there = (row[name] for name in _FIELDS["turns"] if isinstance(row.get(name), list))
    for turn in chain.from_iterable(there):
        if isinstance(turn, dict) and str(turn.get("from") or turn.get("role") or "") != "system":
            content = turn.get("value") if "value" in turn else turn.get("content")
            for part in content if isinstance(content, list) else [content]:
                text = part.get("text") if isinstance(part, dict) else part
                if isinstance(text, str) and text.strip():
                    yield _without_image_mark(text)


def _image_paths(row: files.JsonObject) -> Iterator[str]:
    for value in (row.get(name) for name in _FIELDS["images"]):
        for one in value if isinstance(value, list) else [value]:
            path = one.get("path") if isinstance(one, dict) else one
            if isinstance(path, str) and path:
                yield path


def _groups(row: files.JsonObject) -> dict[str, str]:
    found = {
        name: str(row[column])
        for name, columns in _FIELDS["ids"].items()
        for column in columns
        if isinstance(row.get(column), str | int) and str(row[column])
    }
    given = row.get("groups")
    return found | ({str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {})
