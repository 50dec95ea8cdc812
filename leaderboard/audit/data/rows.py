"""Other people's training data as JSON lines: one row at a time, so that a file may be as long as it likes.

What fields are called in the wild is in `fields.yaml`; `groups` may be a mapping like that of samples.

A file that ends in `.json` may be one list of such rows; it is read row by row too.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ijson

from medbench.leaderboard.audit.data.items import Item, family_of
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import JsonObject, read_numbered_json_lines, read_yaml_table
from medbench.tasks.sample import ImageRef

_FIELDS: Mapping[str, Any] = read_yaml_table(Path(__file__).resolve().parent.parent / "fields.yaml")
_BLOCK = 1 << 20
_JSON_TYPES = {dict: "object", list: "list", str: "text", bool: "truth value", int: "number", float: "number"}


def training_rows(path: Path, images: Path) -> Iterator[Item]:
    """Yield the rows of a file of training data, JSON lines or a `.json` list, whose images start from a folder.

    Raises DataError if the file cannot be read, or a row has nothing to compare; the message names the line.
    """
    numbered = _listed(path) if path.suffix.lower() == ".json" else read_numbered_json_lines(path)
    for place, row in numbered:
        yield _row(row, f"{path.name}:{place}", images)


def row_count(path: Path) -> int:
    """Return about how many rows a file has: its lines, which is what a display of progress needs.

    Raises DataError if it cannot be read.
    """
    with _opened(path) as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(_BLOCK), b""))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the path that was given.") from error


def _listed(path: Path) -> Iterator[tuple[int, JsonObject]]:
    with _opened(path) as stream:
        try:
            if next(iter(ijson.basic_parse(stream)), ("", None))[0] != "start_array":
                raise DataError(f"{path} holds JSON, but not a list of rows.", "Give a list or JSON lines.")
            stream.seek(0)
            for place, row in enumerate(ijson.items(stream, "item", use_float=True), start=1):
                if not isinstance(row, dict):
                    found = _JSON_TYPES.get(type(row), "null")
                    raise DataError(f"{path}, row {place} is a JSON {found}, not an object.")
                yield place, row
        except (ijson.JSONError, UnicodeDecodeError) as error:
            raise DataError(f"{path} is not JSON: {error}.") from error


def _row(row: JsonObject, item_id: str, images: Path) -> Item:
    question, answer = _first(row, "questions"), _first(row, "answers")
    turns = list(_turns(row))
    texts = [*(text for kind in ("questions", "answers", "texts") for text in _all(row, kind)), *turns]
    pictured = tuple(ImageRef(path=name) for name in _image_paths(row))
    groups = _groups(row)
    if not texts and not pictured and not groups:
        kinds = ("questions", "answers", "texts", "turns", "images")
        allowed = ", ".join((*(name for kind in kinds for name in _FIELDS[kind]), "groups"))
        raise DataError(f"{item_id}: the row has no text, no image and no id.", f"Fields that are read: {allowed}.")
    if len(turns) > 1 and not answer:
        question, answer = question or turns[0], turns[1]
    family = _first(row, "families")
    return Item(
        item_id=item_id, texts=tuple(dict.fromkeys(texts)), question=_without_image_mark(question), answer=answer,
        images=pictured, source=images, groups=groups,
        family=family_of(get_task(family)) if family in TASKS else family.lower(), language=_first(row, "languages"),
    )  # fmt: skip


def _without_image_mark(question: str) -> str:
    return question.replace("<image>", " ").strip()


def _first(row: JsonObject, kind: str) -> str:
    return next(iter(_all(row, kind)), "")


def _all(row: JsonObject, kind: str) -> list[str]:
    return [row[name] for name in _FIELDS[kind] if isinstance(row.get(name), str) and row[name].strip()]


def _turns(row: JsonObject) -> Iterator[str]:
    for name in _FIELDS["turns"]:
        turns = row.get(name)
        for turn in turns if isinstance(turns, list) else ():
            if not isinstance(turn, dict) or str(turn.get("from") or turn.get("role") or "") == "system":
                continue
            content = turn.get("value") if "value" in turn else turn.get("content")
            for part in content if isinstance(content, list) else [content]:
                text = part.get("text") if isinstance(part, dict) else part
                if isinstance(text, str) and text.strip():
                    yield _without_image_mark(text)


def _image_paths(row: JsonObject) -> Iterator[str]:
    for name in _FIELDS["images"]:
        value = row.get(name)
        for one in value if isinstance(value, list) else [value]:
            path = one.get("path") if isinstance(one, dict) else one
            if isinstance(path, str) and path:
                yield path


def _groups(row: JsonObject) -> dict[str, str]:
    found = {
        name: str(row[column])
        for name, columns in _FIELDS["ids"].items()
        for column in columns
        if isinstance(row.get(column), str | int) and str(row[column])
    }
    given = row.get("groups")
    return found | ({str(name): str(value) for name, value in given.items()} if isinstance(given, dict) else {})
