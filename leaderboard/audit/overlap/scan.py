"""One pass over training data: what of the test side is in it. Memory does not grow with the data."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

import numpy as np
import numpy.typing as npt

from medbench.leaderboard.audit.normalise import norm_v1
from medbench.leaderboard.audit.overlap.items import SAME_NAME, Item
from medbench.leaderboard.audit.overlap.printing import Printer, places_of
from medbench.leaderboard.audit.overlap.tally import Check, Tally, Witness
from medbench.leaderboard.audit.overlap.test_side import TestSide, ids_of
from medbench.leaderboard.audit.overlap.texts import CONTAINMENT

BATCH_ROWS = 2048
Flags = npt.NDArray[np.bool_]
Tallies = dict[str, Tally]
"""By language of the rows; the empty language holds rows that state none."""

PICTURE_CHECKS: Mapping[str, Check] = {
    "exact": "image",
    "near": "near_image",
    "review": "review_image",
    "blank": "blank_image",
}


class Scan:
    """A running pass.

    Args:
        side: The test side.
        printer: Makes fingerprints of training pictures.
        keep_prints: Whether the pictures come up again.
    """

    def __init__(self, side: TestSide, printer: Printer, *, keep_prints: bool) -> None:
        self._side = side
        self._printer = printer
        self._keep = keep_prints
        self.tallies: Tallies = {}
        self._settled: dict[str, Flags] = {}

    def feed(self, rows: Iterable[Item]) -> Tallies:
        """Look at all rows and return what was found, by language."""
        stream = iter(rows)
        while batch := list(islice(stream, BATCH_ROWS)):
            by_language: dict[str, list[Item]] = defaultdict(list)
            for row in batch:
                by_language[row.language].append(row)
            for language, part in by_language.items():
                tally = self.tallies.setdefault(language, Tally(len(self._side.items)))
                tally.rows += len(part)
                self._texts(part, tally, self._settled.setdefault(language, self._nothing_settled()))
                self._pictures(part, tally)
                self._ids(part, tally)
        return self.tallies

    def _nothing_settled(self) -> Flags:
        return np.zeros(len(self._side.texts), dtype=bool)

    def _texts(self, rows: Sequence[Item], tally: Tally, settled: Flags) -> None:
        owners, plain, raw = _normalised_texts(rows)
        for owner, text, original in zip(owners, plain, raw, strict=True):
            number = self._side.number_of_text.get(text)
            if number is not None:
                witness = Witness(rows[owner].item_id, original, "equal")
                for item in self._side.items_of_text[number]:
                    tally.share("text", item, witness)
                self._same_answer("item", number, rows[owner], witness, tally)
        for near in self._side.text_index.near(plain, settled):
            row = rows[owners[near.row]]
            score = f"containment {near.containment:.2f}, Jaccard {near.jaccard:.2f}"
            witness = Witness(row.item_id, raw[near.row], score)
            check: Check = "near_text" if near.containment >= CONTAINMENT else "similar_text"
            for item in self._side.items_of_text[near.text]:
                tally.share(check, item, witness)
            self._same_answer("near_item", near.text, row, witness, tally)
            settled[near.text] = self._is_settled(near.text, tally)

    def _same_answer(self, check: Check, text: int, row: Item, witness: Witness, tally: Tally) -> None:
        # A row that does not say which of its texts is the answer may have it in any.
        for answer in {row.answer, *(() if row.answer else row.texts)}:
            for item in self._side.answers.get((text, norm_v1(answer) or ""), ()):
                tally.share(check, item, witness)

    def _is_settled(self, text: int, tally: Tally) -> bool:
        """Return whether another near-duplicate of a text could tell nothing new."""
        items = self._side.items_of_text[text]
        contained = tally.shared["near_text"][items[0]]
        return bool(contained) and all(
            tally.shared["near_item"][item] or self._side.task_at(item).kind != "qa" for item in items
        )

    def _pictures(self, rows: Sequence[Item], tally: Tally) -> None:
        places = places_of(rows)
        if not places or not self._printer.enabled:
            tally.pictures += len(places)
            return
        prints = self._printer.prints(places, keep=self._keep)
        tally.pictures += len(places)
        tally.unreadable += sum(found is None for found in prints)
        owners: dict[object, list[Item]] = defaultdict(list)
        for row in rows:
            for image in row.images:
                owners[row.source, image].append(row)
        for match in self._side.picture_index.match(prints):
            seen = owners[places[match.row]]
            how = {"exact": "equal pixels", "blank": "equal, blank"}.get(match.how, f"{match.bits} bits, {match.view}")
            check = PICTURE_CHECKS[match.how]
            for item in self._side.items_of_picture[match.picture]:
                tally.share(check, item, Witness(seen[0].item_id, "", how))
            if match.how in {"exact", "near"}:
                self._whole_items("item" if match.how == "exact" else "near_item", match.picture, seen, how, tally)

    def _whole_items(self, check: Check, picture: int, rows: Sequence[Item], how: str, tally: Tally) -> None:
        for row in rows:
            for question, answer in _askings(row):
                for item in self._side.keys.get((picture, question, answer), ()):
                    tally.share(check, item, Witness(row.item_id, row.answer, how))

    def _ids(self, rows: Sequence[Item], tally: Tally) -> None:
        families = sorted({task.family for task in self._side.tasks})
        for row in rows:
            for name, value in ids_of(row):
                tally.known_ids.add(name)
                # Names of files are compared with lists of others only: within a dataset its own ids are better.
                if name == SAME_NAME and row.family:
                    continue
                for family in [row.family] if row.family else families:
                    for item in self._side.ids.get((family, name, value), ()):
                        tally.share_group(self._side.task_at(item).task, name, value, item)
                        self._whole_by_id(name, item, row, tally)

    def _whole_by_id(self, name: str, item: int, row: Item, tally: Tally) -> None:
        """The same picture by its id or name, with the same question and answer, is the same item."""
        ours = self._side.items[item]
        if name not in {"image", SAME_NAME} or not row.answer:
            return
        key = (norm_v1(ours.question) or "", norm_v1(ours.answer) or "")
        if key in _askings(row):
            tally.share("item", item, Witness(row.item_id, row.answer, f"same {name}"))


def _normalised_texts(rows: Sequence[Item]) -> tuple[list[int], list[str], list[str]]:
    found = [
        (owner, text, original)
        for owner, row in enumerate(rows)
        for original in row.texts
        if (text := norm_v1(original)) is not None
    ]
    return [one[0] for one in found], [one[1] for one in found], [one[2] for one in found]


def _askings(row: Item) -> Iterator[tuple[str, str]]:
    """Yield question and answer of a row as keys have them: reports have no question."""
    answers = {row.answer} if row.answer else set(row.texts)
    for answer in sorted(norm_v1(one) or "" for one in answers):
        yield norm_v1(row.question) or "", answer
        if row.question:
            yield "", answer
