"""The manifest of training corpora: which published versions a dataset has, and what models declare of them.

`leaderboard/audit/sources.yaml` is ours; a manifest of the user's has the same form and comes before it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.yaml_tables import read_yaml_table

SOURCES_FILE = Path(__file__).resolve().parent.parent / "sources.yaml"
PREPARED = "prepared"
"""A version that every dataset has: the train split of the prepared data themselves."""

How = Literal["fingerprints", "prepared", "pattern"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published version of a dataset's split.

    Attributes:
        title: What it is.
        how: How to tell what is in it: a list of `fingerprints`; the `prepared` train split; or a `pattern` of ids that
            is searched for in files of the source folder.
        file: The list of fingerprints, beside this manifest.
        split_method: How the prepared data's way of splitting must begin, if only one way gives this version.
        files: Names of the files to search.
        pattern: Regular expression of an id.
        id: Name of that id.
    """

    title: str
    how: How
    file: str = ""
    split_method: str = ""
    files: tuple[str, ...] = ()
    pattern: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset that tasks are made of.

    Attributes:
        tasks: Tasks on its data.
        items_of: Those of them whose questions and answers its training data hold; the others share pictures only.
        language: Language of the tasks' items; empty if the dataset has one language.
        versions: By name.
    """

    tasks: tuple[str, ...]
    items_of: tuple[str, ...] = ()
    language: str = ""
    versions: Mapping[str, Version] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One body of training data that a model declares.

    Attributes:
        dataset: A dataset of the manifest; any name where `rows` are given.
        version: Its version; empty if nobody has said which, so that every known one is tried.
        split: The part that was trained on.
        languages: Languages of the rows; empty if nobody has said.
        rows: A file of these very training rows (JSON lines), relative to the manifest.
        evidence: Who says so.
    """

    dataset: str
    version: str = ""
    split: str = "train"
    languages: tuple[str, ...] = ()
    rows: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What is declared of one model.

    Attributes:
        adapted_from: Models that it was tuned from; their training data are its own.
        trained_on: Its training data beside theirs; None to go by the adapter's card, and unknown where there is none.
        note: What a reader should know.
    """

    adapted_from: tuple[str, ...] = ()
    trained_on: tuple[Declaration, ...] | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A whole manifest; `folder` is where its files are."""

    datasets: Mapping[str, Dataset] = field(default_factory=dict)
    models: Mapping[str, ModelSource] = field(default_factory=dict)
    folder: Path = Path()


for _record in (Version, Dataset, Declaration, ModelSource, Manifest):
    with_config(ConfigDict(extra="forbid"))(_record)
_MANIFEST = TypeAdapter(Manifest)


@dataclass(frozen=True, slots=True)
class Inherited:
    """A declaration, and through which models it came: the model itself first."""

    declaration: Declaration
    through: tuple[str, ...]
    folder: Path


def read_sources(path: Path = SOURCES_FILE) -> Manifest:
    """Read a manifest.

    Raises:
        UsageError: If it cannot be read or has another form; the message names the place.
    """
    value = read_yaml_table(path)
    value.pop("folder", None)
    try:
        return _MANIFEST.validate_python({**value, "folder": path.parent})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {place}: {first['msg']}.", "See docs/audit-data.md for the form.") from error


def source_of(name: str, variant: str, manifests: tuple[Manifest, ...]) -> tuple[str, ModelSource, Manifest] | None:
    """Return the entry of a model: `name:variant`, else the longest name that is a part of the variant, else `name`."""
    for manifest in manifests:
        exact = f"{name}:{variant}" if variant else name
        parts = sorted((key for key in manifest.models if variant and key in variant.lower()), key=len, reverse=True)
        for key in (exact, *parts, name):
            if key in manifest.models:
                return key, manifest.models[key], manifest
    return None


def inherited(
    key: str, manifests: tuple[Manifest, ...], through: tuple[str, ...] = ()
) -> Iterator[Inherited | tuple[str, ...]]:
    """Yield what the models that `key` was adapted from declare; a chain of names where one of them is unknown.

    Raises:
        UsageError: If a model is adapted from itself.
    """
    chain = (*through, key)
    if key in through:
        raise UsageError(f"{' from '.join(chain)}: a model cannot be adapted from itself.", "Correct adapted_from.")
    found = source_of(key, "", manifests)
    if found is None or (found[1].trained_on is None and through):
        yield chain
        if found is None:
            return
    _, source, manifest = found
    for declaration in source.trained_on or ():
        yield Inherited(declaration, chain, manifest.folder)
    for base in source.adapted_from:
        yield from inherited(base, manifests, chain)
