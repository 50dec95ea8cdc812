"""`medbench audit provenance`: the training data that a model declares, as further sources of the same scan.

Manifests say what models declare and which versions of datasets there are: ours is `leaderboard/audit/sources.yaml`,
one of the user's has the same form and comes before it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from medbench.harness.models import declared_by
from medbench.leaderboard.audit.data import items as rows_of
from medbench.leaderboard.audit.data.audit import DataToAudit, read_data
from medbench.leaderboard.audit.data.findings import MARK_SHARE
from medbench.leaderboard.audit.data.items import SAME_NAME, Item, TaskItems
from medbench.leaderboard.audit.data.scan import ItemIndex, Scan, Tally
from medbench.leaderboard.audit.document import Audit, TaskVerdict, Verdict, plain, strongest, wording
from medbench.leaderboard.audit.normalise import NORM_VERSION
from medbench.tasks.alike import Printer
from medbench.tasks.catalog import benchmark_of
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import inside, read_yaml_table, readable
from medbench.tasks.prepared import Prepared
from medbench.tasks.suite import suite_of
from medbench.tasks.validation import NativeRow, parse_json_file

SOURCES_FILE = Path(__file__).resolve().parent.parent / "sources.yaml"
_LEVELS: dict[Verdict, str] = {"strong": "L5", "suspicious": "L3", "not_testable": "L0"}


class _ImageLists(NativeRow):
    pictures: dict[str, dict[str, list[str]]]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Version(_Record):
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


class Dataset(_Record):
    """A dataset that tasks are made of."""

    tasks: tuple[str, ...]  # tasks on its data
    items_of: tuple[str, ...] = ()  # those whose items its training data hold; others share images only
    language: str = ""  # language of the tasks' items; empty if the dataset has one language
    versions: Mapping[str, Version] = {}  # by name


class Declaration(_Record):
    """One body of training data that a model declares."""

    dataset: str  # a dataset of the manifest; any name where `rows` are given
    version: str = ""  # its version; empty if nobody has said which, so that every known one is tried
    split: str = "train"  # the part that was trained on
    languages: tuple[str, ...] = ()  # languages of the rows; empty if nobody has said
    rows: str = ""  # a file of these very training rows (JSON lines), relative to the manifest
    evidence: str = ""  # who says so


class ModelSource(_Record):
    """What is declared of one model."""

    adapted_from: tuple[str, ...] = ()  # models whose training data are its own too
    trained_on: tuple[Declaration, ...] | None = None  # None: by the adapter's card, and unknown where there is none
    note: str = ""


class Manifest(_Record):
    """A whole manifest; `folder` is where its files are."""

    datasets: Mapping[str, Dataset] = {}
    models: Mapping[str, ModelSource] = {}
    folder: Path = Path()


def read_sources(path: Path = SOURCES_FILE) -> Manifest:
    """Read a manifest. Raises UsageError if it cannot be read or has another form; the message names the place."""
    value = read_yaml_table(path)
    try:
        return Manifest.model_validate({**value, "folder": path.parent})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise UsageError(f"{path}: {place}: {first['msg']}.", "See docs/audit-data.md for the form.") from error


class Inherited(NamedTuple):
    """A declaration, through which models it came (the model itself first), and the folder of its manifest."""

    declaration: Declaration
    through: tuple[str, ...]
    folder: Path


class Lineage(NamedTuple):
    """What a model declares, its own and inherited, and of whom nobody has said."""

    title: str
    found: Sequence[Inherited]
    unknown: Sequence[str]
    note: str


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
    return Lineage(card.title, found, unknown, note=source[1].note if source else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredOverlap:
    """One declared body of training data against one task."""

    dataset: str
    version: str = ""
    stated: bool = False  # whether the model's makers say that it was this version
    split: str
    language: str = ""
    through: tuple[str, ...]  # the model that declares it, through those that inherit it
    evidence: str  # who says so
    items: int = 0  # test items in it, with question and answer, of so many
    of: int = 0
    pictures: int = 0  # test items whose image is in it, in whatever question and language
    groups: int = 0  # ids on both sides, of the id that decides, of so many on the test side
    of_groups: int = 0
    verdict: Verdict = "not_testable"
    note: str = ""  # what limits it

    @property
    def text(self) -> str:
        """Which data these are, and what was found."""
        where = f"{self.dataset} {self.version} {self.split}" + (f" [{self.language}]" if self.language else "")
        if self.verdict == "not_testable":
            return f"{where}: {self.note}"
        whether = "" if self.stated else ", if it was this version"
        return f"{where}: {self.items} of {self.of} items, {self.groups} of {self.of_groups} groups{whether}"


Rows = Iterable[Item] | None
"""Training rows; None if it cannot be told what they are."""


def _declared(
    step: Inherited, dataset: Dataset | None, data: DataToAudit, manifests: Sequence[Manifest]
) -> Iterator[tuple[DeclaredOverlap, Rows]]:
    one = step.declaration
    found = DeclaredOverlap(dataset=one.dataset, split=one.split, through=step.through, evidence=one.evidence)
    if one.rows:
        path = inside(step.folder, one.rows)
        note = "" if path.is_file() else f"the file of training rows {path.name} is missing"
        rows: Rows = None if note else rows_of.training_rows(path, path.parent)
        yield replace(found, version="its rows", stated=True, note=note), rows
    elif dataset is not None:
        folder = next(manifest.folder for manifest in manifests if manifest.datasets.get(one.dataset) is dataset)
        known = {**dataset.versions, "prepared": PREPARED}
        if one.version and one.version not in known:
            allowed = f"Allowed: {', '.join(known)}; leave it out if nobody has said."
            raise UsageError(f"There is no version {one.version!r} of {one.dataset}.", allowed)
        for name in [one.version] if one.version else dataset.versions or known:
            for rows, note, language in _of_version(known[name], one.split, dataset, data, folder):
                if not (one.languages and language) or language in one.languages:
                    stated = bool(one.version) and (bool(one.languages) or not language)
                    yield replace(found, version=name, language=language, stated=stated, note=note), rows


def _of_version(
    version: Version, split: str, dataset: Dataset, data: DataToAudit, folder: Path
) -> Iterator[tuple[Rows, str, str]]:
    """Yield rows of a version, what limits them, and their language."""
    there = [data.prepared[task] for task in dataset.tasks if task in data.prepared]
    if version != PREPARED and suite_of(there) == "mini":
        yield None, "these are the mini suite's stand-ins, whatever names their images have", ""
    elif version.how == "fingerprints":
        path = inside(folder, version.file)
        for language, splits in sorted(parse_json_file(TypeAdapter(_ImageLists), path).pictures.items()):
            if split in splits:
                yield _listed(frozenset(splits[split]), language, dataset, data.test), "", language
            else:
                yield None, f"{path.name} has no split {split!r}", language
    elif version.how == "pattern":
        yield *_matched(version, there), ""
    elif not there:
        yield None, f"none of {', '.join(dataset.tasks)} is prepared here", ""
    elif other := [one for one in there if not one.manifest.split_method.startswith(version.split_method)]:
        yield None, f"{other[0].task} was prepared with another split: {other[0].manifest.split_method}", ""
    else:
        yield chain.from_iterable(rows_of.items_of(one, "train", {}).items for one in there), "", ""


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
    keys = [("name", name) for name in rows_of.image_names(item.images)]
    own = item.groups.get("image", "")
    known = [*keys, ("id", item.family, own)] if own and item.family else keys
    return frozenset(blake2b("\x1f".join(("picture", *key)).encode(), digest_size=16).hexdigest() for key in known)


def _matched(version: Version, there: Sequence[Prepared]) -> tuple[Rows, str]:
    """Return as training rows the ids that stand in files of the source folder, or of a folder in it."""
    folders = [folder for one in there if one.source.is_dir() for folder in (one.source, *sorted(one.source.iterdir()))]
    paths = list(dict.fromkeys(path for one in folders for file in version.files if (path := one / file).is_file()))
    missing = sorted(set(version.files) - {path.name for path in paths})
    if not paths:
        return None, f"none of {', '.join(version.files)} is in the source folder"
    ids = chain.from_iterable(_ids_in(path, re.compile(version.pattern)) for path in paths)
    family = rows_of.family_of(there[0].spec)
    rows = (Item(item_id=value, groups={version.id: value}, family=family) for value in ids)
    return rows, f"not there: {', '.join(missing)}" if missing else ""


def _ids_in(path: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    with readable(path, "Check the source folder."), path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            yield from pattern.findall(line)


def audit_provenance(model: str, *, manifest: Path | None = None, **prepared: Any) -> Audit:
    """Compare what a model declares with the test items of tasks.

    The model is `name` or `name:variant` of the catalogue, or one of the user's `manifest`, which comes before ours;
    `prepared` are `tasks` and `data_dir`, as for `read_data`. Raises UsageError if there is no such model, or a
    declaration names a dataset or version that no manifest has; DataError if a file is broken.
    """
    manifests = (*((read_sources(manifest),) if manifest else ()), read_sources())
    data = read_data(**prepared, with_train=False)
    datasets = {name: one for manifest in reversed(manifests) for name, one in manifest.datasets.items()}
    lineage = lineage_of(model, manifests, datasets)
    index = ItemIndex(data.test, Printer(enabled=False))
    overlaps: dict[str, list[DeclaredOverlap]] = {task.task: [] for task in data.test}
    in_domain: set[str] = set()
    for step in lineage.found:
        dataset = datasets.get(step.declaration.dataset)
        tasks = set(dataset.tasks) if dataset else set()
        about = [task for task in data.test if tasks & {task.task, benchmark_of(task.task)}]
        in_domain.update(task.task for task in about)
        concerned = data.test if step.declaration.rows else about
        for declared, rows in _declared(step, dataset, data, manifests) if concerned else ():
            tally = None
            if rows is not None:
                scan, none = Scan(index, Printer(enabled=False), declared=True), Tally(len(index.items))
                tally = scan.feed(replace(row, language="") for row in rows).get("", none)
            for task in concerned:
                one = replace(declared, of=len(task.items))
                overlaps[task.task].append(one if tally is None else _counted(one, task, index, tally))
    found = {task: _task_verdict(task, there, lineage, task in in_domain) for task, there in overlaps.items()}
    text, verdict = wording("provenance"), strongest(one.verdict for one in found.values())
    return Audit(
        kind="provenance",
        title=f"Leakage audit of declared training data: {lineage.title}",
        question=f"Verdict: **{text['verdicts'][verdict]}**. {text['question']}",
        tasks=found, columns=("task", "level", "verdict", "declared", "why"),
        incomplete=any(one.verdict == "not_testable" for one in found.values()),
        notes=[*data.notes, *filter(None, [lineage.note])], limits=text["limits"],
        settings={"model": model, "normaliser": NORM_VERSION, "share": MARK_SHARE, "data": data.fingerprints},
    )  # fmt: skip


def _counted(one: DeclaredOverlap, task: TaskItems, index: ItemIndex, tally: Tally) -> DeclaredOverlap:
    images, by_id = tally.shared["id:image"] | tally.shared[f"id:{SAME_NAME}"], tally.shared[f"id:{task.decisive}"]
    units = {number: task.unit_of(index.items[number]) for number in index.range_of(task.task)}
    groups = {
        unit
        for number, unit in units.items()
        if by_id[number] or (images[number] and unit == index.items[number].groups.get("image"))
    }
    items, pictures = index.count(tally.shared["item"], task.task), index.count(images, task.task)
    of_groups = len(set(units.values()))
    share = max(max(items, pictures) / max(one.of, 1), len(groups) / max(of_groups, 1))
    found: Verdict = "no_evidence" if not share else "strong" if one.stated and share > MARK_SHARE else "suspicious"
    return replace(one, items=items, pictures=pictures, groups=len(groups), of_groups=of_groups, verdict=found)


def _task_verdict(task: str, found: Sequence[DeclaredOverlap], lineage: Lineage, declared: bool) -> TaskVerdict:
    verdict: Verdict = "no_evidence"
    why = "the model declares its training data, and this dataset is not among them"
    if found:
        verdict = strongest(one.verdict for one in found)
        why = "; ".join(one.text for one in found if one.verdict == verdict)
    elif lineage.unknown:
        verdict, why = "not_testable", f"nobody has said what {', '.join(lineage.unknown)} was trained on"
    # L5: confirmed; L3: possible; L1: declared, nothing shared; L0: cannot be told.
    level = _LEVELS.get(verdict, "L1" if declared else "")
    word = wording("provenance")["verdicts"][verdict]
    return TaskVerdict(
        title=task, verdict=verdict, short=why, facts={"level": level},
        cells=(task, level or "-", word, "yes" if declared else "no", why),
        details={"declared": declared, "level": level, "why": why, "overlaps": plain(found)},
    )  # fmt: skip
