"""`medbench audit provenance`: the training data that a model declares, as further sources of the same scan.

What is declared is compared with the test items by ids, by names of images, and by question and answer, version by
version and language by language.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from medbench.leaderboard.audit.data.findings import MARK_SHARE
from medbench.leaderboard.audit.data.images import Printer
from medbench.leaderboard.audit.data.items import (
    SAME_NAME,
    Item,
    TaskItems,
    family_of,
    image_names,
    items_of,
    training_rows,
)
from medbench.leaderboard.audit.data.manifest import (
    PREPARED,
    Dataset,
    Declaration,
    Inherited,
    Lineage,
    Manifest,
    Version,
    lineage_of,
    read_sources,
)  # fmt: skip
from medbench.leaderboard.audit.data.overlaps import DataToAudit, read_data
from medbench.leaderboard.audit.data.scan import ItemIndex, Scan, Tally
from medbench.leaderboard.audit.document import Audit, TaskVerdict, Verdict, strongest, table_of, wording
from medbench.leaderboard.audit.normalise import NORM_VERSION
from medbench.tasks.catalog import benchmark_of
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import inside
from medbench.tasks.prepared import Prepared
from medbench.tasks.suite import suite_of
from medbench.tasks.validation import NativeRow, parse_json_file

_LEVELS: dict[Verdict, str] = {"strong": "L5", "suspicious": "L3", "not_testable": "L0"}
_WORDS: dict[Verdict, str] = {
    "strong": "confirmed", "suspicious": "possible", "no_evidence": "no evidence", "not_testable": "not testable",
}  # fmt: skip


class _ImageLists(NativeRow):
    pictures: dict[str, dict[str, list[str]]]


_IMAGE_LISTS = TypeAdapter(_ImageLists)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredCorpus:
    """A part of what is declared, as a source of training rows; None if what is in it cannot be told.

    `stated` says whether the model's makers say that it was this version, `note` what limits it.
    """

    version: str
    language: str = ""
    rows: Iterable[Item] | None = None
    stated: bool = False
    note: str = ""


def _corpora(
    step: Inherited, dataset: Dataset | None, data: DataToAudit, manifests: Sequence[Manifest]
) -> Iterator[DeclaredCorpus]:
    declared = step.declaration
    if declared.rows:
        path = inside(step.folder, declared.rows)
        rows = training_rows(path, path.parent) if path.is_file() else None
        note = "" if rows is not None else f"the file of training rows {path.name} is missing"
        yield DeclaredCorpus(version="its rows", rows=rows, stated=True, note=note)
    elif dataset is not None:
        folders = [one.folder for one in manifests if one.datasets.get(declared.dataset) is dataset]
        for name, version in _versions(declared, dataset):
            for corpus in _of_version(version, declared.split, dataset, data, folders[0]):
                if not (declared.languages and corpus.language) or corpus.language in declared.languages:
                    stated = bool(declared.version) and (bool(declared.languages) or not corpus.language)
                    yield replace(corpus, version=name, stated=stated)


def _versions(declared: Declaration, dataset: Dataset) -> list[tuple[str, Version]]:
    known = {**dataset.versions, "prepared": PREPARED}
    if not declared.version:
        return list((dataset.versions or known).items())
    if declared.version not in known:
        allowed = f"Allowed: {', '.join(known)}; leave it out if nobody has said."
        raise UsageError(f"There is no version {declared.version!r} of {declared.dataset}.", allowed)
    return [(declared.version, known[declared.version])]


def _of_version(
    version: Version, split: str, dataset: Dataset, data: DataToAudit, folder: Path
) -> Iterator[DeclaredCorpus]:
    there = [data.prepared[task] for task in dataset.tasks if task in data.prepared]
    empty = DeclaredCorpus(version="")
    if version != PREPARED and suite_of(there) == "mini":
        yield replace(empty, note="these are the mini suite's stand-ins, whatever names their images have")
    elif version.how == "fingerprints":
        path = inside(folder, version.file)
        for language, splits in sorted(parse_json_file(_IMAGE_LISTS, path).pictures.items()):
            rows = _listed(frozenset(splits[split]), language, dataset, data.test) if split in splits else None
            note = "" if rows is not None else f"{path.name} has no split {split!r}"
            yield replace(empty, language=language, rows=rows, note=note)
    elif version.how == "pattern":
        yield _matched(version, there)
    elif not there:
        yield replace(empty, note=f"none of {', '.join(dataset.tasks)} is prepared here")
    elif other := [one for one in there if not one.manifest.split_method.startswith(version.split_method)]:
        method = other[0].manifest.split_method
        yield replace(empty, note=f"{other[0].task} was prepared with another split: {method}")
    else:
        yield replace(empty, rows=chain.from_iterable(items_of(one, "train", {}).items for one in there))


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
    keys = [("name", name) for name in image_names(item.images)]
    own = item.groups.get("image", "")
    known = [*keys, ("id", item.family, own)] if own and item.family else keys
    return frozenset(blake2b("\x1f".join(("picture", *key)).encode(), digest_size=16).hexdigest() for key in known)


def _matched(version: Version, there: Sequence[Prepared]) -> DeclaredCorpus:
    """Return as training rows the ids that stand in files of the source folder, or of a folder in it."""
    folders = [folder for one in there if one.source.is_dir() for folder in (one.source, *sorted(one.source.iterdir()))]
    paths = list(dict.fromkeys(path for one in folders for file in version.files if (path := one / file).is_file()))
    missing = sorted(set(version.files) - {path.name for path in paths})
    if not paths:
        return DeclaredCorpus(version="", note=f"none of {', '.join(version.files)} is in the source folder")
    ids = chain.from_iterable(_ids_in(path, re.compile(version.pattern)) for path in paths)
    family = family_of(there[0].spec)
    rows = (Item(item_id=value, groups={version.id: value}, family=family) for value in ids)
    return DeclaredCorpus(version="", rows=rows, note=f"not there: {', '.join(missing)}" if missing else "")


def _ids_in(path: Path, pattern: re.Pattern[str]) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                yield from pattern.findall(line)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.", "Check the source folder.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredOverlap:
    """One declared body of training data against one task."""

    dataset: str
    version: str
    stated: bool  # whether the model's makers say that it was this version
    split: str
    language: str
    through: tuple[str, ...]  # the model that declares it, through those that inherit it
    evidence: str  # who says so
    items: int = 0  # test items in it, with question and answer, of so many
    of: int
    pictures: int = 0  # test items whose image is in it, in whatever question and language
    groups: int = 0  # ids on both sides, of the id that decides, of so many on the test side
    of_groups: int = 0
    verdict: Verdict = "not_testable"
    note: str  # what limits it

    @property
    def where(self) -> str:
        """Which data these are, in words."""
        return f"{self.dataset} {self.version} {self.split}" + (f" [{self.language}]" if self.language else "")

    def counted(self, count: int, of: int) -> str:
        """Return a count as text; unknown where nothing could be told."""
        return "unknown" if self.verdict == "not_testable" else f"{count} of {of}"


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
        for corpus in _corpora(step, dataset, data, manifests) if concerned else ():
            tally = None
            if corpus.rows is not None:
                scan = Scan(index, Printer(enabled=False), declared=True)
                none = Tally(len(index.items))
                tally = scan.feed(replace(row, language="") for row in corpus.rows).get("", none)
            for task in concerned:
                overlaps[task.task].append(_overlap(step, corpus, task, index, tally))
    return _report(model, lineage, data, overlaps, in_domain)


def _overlap(
    step: Inherited, corpus: DeclaredCorpus, task: TaskItems, index: ItemIndex, tally: Tally | None
) -> DeclaredOverlap:
    declared = step.declaration
    empty = DeclaredOverlap(
        dataset=declared.dataset, version=corpus.version, stated=corpus.stated, split=declared.split,
        language=corpus.language, through=step.through, evidence=declared.evidence, of=len(task.items),
        note=corpus.note,
    )  # fmt: skip
    if tally is None:
        return empty
    images = tally.by_id("image") | tally.by_id(SAME_NAME)
    by_id = tally.by_id(task.decisive)
    units = {number: task.unit_of(index.items[number]) for number in index.range_of(task.task)}
    groups = {
        unit
        for number, unit in units.items()
        if by_id[number] or (images[number] and unit == index.items[number].groups.get("image"))
    }
    items, pictures = index.count(tally.shared["item"], task.task), index.count(images, task.task)
    of_groups = len(set(units.values()))
    share = max(max(items, pictures) / max(empty.of, 1), len(groups) / max(of_groups, 1))
    found: Verdict = "no_evidence" if not share else "strong" if empty.stated and share > MARK_SHARE else "suspicious"
    return replace(empty, items=items, pictures=pictures, groups=len(groups), of_groups=of_groups, verdict=found)


def _report(
    model: str, lineage: Lineage, data: DataToAudit, overlaps: Mapping[str, Sequence[DeclaredOverlap]],
    in_domain: set[str],
) -> Audit:  # fmt: skip
    tasks = {task: _task_verdict(task, found, lineage, declared=task in in_domain) for task, found in overlaps.items()}
    matrix = table_of(
        tasks.values(),
        {
            "task": lambda one: one.title,
            "level": lambda one: one.facts["level"] or "-",
            "verdict": lambda one: _WORDS[one.verdict],
            "declared": lambda one: "yes" if one.details["declared"] else "no",
            "why": lambda one: one.details["why"],
        },
    )
    declared = table_of(
        [(task, one) for task, found in overlaps.items() for one in found],
        {
            "task": lambda row: row[0],
            "dataset": lambda row: (
                f"{row[1].dataset} {row[1].version}" + ("" if row[1].stated else " (version not stated)")
            ),
            "split": lambda row: f"{row[1].split} {row[1].language}".strip(),
            "declared by": lambda row: " from ".join(row[1].through),
            "items": lambda row: row[1].counted(row[1].items, row[1].of),
            "items' images": lambda row: row[1].counted(row[1].pictures, row[1].of),
            "groups": lambda row: row[1].counted(row[1].groups, row[1].of_groups),
            "verdict": lambda row: _WORDS[row[1].verdict],
            "evidence": lambda row: "; ".join(filter(None, (row[1].evidence, row[1].note))) or "-",
        },
        title="Declared training data",
    )
    text = wording("provenance")
    return Audit(
        kind="provenance",
        title=f"Leakage audit of declared training data: {lineage.title}",
        question=f"Verdict: **{_WORDS[strongest(one.verdict for one in tasks.values())]}**. {text['question']}",
        tasks=tasks, tables=[matrix, declared], incomplete=any(one.verdict == "not_testable" for one in tasks.values()),
        notes=[*data.notes, *filter(None, [lineage.note])], limits=text["limits"],
        settings={"model": model, "normaliser": NORM_VERSION, "share": MARK_SHARE, "data": data.fingerprints},
    )  # fmt: skip


def _task_verdict(task: str, found: Sequence[DeclaredOverlap], lineage: Lineage, *, declared: bool) -> TaskVerdict:
    verdict: Verdict = "no_evidence"
    why = "the model declares its training data, and this dataset is not among them"
    if found:
        verdict = strongest(one.verdict for one in found)
        why = "; ".join(_shared(one) for one in found if one.verdict == verdict)
    elif lineage.unknown:
        verdict, why = "not_testable", f"nobody has said what {', '.join(lineage.unknown)} was trained on"
    # L5: confirmed; L3: possible; L1: declared, nothing shared; L0: cannot be told.
    level = _LEVELS.get(verdict, "L1" if declared else "")
    details = {"declared": declared, "level": level, "why": why, "overlaps": [asdict(one) for one in found]}
    return TaskVerdict(title=task, verdict=verdict, facts={"level": level}, details=details)


def _shared(one: DeclaredOverlap) -> str:
    if one.verdict == "not_testable":
        return f"{one.where}: {one.note}"
    whether = "" if one.stated else ", if it was this version"
    return f"{one.where}: {one.items} of {one.of} items, {one.groups} of {one.of_groups} groups{whether}"
