"""The test side of an audit, indexed once: its texts, pictures, ids, and the items that they make up."""

from collections import defaultdict
from collections.abc import Sequence

from medbench.leaderboard.audit.normalise import norm_v1
from medbench.leaderboard.audit.overlap.items import SAME_NAME, Item, TaskItems, picture_names
from medbench.leaderboard.audit.overlap.pictures import PictureIndex
from medbench.leaderboard.audit.overlap.printing import Place, Printer, places_of
from medbench.leaderboard.audit.overlap.texts import TextIndex

Key = tuple[int, str, str]
"""A picture's number (-1 for none), the question and the answer, normalised."""
NO_PICTURE = -1


class TestSide:
    """Test items of all audited tasks, numbered one task behind the other.

    Attributes:
        tasks: The tasks.
        items: All items.
        task_of: Number of the task of each.
        texts: Distinct normalised texts.
        text_index: Finds their near-duplicates.
        items_of_text: Items that have each text.
        answers: Items by number of a text and normalised answer; of tasks without pictures.
        places: Distinct pictures.
        picture_index: Finds them.
        items_of_picture: Items that ask about each picture.
        keys: Items by picture, question and answer.
        ids: Items by family, name of the id, and id.
    """

    # pytest takes classes of this name for tests of its own.
    __test__ = False

    def __init__(self, tasks: Sequence[TaskItems], printer: Printer) -> None:
        self.tasks = tuple(tasks)
        self.items = [item for task in tasks for item in task.items]
        self.task_of = [number for number, task in enumerate(tasks) for _ in task.items]
        self._index_texts()
        self._index_pictures(printer)
        self.ids: dict[tuple[str, str, str], list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            for name, value in ids_of(item):
                self.ids[self.task_at(number).family, name, value].append(number)

    def range_of(self, task: str) -> slice:
        """Return the numbers of a task's items."""
        start = 0
        for one in self.tasks:
            if one.task == task:
                return slice(start, start + len(one.items))
            start += len(one.items)
        return slice(0, 0)

    def task_at(self, item: int) -> TaskItems:
        """Return the task of an item."""
        return self.tasks[self.task_of[item]]

    def pictures_of(self, item: Item) -> list[int]:
        """Return the numbers of an item's pictures."""
        return [self._numbers[item.source, image] for image in item.images]

    def _index_texts(self) -> None:
        by_text: dict[str, list[int]] = defaultdict(list)
        self.answers: dict[tuple[int, str], list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            for text in filter(None, map(norm_v1, item.texts)):
                by_text[text].append(number)
        self.texts = tuple(by_text)
        self.number_of_text = {text: number for number, text in enumerate(self.texts)}
        self.items_of_text = tuple(map(tuple, by_text.values()))
        for number, item in enumerate(self.items):
            for text in filter(None, map(norm_v1, item.texts)):
                if self.task_at(number).kind == "qa":
                    self.answers[self.number_of_text[text], norm_v1(item.answer) or ""].append(number)
        self.text_index = TextIndex(self.texts)

    def _index_pictures(self, printer: Printer) -> None:
        self.places: list[Place] = places_of(self.items)
        self._numbers = {place: number for number, place in enumerate(self.places)}
        self.prints = printer.prints(self.places, keep=True)
        self.picture_index = PictureIndex(self.prints)
        self.items_of_picture: list[list[int]] = [[] for _ in self.places]
        self.keys: dict[Key, list[int]] = defaultdict(list)
        for number, item in enumerate(self.items):
            question, answer = norm_v1(item.question) or "", norm_v1(item.answer) or ""
            for picture in self.pictures_of(item):
                self.items_of_picture[picture].append(number)
                self.keys[picture, question, answer].append(number)


def ids_of(item: Item) -> list[tuple[str, str]]:
    """Return the ids of an item with their names, the names of its pictures among them."""
    own = [(name, value) for name, value in item.groups.items() if value]
    return own + [(SAME_NAME, name) for name in picture_names(item.images)]
