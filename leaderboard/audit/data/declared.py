"""`medbench audit provenance`: the training data that a model declares, as further sources of the same scan.

`leaderboard/audit/sources.yaml` is our manifest of training corpora: which published versions a dataset has, and what
models declare of them; a manifest of the user's has the same form and comes before it. What is declared is compared
with the test items by ids, by names of images, and by question and answer, version by version and language by language.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from medbench.harness.declared import Declared, declared_by
from medbench.leaderboard.audit.data.audit import DataAuditInput, DataSelection, read_data
from medbench.leaderboard.audit.data.findings import MARK_SHARE
from medbench.leaderboard.audit.data.images import Printer
from medbench.leaderboard.audit.data.items import SAME_NAME, Item, TaskItems, family_of, image_names, items_of
from medbench.leaderboard.audit.data.rows import training_rows
from medbench.leaderboard.audit.data.scan import ItemIndex, Scan, Tally
from medbench.leaderboard.audit.document import Audit, Table, TaskVerdict, Verdict, strongest
from medbench.leaderboard.audit.normalise import NORM_VERSION
from medbench.tasks.catalog import benchmark_of
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.foundation.files import inside
from medbench.tasks.foundation.yaml_tables import read_yaml_table
from medbench.tasks.prepared import Prepared
from medbench.tasks.suite import suite_of
from medbench.tasks.validation import NativeRow, parse_json_file

SOURCES_FILE = Path(__file__).resolve().parent.parent / "sources.yaml"
_PREPARED = "prepared"
_QUESTION = (
    "Do the declared training data contain test items? They were looked for in the training data that the model "
    "declares, and in those of the models that it was adapted from."
)
_LIMITS = (
    "whether the declarations are true and whole",
    "what the language model underneath read as plain text, where nobody has said",
)
_LEVELS: dict[Verdict, str] = {"strong": "L5", "suspicious": "L3", "not_testable": "L0"}
_WORDS: dict[Verdict, str] = {
    "strong": "confirmed", "suspicious": "possible", "no_evidence": "no evidence", "not_testable": "not testable",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One published version of a dataset's split.

    Attributes:
        title: What it is.
        how: How to tell what is in it: a list of `fingerprints` of images; the `prepared` train split; or a `pattern`
            of ids that is searched for in files of the source folder.
        file: The list of fingerprints, beside this manifest.
        split_method: How the prepared data's way of splitting must begin, if only one way gives this version.
        files: Names of the files to search.
        pattern: Regular expression of an id.
        id: Name of that id.
    """

    title: str
    how: Literal["fingerprints", "prepared", "pattern"]
    file: str = ""
    split_method: str = ""
    files: tuple[str, ...] = ()
    pattern: str = ""
    id: str = ""


_PREPARED_VERSION = Version(title="the train split of these prepared data", how="prepared")
"""A version that every dataset has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A dataset that tasks are made of.

    Attributes:
        tasks: Tasks on its data.
        items_of: Those of them whose questions and answers its training data hold; the others share images only.
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


class _ImageLists(NativeRow):
    pictures: dict[str, dict[str, list[str]]]


_IMAGE_LISTS = TypeAdapter(_ImageLists)


@dataclass(frozen=True, slots=True)
class Inherited:
    """A declaration, through which models it came (the model itself first), and the folder of its manifest."""

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

    Raises:
        UsageError: If a model is adapted from itself.
    """
    names = (*through, key)
    if key in through:
        raise UsageError(f"{' from '.join(names)}: a model cannot be adapted from itself.", "Correct adapted_from.")
    found = source_of(key, "", manifests)
    if found is None or (found[1].trained_on is None and through):
        yield names
    if found is not None:
        _, source, manifest = found
        for declaration in source.trained_on or ():
            yield Inherited(declaration, names, manifest.folder)
        for base in source.adapted_from:
            yield from inherited(base, manifests, names)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lineage:
    """What a model declares, its own and inherited; whose training data nobody has said; a note for readers."""

    title: str
    found: tuple[Inherited, ...]
    unknown: tuple[str, ...]
    note: str = ""


def _lineage(model: str, manifests: Sequence[Manifest], datasets: Mapping[str, Dataset]) -> _Lineage:
    name, _, variant = model.partition(":")
    own = any(model in manifest.models for manifest in manifests[:-1])
    card = Declared(name=model, variant="", title=model, trained_on=None) if own else declared_by(model)
    source = source_of(model, "", manifests) if own else source_of(name, variant, manifests)
    steps = list(inherited(source[0], manifests)) if source else []
    found = [step for step in steps if isinstance(step, Inherited)]
    unknown = [step[-1] for step in steps if not isinstance(step, Inherited)]
    if source is None or source[1].trained_on is None:
        trained = card.trained_on or frozenset()
        names = sorted(name for name, one in datasets.items() if trained.intersection(one.tasks))
        said = [Declaration(dataset=name, evidence="the adapter's card") for name in names]
        found = [*(Inherited(one, (card.name,), Path()) for one in said), *found]
        homeless = sorted(trained - {task for one in datasets.values() for task in one.tasks})
        unknown += [card.name] if card.trained_on is None else homeless
    return _Lineage(title=card.title, found=tuple(found), unknown=tuple(unknown), note=source[1].note if source else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredCorpus:
    """A part of what is declared, as a source of training rows.

    Attributes:
        version: The version that it is.
        language: Language of its rows; empty if there is one, or it is not stated.
        rows: The rows; None if what is in it cannot be told.
        stated: Whether the model's makers say that it was this version.
        note: Why it cannot be told, or what limits it.
    """

    version: str
    language: str = ""
    rows: Iterable[Item] | None = None
    stated: bool = False
    note: str = ""


def _corpora(
    step: Inherited, dataset: Dataset | None, given: DataAuditInput, manifests: Sequence[Manifest]
) -> Iterator[DeclaredCorpus]:
    said = step.declaration
    if said.rows:
        path = inside(step.folder, said.rows)
        rows = training_rows(path, path.parent) if path.is_file() else None
        note = "" if rows is not None else f"the file of training rows {path.name} is missing"
        yield DeclaredCorpus(version="its rows", rows=rows, stated=True, note=note)
        return
    if dataset is None:
        return
    for name, version in _versions(said, dataset):
        has_it = (one for one in manifests if name in one.datasets.get(said.dataset, Dataset(tasks=())).versions)
        folder = next((one.folder for one in has_it), Path())
        for corpus in _of_version(name, version, said.split, dataset, given, folder):
            if not (said.languages and corpus.language) or corpus.language in said.languages:
                certain = bool(said.version) and (bool(said.languages) or not corpus.language)
                yield replace(corpus, stated=certain)


def _versions(said: Declaration, dataset: Dataset) -> list[tuple[str, Version]]:
    known = {**dataset.versions, _PREPARED: _PREPARED_VERSION}
    if not said.version:
        return list((dataset.versions or known).items())
    if said.version not in known:
        raise UsageError(
            f"There is no version {said.version!r} of {said.dataset}.",
            f"Allowed: {', '.join(known)}; leave it out if nobody has said.",
        )
    return [(said.version, known[said.version])]


def _of_version(
    name: str, version: Version, split: str, dataset: Dataset, given: DataAuditInput, folder: Path
) -> Iterator[DeclaredCorpus]:
    there = [given.prepared[task] for task in dataset.tasks if task in given.prepared]
    if version != _PREPARED_VERSION and suite_of(there) == "mini":
        note = "these are the mini suite's stand-ins, whatever names their images have"
        yield DeclaredCorpus(version=name, note=note)
    elif version.how == "fingerprints":
        path = inside(folder, version.file)
        for language, splits in sorted(parse_json_file(_IMAGE_LISTS, path).pictures.items()):
            corpus = DeclaredCorpus(version=name, language=language)
            if split in splits:
                yield replace(corpus, rows=_listed(frozenset(splits[split]), language, dataset, given.test))
            else:
                yield replace(corpus, note=f"{path.name} has no split {split!r}")
    elif version.how == "pattern":
        yield _matched(name, version, there)
    else:
        yield _prepared(name, version, dataset, there)


def _listed(prints: frozenset[str], language: str, dataset: Dataset, test: Sequence[TaskItems]) -> Iterator[Item]:
    """Yield as training rows what a list of images has of the test items: nobody else's can be told from it.

    An image that is in it is there with all its questions of that language.
    """
    for task in test:
        whole = task.task in dataset.items_of and language == dataset.language
        for item in task.items if task.task in dataset.tasks else ():
            if image_prints(item) & prints:
                groups = {"image": item.groups["image"]} if item.groups.get("image") else {}
                yield replace(item, texts=(), answer=item.answer if whole else "", groups=groups)


def image_prints(item: Item) -> frozenset[str]:
    """Return fingerprints (BLAKE2b-128) of an item's images by name and by id: lists of them hold no text."""
    names = [("name", name) for name in image_names(item.images)]
    own = item.groups.get("image", "")
    ids = [("id", item.family, own)] if own and item.family else []
    return frozenset(
        blake2b("\x1f".join(("picture", *parts)).encode(), digest_size=16).hexdigest() for parts in (*names, *ids)
    )


def _prepared(name: str, version: Version, dataset: Dataset, there: Sequence[Prepared]) -> DeclaredCorpus:
    if not there:
        return DeclaredCorpus(version=name, note=f"none of {', '.join(dataset.tasks)} is prepared here")
    other = [one for one in there if not one.manifest.split_method.startswith(version.split_method)]
    if other:
        note = f"{other[0].task} was prepared with another split: {other[0].manifest.split_method}"
        return DeclaredCorpus(version=name, note=note)
    return DeclaredCorpus(version=name, rows=chain.from_iterable(items_of(one, "train", {}).items for one in there))


def _matched(name: str, version: Version, there: Sequence[Prepared]) -> DeclaredCorpus:
    folders = [folder for one in there if one.source.is_dir() for folder in (one.source, *sorted(one.source.iterdir()))]
    paths = list(dict.fromkeys(path for one in folders for file in version.files if (path := one / file).is_file()))
    missing = sorted(set(version.files) - {path.name for path in paths})
    if not paths:
        note = f"none of {', '.join(version.files)} is in the source folder"
        return DeclaredCorpus(version=name, note=note)
    ids = chain.from_iterable(_ids_in(path, re.compile(version.pattern)) for path in paths)
    family = family_of(there[0].spec)
    rows = (Item(item_id=value, groups={version.id: value}, family=family) for value in ids)
    return DeclaredCorpus(version=name, rows=rows, note=f"not there: {', '.join(missing)}" if missing else "")


def _ids_in(path: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                yield from pattern.findall(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the source folder.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredOverlap:
    """One declared body of training data against one task.

    Attributes:
        dataset: The declared dataset.
        version: The version that was compared with.
        stated: Whether the model's makers say that it was this version.
        split: The part that was trained on.
        language: Language of the rows; empty if there is only one.
        through: The model that declares it, through those that inherit it.
        evidence: Who says so.
        items: Test items in it, with question and answer.
        of: Test items.
        pictures: Test items whose image is in it, in whatever question and language.
        groups: Ids on both sides, of the id that decides.
        of_groups: Such ids of the test side.
        verdict: What it comes to.
        note: What limits it.
    """

    dataset: str
    version: str
    stated: bool
    split: str
    language: str
    through: tuple[str, ...]
    evidence: str
    items: int = 0
    of: int = 0
    pictures: int = 0
    groups: int = 0
    of_groups: int = 0
    verdict: Verdict = "not_testable"
    note: str = ""


def audit_provenance(model: str, selection: DataSelection, manifest: Path | None = None) -> Audit:
    """Compare what a model declares with the test items of tasks.

    Args:
        model: `name` or `name:variant` of the catalogue, or a model of a manifest.
        selection: The prepared tasks.
        manifest: The user's own declarations; they come before ours.

    Raises:
        UsageError: If there is no such model, or a declaration names a dataset or version that no manifest has.
        DataError: If a file is broken.
    """
    manifests = (*((read_sources(manifest),) if manifest else ()), read_sources())
    given = read_data(selection, with_train=False)
    datasets = {name: one for manifest in reversed(manifests) for name, one in manifest.datasets.items()}
    lineage = _lineage(model, manifests, datasets)
    printer = Printer(enabled=False)
    index = ItemIndex(given.test, printer)
    overlaps: dict[str, list[DeclaredOverlap]] = {task.task: [] for task in given.test}
    in_domain: set[str] = set()
    for step in lineage.found:
        said = step.declaration
        if said.dataset not in datasets and not said.rows:
            raise unknown_name("dataset in the manifest", said.dataset, datasets)
        dataset = datasets.get(said.dataset)
        about = [
            task
            for task in given.test
            if dataset and not {task.task, benchmark_of(task.task)}.isdisjoint(dataset.tasks)
        ]
        in_domain.update(task.task for task in about)
        concerned = given.test if said.rows else about
        for corpus in _corpora(step, dataset, given, manifests) if concerned else ():
            scan = Scan(index, printer, declared=True)
            tally = (
                None
                if corpus.rows is None
                else scan.feed(replace(row, language="") for row in corpus.rows).get("", Tally(len(index.items)))
            )
            for task in concerned:
                overlaps[task.task].append(_overlap(step, corpus, task, index, tally))
    return _report(model, lineage, given, overlaps, in_domain)


def _overlap(
    step: Inherited, corpus: DeclaredCorpus, task: TaskItems, index: ItemIndex, tally: Tally | None
) -> DeclaredOverlap:
    said = step.declaration
    empty = DeclaredOverlap(
        dataset=said.dataset, version=corpus.version, stated=corpus.stated, split=said.split, language=corpus.language,
        through=step.through, evidence=said.evidence, of=len(task.items), note=corpus.note,
    )  # fmt: skip
    if tally is None:
        return empty
    numbers = index.range_of(task.task)
    images = tally.by_id("image") | tally.by_id(SAME_NAME)
    by_id = tally.by_id(task.decisive)
    units = {number: task.unit_of(index.items[number]) for number in numbers}
    shared = {
        unit
        for number, unit in units.items()
        if by_id[number] or (images[number] and unit == index.items[number].groups.get("image"))
    }
    counts = {
        "items": int(tally.shared["item"][numbers.start : numbers.stop].sum()),
        "pictures": int(images[numbers.start : numbers.stop].sum()),
        "groups": len(shared),
    }
    of_groups = len(set(units.values()))
    share = max(
        counts["items"] / max(len(task.items), 1),
        counts["pictures"] / max(len(task.items), 1),
        counts["groups"] / max(of_groups, 1),
    )
    found: Verdict = "strong" if corpus.stated and share > MARK_SHARE else "suspicious" if share else "no_evidence"
    return replace(empty, **counts, of_groups=of_groups, verdict=found)


def _report(
    model: str, lineage: _Lineage, given: DataAuditInput, overlaps: Mapping[str, Sequence[DeclaredOverlap]],
    in_domain: set[str],
) -> Audit:  # fmt: skip
    verdicts = {task: _task_verdict(task, found, lineage, task in in_domain) for task, found in overlaps.items()}
    matrix = [
        [task, one.facts["level"] or "-", _WORDS[one.verdict], "yes" if task in in_domain else "no", one.details["why"]]
        for task, one in verdicts.items()
    ]
    return Audit(
        kind="provenance",
        title=f"Leakage audit of declared training data: {lineage.title}",
        question=_QUESTION,
        tasks=verdicts,
        tables=[Table(columns=("task", "level", "verdict", "declared", "why"), rows=matrix), _declared_table(overlaps)],
        incomplete=any(one.verdict == "not_testable" for one in verdicts.values()),
        notes=[*given.notes, *([lineage.note] if lineage.note else [])],
        limits=_LIMITS,
        settings={
            "model": model,
            "normaliser": NORM_VERSION,
            "share": MARK_SHARE,
            "data": dict(sorted(given.fingerprints.items())),
        },
    )


def _task_verdict(
    task: str, found: Sequence[DeclaredOverlap], lineage: _Lineage, declared: bool
) -> TaskVerdict:  # fmt: skip
    if found:
        verdict = strongest(one.verdict for one in found)
        why = "; ".join(_shared(one) for one in found if one.verdict == verdict)
    elif lineage.unknown:
        verdict, why = "not_testable", f"nobody has said what {', '.join(lineage.unknown)} was trained on"
    else:
        verdict = "no_evidence"
        why = "the model declares its training data, and this dataset is not among them"
    # L5: confirmed; L3: possible; L1: declared, nothing shared; L0: cannot be told.
    level = _LEVELS.get(verdict, "L1" if declared else "")
    details: dict[str, Any] = {
        "declared": declared, "level": level, "why": why, "overlaps": [asdict(one) for one in found],
    }  # fmt: skip
    return TaskVerdict(title=task, verdict=verdict, text="", facts={"level": level}, details=details)


def _shared(one: DeclaredOverlap) -> str:
    where = f"{one.dataset} {one.version} {one.split}" + (f" [{one.language}]" if one.language else "")
    if one.verdict == "not_testable":
        return f"{where}: {one.note}"
    whether = "" if one.stated else ", if it was this version"
    return f"{where}: {one.items} of {one.of} items, {one.groups} of {one.of_groups} groups{whether}"


def _declared_table(overlaps: Mapping[str, Sequence[DeclaredOverlap]]) -> Table:
    def counts(one: DeclaredOverlap) -> list[str]:
        if one.verdict == "not_testable":
            return ["unknown"] * 3
        return [f"{one.items} of {one.of}", f"{one.pictures} of {one.of}", f"{one.groups} of {one.of_groups}"]

    rows = [
        [
            task,
            f"{one.dataset} {one.version}" + ("" if one.stated else " (version not stated)"),
            f"{one.split} {one.language}".strip(),
            " from ".join(one.through),
            *counts(one),
            _WORDS[one.verdict],
            "; ".join(filter(None, (one.evidence, one.note))) or "-",
        ]
        for task, found in overlaps.items()
        for one in found
    ]
    columns = (
        "task", "dataset", "split", "declared by", "items", "items' images", "groups", "verdict", "evidence",
    )  # fmt: skip
    return Table(title="Declared training data", columns=columns, rows=rows)
