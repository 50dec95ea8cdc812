"""One pass over training data: what of the test items is in it. Memory does not grow with the training data.

A training text contains a test text if it holds at least 0.8 of its runs of eight words (facts on the base rates are in
docs/audit-data.md). Texts under eight words are compared exactly only. A test text is looked up by its rarest runs,
only as many as a text that holds 0.8 of all cannot miss.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, islice

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.audit.data.items import SAME_NAME, Item, TaskItems
from medbench.leaderboard.audit.normalise import norm_v1
from medbench.tasks.alike import ImageIndex, Place, Printer

CONTAINMENT = 0.8
GRAM = 8


def _runs_of(text: str) -> set[int]:
    """Return hashes of the distinct runs of eight words of a normalised text; 64 bits do not meet by chance."""
    words = text.split()
    return set(map(hash, zip(*(words[place:] for place in range(GRAM)), strict=False)))


def places_of(items: Iterable[Item]) -> list[Place]:
    """Return the distinct images of items, in the order in which they come."""
    return list(dict.fromkeys((item.source, image) for item in items for image in item.images))


class TextIndex:
    """The distinct normalised texts of the test side."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts
        counts = Counter(run for text in texts for run in _runs_of(text))
        self._by_run: dict[int, list[int]] = defaultdict(list)
        for number, text in enumerate(texts):
            rarest = sorted(_runs_of(text), key=lambda run: (counts[run], run))
            for run in rarest[: len(rarest) - math.ceil(CONTAINMENT * len(rarest)) + 1]:
                self._by_run[run].append(number)

    def contained_in(self, text: str) -> Iterator[tuple[int, float]]:
        """Yield the numbers of test texts that a normalised text contains, and the share of their runs in it."""
        theirs = _runs_of(text)
        for number in sorted({number for run in theirs & self._by_run.keys() for number in self._by_run[run]}):
            ours = _runs_of(self._texts[number])
            share = len(ours & theirs) / len(ours)
            if share >= CONTAINMENT:
                yield number, share


CHECKS = ("item", "near_item", "text", "near_text", "image", "near_image", "review_image", "blank_image")
Flags = npt.NDArray[np.bool_]

_BATCH_ROWS = 2048
_IMAGE_CHECKS = {"exact": "image", "near": "near_image", "review": "review_image", "blank": "blank_image"}
_ITEM_CHECKS = {"exact": "item", "near": "near_item"}
_SAME = {"exact": "equal pixels", "blank": "equal, blank"}


@dataclass(frozen=True, slots=True)
class Witness:
    """The first training row that shares something with a test item: its name, its text if any, and how, in words."""

    row: str
    text: str = ""
    score: str = ""


class Tally:
    """What one body of training data shares with N test items; memory depends on these alone.

    Checks are `CHECKS` and, for each name of an id, `id:NAME`.
    """

    def __init__(self, items: int) -> None:
        self.rows = 0  # training rows that were seen
        self.images = 0  # images that these rows name; `unreadable` are those that could not be decoded
        self.unreadable = 0
        self.known_ids: set[str] = set()  # names of the ids that any training row has
        # values of ids that are on both sides, by task and name of the id
        self.groups: dict[tuple[str, str], set[str]] = defaultdict(set)
        # by check: has a partner [N], and the first partner of a test item
        self.shared: dict[str, Flags] = defaultdict(lambda: np.zeros(items, dtype=bool))
        self.witnesses: dict[str, dict[int, Witness]] = defaultdict(dict)
        self.settled: set[int] = set()  # test texts of which another text that contains them could tell nothing new

    def share(self, check: str, items: Iterable[int], witness: Witness) -> None:
        """Note that test items have a partner."""
        for item in items:
            self.shared[check][item] = True
            self.witnesses[check].setdefault(item, witness)


class ItemIndex:
    """The test items of all audited tasks, numbered one task behind the other, by all that they can be found by.

    `asked` has question and answer of each item, normalised; `texts` and `places` are the distinct texts and images.
    """

    def __init__(self, tasks: Sequence[TaskItems], printer: Printer) -> None:
        self.items = [item for task in tasks for item in task.items]
        self.task_of = [task for task in tasks for _ in task.items]
        ends = list(accumulate((len(task.items) for task in tasks), initial=0))
        self._ranges = {task.task: range(*ends[place : place + 2]) for place, task in enumerate(tasks)}
        self._families = sorted({task.family for task in tasks})
        self.asked = [(norm_v1(item.question) or "", norm_v1(item.answer) or "") for item in self.items]
        self.places = places_of(self.items)
        self.prints = printer.prints(self.places, keep=True)
        self.items_of_text: dict[str, list[int]] = defaultdict(list)
        self.items_of_image: dict[int, list[int]] = defaultdict(list)
        self.keys: dict[tuple[int, tuple[str, str]], list[int]] = defaultdict(list)
        self._answers: dict[tuple[str, str], list[int]] = defaultdict(list)
        self._ids: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        numbers = {place: number for number, place in enumerate(self.places)}
        for number, (item, task) in enumerate(zip(self.items, self.task_of, strict=True)):
            for text in filter(None, map(norm_v1, item.texts)):
                self.items_of_text[text].append(number)
                if task.kind == "qa":
                    self._answers[text, self.asked[number][1]].append(number)
            for place in (numbers[item.source, image] for image in item.images):
                self.items_of_image[place].append(number)
                self.keys[place, self.asked[number]].append(number)
            for name, value in item.ids():
                self._ids[task.family, name, value].append(number)
        self.texts = tuple(self.items_of_text)

    @cached_property
    def near_texts(self) -> TextIndex:
        """What finds texts that a training text contains."""
        return TextIndex(self.texts)

    @cached_property
    def near_images(self) -> ImageIndex:
        """What finds equal and nearly equal images."""
        return ImageIndex(self.prints)

    def range_of(self, task: str) -> range:
        """Return the numbers of a task's items."""
        return self._ranges.get(task, range(0))

    def count(self, flags: Flags, task: str) -> int:
        """Return how many of a task's items have a flag [N]."""
        numbers = self.range_of(task)
        return int(flags[numbers.start : numbers.stop].sum())

    def with_answer(self, text: str, row: Item) -> list[int]:
        """Return items of text-only tasks with this text and the answer of a row.

        A row that does not say which of its texts is the answer may have it in any.
        """
        answers = {row.answer} if row.answer else {"", *row.texts}
        return [item for answer in answers for item in self._answers.get((text, norm_v1(answer) or ""), ())]

    def with_id(self, family: str, name: str, value: str) -> list[int]:
        """Return items with an id: of one dataset, or of any where nobody says of which it is."""
        families = [family] if family else self._families
        return [item for one in families for item in self._ids.get((one, name, value), ())]


def _askings(row: Item) -> list[tuple[str, str]]:
    """Return questions and answers of a row as test items have them: reports have no question."""
    answers = sorted(norm_v1(one) or "" for one in ({row.answer} if row.answer else set(row.texts)))
    questions = (norm_v1(row.question) or "", *([""] if row.question else []))
    return [(question, answer) for answer in answers for question in questions]


@dataclass(slots=True)
class Scan:
    """A running pass over training data."""

    index: ItemIndex
    printer: Printer
    keep_prints: bool = False  # whether the rows' images will be asked about again
    declared: bool = False  # whether the data are only declared: no images are opened, no near texts looked for
    tallies: dict[str, Tally] = field(default_factory=dict)

    def feed(self, rows: Iterable[Item], done: Callable[[int], None] | None = None) -> dict[str, Tally]:
        """Look at all rows; return what was found by language: the empty one holds rows that state none.

        `done` is told how many rows more were looked at.
        """
        stream = iter(rows)
        while batch := list(islice(stream, _BATCH_ROWS)):
            by_language: dict[str, list[Item]] = defaultdict(list)
            for row in batch:
                by_language[row.language].append(row)
            for language, part in by_language.items():
                tally = self.tallies.setdefault(language, Tally(len(self.index.items)))
                tally.rows += len(part)
                for row in part:
                    for text in row.texts:
                        self._text(row, text, tally)
                if not self.declared:
                    self._images(part, tally)
                for row in part:
                    self._ids(row, tally)
            if done is not None:
                done(len(batch))
        return self.tallies

    def _text(self, row: Item, original: str, tally: Tally) -> None:
        index, text = self.index, norm_v1(original)
        if text is None:
            return
        if text in index.items_of_text:
            witness = Witness(row.item_id, original, "equal")
            tally.share("text", index.items_of_text[text], witness)
            tally.share("item", index.with_answer(text, row), witness)
        for number, share in () if self.declared else index.near_texts.contained_in(text):
            if number not in tally.settled:
                items = index.items_of_text[index.texts[number]]
                witness = Witness(row.item_id, original, f"containment {share:.2f}")
                tally.share("near_text", items, witness)
                tally.share("near_item", index.with_answer(index.texts[number], row), witness)
                if all(tally.shared["near_item"][item] or index.task_of[item].kind != "qa" for item in items):
                    tally.settled.add(number)

    def _images(self, rows: Sequence[Item], tally: Tally) -> None:
        places = places_of(rows)
        tally.images += len(places)
        if not places or not self.printer.enabled:
            return
        prints = self.printer.prints(places, keep=self.keep_prints)
        tally.unreadable += sum(found is None for found in prints)
        owners: dict[Place, list[Item]] = defaultdict(list)
        for row in rows:
            for image in row.images:
                owners[row.source, image].append(row)
        for match in self.index.near_images.match(prints):
            theirs = owners[places[match.row]]
            how = _SAME.get(match.how, f"{match.bits} bits, {match.view}")
            first = Witness(theirs[0].item_id, "", how)
            tally.share(_IMAGE_CHECKS[match.how], self.index.items_of_image[match.image], first)
            for row in theirs if match.how in _ITEM_CHECKS else ():
                items = [item for asked in _askings(row) for item in self.index.keys.get((match.image, asked), ())]
                tally.share(_ITEM_CHECKS[match.how], items, Witness(row.item_id, row.answer, how))

    def _ids(self, row: Item, tally: Tally) -> None:
        for name, value in row.ids():
            tally.known_ids.add(name)
            # Within a dataset its own ids are better than the names of files.
            if name == SAME_NAME and row.family and not self.declared:
                continue
            for item in self.index.with_id(row.family, name, value):
                tally.groups[self.index.task_of[item].task, name].add(value)
                witness = Witness(row.item_id, row.answer, f"same {name}")
                tally.share(f"id:{name}", [item], witness)
                # The same image by its id or name, with the same question and answer, is the same item.
                if name in {"image", SAME_NAME} and row.answer and self.index.asked[item] in _askings(row):
                    tally.share("item", [item], witness)
