"""Which of some fingerprints are in a version of a dataset."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from medbench.leaderboard.audit.overlap.items import family_of, item_of
from medbench.leaderboard.audit.overlap.training_files import training_rows
from medbench.leaderboard.audit.provenance.fingerprints import fingerprint, found_among
from medbench.leaderboard.audit.provenance.sources import Dataset, Version
from medbench.tasks.foundation.errors import DataError
from medbench.tasks.foundation.files import inside
from medbench.tasks.prepared import Prepared
from medbench.tasks.suite import suite_of
from medbench.tasks.validation import NativeRow, parse_json_file

_EVERY_LANGUAGE = ""


class _Prints(NativeRow):
    pictures: dict[str, dict[str, list[str]]]


_PRINTS = TypeAdapter(_Prints)


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """What is in one body of training data.

    Attributes:
        language: Language of its rows; empty if there is one, or it is not stated.
        found: Those of the wanted fingerprints that it has; None if that cannot be told.
        whole_pictures: Whether a picture that is in it is there with all its questions of that language.
        note: Why it cannot be told, or what limits it.
    """

    language: str = _EVERY_LANGUAGE
    found: frozenset[str] | None
    whole_pictures: bool = False
    note: str = ""


def members_of_version(
    dataset: Dataset,
    version: Version,
    split: str,
    folder: Path,
    prepared: Mapping[str, Prepared],
    wanted: frozenset[str],
) -> Iterator[Members]:
    """Yield what is in a split of a version, by language.

    Args:
        dataset: The dataset.
        version: Its version.
        split: The part that was trained on.
        folder: The manifest's folder.
        prepared: Prepared tasks by name.
        wanted: Fingerprints to look for.

    Raises:
        DataError: If a file is broken.
    """
    if version != prepared_version() and _stand_ins(dataset, prepared):
        yield Members(found=None, note="these are the mini suite's stand-ins, whatever names their pictures have")
    elif version.how == "fingerprints":
        yield from _listed(version, split, folder, wanted)
    elif version.how == "pattern":
        yield _matched(dataset, version, prepared, wanted)
    else:
        yield _prepared(dataset, version, prepared, wanted)


def members_of_rows(path: Path, family: str, wanted: frozenset[str]) -> Members:
    """Return what is in a file of training rows."""
    if not path.is_file():
        return Members(found=None, note=f"the file of training rows {path.name} is missing")
    return Members(found=found_among(wanted, training_rows(path, path.parent), family))


def prepared_version() -> Version:
    """Return the version that every dataset has: what is prepared here."""
    return Version(title="the train split of these prepared data", how="prepared")


def _stand_ins(dataset: Dataset, prepared: Mapping[str, Prepared]) -> bool:
    return suite_of(prepared[task] for task in dataset.tasks if task in prepared) == "mini"


def _listed(version: Version, split: str, folder: Path, wanted: frozenset[str]) -> Iterator[Members]:
    path = inside(folder, version.file)
    for language, splits in sorted(parse_json_file(_PRINTS, path).pictures.items()):
        if split not in splits:
            yield Members(language=language, found=None, note=f"{path.name} has no split {split!r}")
            continue
        yield Members(language=language, found=wanted.intersection(splits[split]), whole_pictures=True)


def _prepared(dataset: Dataset, version: Version, prepared: Mapping[str, Prepared], wanted: frozenset[str]) -> Members:
    tasks = [prepared[task] for task in dataset.tasks if task in prepared]
    if not tasks:
        return Members(found=None, note=f"none of {', '.join(dataset.tasks)} is prepared here")
    other = [one for one in tasks if not one.manifest.split_method.startswith(version.split_method)]
    if other:
        return Members(
            found=None, note=f"{other[0].task} was prepared with another split: {other[0].manifest.split_method}"
        )
    found: frozenset[str] = frozenset()
    for one in tasks:
        items = (item_of(sample, one.spec, one.source, {}) for sample in one.samples("train"))
        found |= found_among(wanted, items, family_of(one.spec))
    return Members(found=found)


def _matched(dataset: Dataset, version: Version, prepared: Mapping[str, Prepared], wanted: frozenset[str]) -> Members:
    tasks = [prepared[task] for task in dataset.tasks if task in prepared]
    paths = [path for one in tasks for name in version.files for path in _places(one.source, name)]
    if not paths:
        return Members(found=None, note=f"none of {', '.join(version.files)} is in the source folder")
    pattern = re.compile(version.pattern)
    found: set[str] = set()
    for path in paths:
        for value in _matches(path, pattern):
            print_ = fingerprint("id", family_of(tasks[0].spec), version.id, value)
            if print_ in wanted:
                found.add(print_)
    missing = sorted(set(version.files) - {path.name for path in paths})
    return Members(found=frozenset(found), note=f"not there: {', '.join(missing)}" if missing else "")


def _places(source: Path, name: str) -> list[Path]:
    return sorted({path for folder in (source, *_folders(source)) if (path := folder / name).is_file()})


def _folders(source: Path) -> list[Path]:
    return [path for path in source.iterdir() if path.is_dir()] if source.is_dir() else []


def _matches(path: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                yield from pattern.findall(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the source folder.") from error
