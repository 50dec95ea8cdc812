"""What models declare of their training data, their own and inherited, and which versions of datasets there are.

`leaderboard/audit/sources.yaml` is our manifest; a manifest of the user's has the same form and comes before it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from medbench.harness.models import declared_by
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import read_yaml_table

SOURCES_FILE = Path(__file__).resolve().parent.parent / "sources.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published version of a dataset's split."""

    title: str  # what it is
    # how to tell what is in it: a list of `fingerprints` of images; the `prepared` train split; or a `pattern` of ids
    # that is searched for in files of the source folder
    how: Literal["fingerprints", "prepared", "pattern"]
    file: str = ""  # the list of fingerprints, beside this manifest
    split_method: str = ""  # how the prepared data's way of splitting must begin, if only one way gives this version
    files: tuple[str, ...] = ()  # names of the files to search
    pattern: str = ""  # regular expression of an id
    id: str = ""  # name of that id


PREPARED = Version(title="the train split of these prepared data", how="prepared")
"""A version that every dataset has, under the name `prepared`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset that tasks are made of."""

    tasks: tuple[str, ...]  # tasks on its data
    items_of: tuple[str, ...] = ()  # those whose items its training data hold; others share images only
    language: str = ""  # language of the tasks' items; empty if the dataset has one language
    versions: Mapping[str, Version] = field(default_factory=dict)  # by name


@dataclass(frozen=True, slots=True, kw_only=True)
class Declaration:
    """One body of training data that a model declares."""

    dataset: str  # a dataset of the manifest; any name where `rows` are given
    version: str = ""  # its version; empty if nobody has said which, so that every known one is tried
    split: str = "train"  # the part that was trained on
    languages: tuple[str, ...] = ()  # languages of the rows; empty if nobody has said
    rows: str = ""  # a file of these very training rows (JSON lines), relative to the manifest
    evidence: str = ""  # who says so


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """What is declared of one model; `trained_on` is None to go by the adapter's card, and unknown where there is none.

    The training data of the models that it was `adapted_from` are its own.
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


def read_sources(path: Path = SOURCES_FILE) -> Manifest:
    """Read a manifest. Raises UsageError if it cannot be read or has another form; the message names the place."""
    value = read_yaml_table(path)
    try:
        return _MANIFEST.validate_python({**value, "folder": path.parent})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {place}: {first['msg']}.", "See docs/audit-data.md for the form.") from error


@dataclass(frozen=True, slots=True)
class Inherited:
    """A declaration, through which models it came (the model itself first), and the folder of its manifest."""

    declaration: Declaration
    through: tuple[str, ...]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """What a model declares, its own and inherited, and of whom nobody has said."""

    title: str
    found: tuple[Inherited, ...]
    unknown: tuple[str, ...]
    note: str = ""


def source_of(name: str, variant: str, manifests: Sequence[Manifest]) -> tuple[str, ModelSource, Manifest] | None:
    """Return the entry of a model: `name:variant`, else the longest name that is a part of the variant, else `name`."""
    for manifest in manifests:
        exact = f"{name}:{variant}" if variant else name
        parts = sorted((key for key in manifest.models if variant and key in variant.lower()), key=len, reverse=True)
        for key in (exact, *parts, name):
            if key in manifest.models:
                return key, manifest.models[key], manifest
    return None


def inherited(
    key: str, manifests: Sequence[Manifest], through: tuple[str, ...] = ()
) -> Iterator[Inherited | tuple[str, ...]]:
    """Yield what a model and those that it was adapted from declare; a chain of names where one of them is unknown.

    Raises UsageError if a model is adapted from itself.
    """
    names = (*through, key)
    if key in through:
        raise UsageError(f"{' from '.join(names)}: a model cannot be adapted from itself.", "Correct adapted_from.")
    found = source_of(key, "", manifests)
    if found is None or (found[1].trained_on is None and through):
        yield names
    if found is not None:
        _, source, manifest = found
        yield from (Inherited(one, names, manifest.folder) for one in source.trained_on or ())
        for base in source.adapted_from:
            yield from inherited(base, manifests, names)


def lineage_of(model: str, manifests: Sequence[Manifest], datasets: Mapping[str, Dataset]) -> Lineage:
    """Return what a model declares, itself and through those that it was adapted from.

    The user's manifest comes first, ours last; `datasets` are those of all. Raises UsageError if there is no such
    model, or a declaration names a dataset that no manifest has.
    """
    name, _, variant = model.partition(":")
    own = any(model in manifest.models for manifest in manifests[:-1])
    card = declared_by(model, own=own)
    source = source_of(model, "", manifests) if own else source_of(name, variant, manifests)
    steps = list(inherited(source[0], manifests)) if source else []
    found = [step for step in steps if isinstance(step, Inherited)]
    unknown = [step[-1] for step in steps if not isinstance(step, Inherited)]
    if source is None or source[1].trained_on is None:
        trained = card.trained_on or frozenset()
        declared = sorted(name for name, one in datasets.items() if trained.intersection(one.tasks))
        cards = [Declaration(dataset=name, evidence="the adapter's card") for name in declared]
        found = [*(Inherited(one, (card.name,), Path()) for one in cards), *found]
        homeless = sorted(trained - {task for one in datasets.values() for task in one.tasks})
        unknown += [card.name] if card.trained_on is None else homeless
    for step in found:
        if step.declaration.dataset not in datasets and not step.declaration.rows:
            raise unknown_name("dataset in the manifest", step.declaration.dataset, datasets)
    note = source[1].note if source else ""
    return Lineage(title=card.title, found=tuple(found), unknown=tuple(unknown), note=note)
