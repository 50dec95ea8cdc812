"""The audit of provenance: what a model declares against the test items, by fingerprint."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medbench.harness.models import Declared, declared_by
from medbench.leaderboard.audit.overlap.findings import MARK_SHARE
from medbench.leaderboard.audit.overlap.items import TaskItems
from medbench.leaderboard.audit.provenance.fingerprints import ItemPrints, prints_of
from medbench.leaderboard.audit.provenance.membership import (
    Members,
    members_of_rows,
    members_of_version,
    prepared_version,
)
from medbench.leaderboard.audit.provenance.sources import (
    PREPARED,
    Dataset,
    Declaration,
    Inherited,
    Manifest,
    Version,
    inherited,
    source_of,
)
from medbench.leaderboard.audit.verdicts import EXIT_CODES, Verdict, strongest
from medbench.tasks.catalog import benchmark_of
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import inside
from medbench.tasks.prepared import Prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredOverlap:
    """One declared body of training data against one task.

    Attributes:
        task: The task.
        dataset: The declared dataset.
        version: The version that was compared with.
        stated: Whether the model's makers say that it was this version.
        split: The part that was trained on.
        language: Language of the rows; empty if there is only one.
        through: The model that declares it, through those that inherit it.
        evidence: Who says so.
        items: Test items in it, with question and answer.
        of: Test items.
        pictures: Test items whose picture is in it, in whatever question and language.
        groups: Ids on both sides, of the id that decides.
        of_groups: Such ids of the test side.
        verdict: What it comes to.
        note: What limits it.
    """

    task: str
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
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskProvenance:
    """What is known of one task.

    Attributes:
        task: Its name.
        declared: Whether the model declares to have seen its dataset: in-domain, which is no leak by itself.
        overlaps: By declared body of training data.
        verdict: The strongest of them.
        note: Why there are none.
    """

    task: str
    declared: bool
    overlaps: tuple[DeclaredOverlap, ...]
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvenanceAudit:
    """The audit of one model."""

    model: str
    title: str
    tasks: tuple[TaskProvenance, ...]
    note: str = ""

    @property
    def code(self) -> int:
        """Exit code: 5 where nothing was found and something was not declared or could not be told."""
        return EXIT_CODES[strongest(task.verdict for task in self.tasks)]


@dataclass(frozen=True, slots=True)
class _Lineage:
    title: str
    found: tuple[Inherited, ...]
    unknown: tuple[str, ...]
    note: str


def audit_provenance(
    model: str, tasks: Sequence[TaskItems], prepared: Mapping[str, Prepared], manifests: tuple[Manifest, ...]
) -> ProvenanceAudit:
    """Compare what a model declares with the test items of tasks.

    Args:
        model: `name` or `name:variant` of the catalogue, or a model of a manifest.
        tasks: Test items.
        prepared: Prepared tasks by name.
        manifests: The user's first, ours last.

    Raises:
        UsageError: If there is no such model, or a declaration names a dataset or version that no manifest has.
        DataError: If a file is broken.
    """
    datasets = {name: one for manifest in reversed(manifests) for name, one in manifest.datasets.items()}
    lineage = _lineage(model, manifests, datasets)
    found = tuple(_of_task(task, lineage, datasets, prepared, manifests) for task in tasks)
    return ProvenanceAudit(model=model, title=lineage.title, tasks=found, note=lineage.note)


def _lineage(model: str, manifests: tuple[Manifest, ...], datasets: Mapping[str, Dataset]) -> _Lineage:
    name, _, variant = model.partition(":")
    own = next((manifest for manifest in manifests[:-1] if model in manifest.models), None)
    card = Declared(name=model, variant="", title=model, trained_on=None) if own else declared_by(model)
    source = source_of(model, "", manifests) if own else source_of(name, variant, manifests)
    if source is None:
        return _of_card(card, datasets, (), "")
    key, entry, _ = source
    steps = list(inherited(key, manifests))
    found = tuple(step for step in steps if isinstance(step, Inherited))
    unknown = tuple(step[-1] for step in steps if not isinstance(step, Inherited))
    if entry.trained_on is not None:
        return _Lineage(card.title, found, unknown, entry.note)
    base = _of_card(card, datasets, unknown, entry.note)
    return replace(base, found=(*base.found, *found))


def _of_card(card: Declared, datasets: Mapping[str, Dataset], unknown: tuple[str, ...], note: str) -> _Lineage:
    if card.trained_on is None:
        return _Lineage(card.title, (), (*unknown, card.name), note)
    declared = sorted(name for name, one in datasets.items() if card.trained_on.intersection(one.tasks))
    homeless = sorted(card.trained_on - {task for one in datasets.values() for task in one.tasks})
    found = [
        Inherited(Declaration(dataset=name, evidence="the adapter's card"), (card.name,), Path()) for name in declared
    ]
    return _Lineage(card.title, tuple(found), (*unknown, *homeless), note)


def _of_task(
    task: TaskItems,
    lineage: _Lineage,
    datasets: Mapping[str, Dataset],
    prepared: Mapping[str, Prepared],
    manifests: tuple[Manifest, ...],
) -> TaskProvenance:
    prints = [prints_of(item) for item in task.items]
    wanted = frozenset(value for one in prints for value in one.all())
    overlaps: list[DeclaredOverlap] = []
    declared = False
    for step in lineage.found:
        dataset = _dataset(step.declaration, datasets)
        about = dataset is not None and not {task.task, benchmark_of(task.task)}.isdisjoint(dataset.tasks)
        declared |= about
        if step.declaration.rows:
            path = inside(step.folder, step.declaration.rows)
            members = members_of_rows(path, task.family, wanted)
            overlaps.append(_overlap(task, prints, step, dataset, "its rows", members, stated=True))
        elif dataset is not None and about:
            overlaps += _of_versions(task, prints, step, dataset, prepared, wanted, manifests)
    if overlaps:
        verdict = strongest(one.verdict for one in overlaps)
        return TaskProvenance(task=task.task, declared=declared, overlaps=tuple(overlaps), verdict=verdict)
    if lineage.unknown:
        note = f"nobody has said what {', '.join(lineage.unknown)} was trained on"
        return TaskProvenance(task=task.task, declared=False, overlaps=(), verdict="not_testable", note=note)
    note = "the model declares its training data, and this dataset is not among them"
    return TaskProvenance(task=task.task, declared=False, overlaps=(), verdict="no_evidence", note=note)


def _dataset(declaration: Declaration, datasets: Mapping[str, Dataset]) -> Dataset | None:
    if declaration.dataset in datasets:
        return datasets[declaration.dataset]
    if declaration.rows:
        return None
    raise unknown_name("dataset in the manifest", declaration.dataset, datasets)


def _of_versions(
    task: TaskItems,
    prints: Sequence[ItemPrints],
    step: Inherited,
    dataset: Dataset,
    prepared: Mapping[str, Prepared],
    wanted: frozenset[str],
    manifests: tuple[Manifest, ...],
) -> Iterator[DeclaredOverlap]:
    stated = step.declaration.version
    for name, version in _versions(step.declaration, dataset):
        folder = next((one.folder for one in manifests if _has_version(one, step.declaration.dataset, name)), Path())
        for members in members_of_version(dataset, version, step.declaration.split, folder, prepared, wanted):
            languages = step.declaration.languages
            if languages and members.language and members.language not in languages:
                continue
            certain = bool(stated) and (bool(languages) or not members.language)
            yield _overlap(task, prints, step, dataset, name, members, stated=certain)


def _versions(declaration: Declaration, dataset: Dataset) -> list[tuple[str, Version]]:
    if declaration.version == PREPARED:
        return [(PREPARED, prepared_version())]
    if not declaration.version:
        return list(dataset.versions.items()) or [(PREPARED, prepared_version())]
    if declaration.version not in dataset.versions:
        raise UsageError(
            f"There is no version {declaration.version!r} of {declaration.dataset}.",
            f"Allowed: {', '.join((*dataset.versions, PREPARED))}; leave it out if nobody has said.",
        )
    return [(declaration.version, dataset.versions[declaration.version])]


def _has_version(manifest: Manifest, dataset: str, version: str) -> bool:
    return dataset in manifest.datasets and version in manifest.datasets[dataset].versions


def _overlap(
    task: TaskItems,
    prints: Sequence[ItemPrints],
    step: Inherited,
    dataset: Dataset | None,
    version: str,
    members: Members,
    *,
    stated: bool,
) -> DeclaredOverlap:
    empty = DeclaredOverlap(
        task=task.task,
        dataset=step.declaration.dataset,
        version=version,
        stated=stated,
        split=step.declaration.split,
        language=members.language,
        through=step.through,
        evidence=step.declaration.evidence,
        of=len(prints),
        verdict="not_testable",
        note=members.note,
    )
    if members.found is None:
        return empty
    found = members.found
    whole_pictures = (
        members.whole_pictures
        and dataset is not None
        and task.task in dataset.items_of
        and members.language == dataset.language
    )
    pictures = [bool(one.pictures & found) for one in prints]
    items = [bool(one.whole & found) or (whole_pictures and seen) for one, seen in zip(prints, pictures, strict=True)]
    groups, of_groups = _groups(task, prints, pictures, found)
    counted = replace(
        empty, items=sum(items), pictures=sum(pictures), groups=groups, of_groups=of_groups, verdict="no_evidence"
    )
    return replace(counted, verdict=_verdict(counted))


def _groups(
    task: TaskItems, prints: Sequence[ItemPrints], pictures: Sequence[bool], found: frozenset[str]
) -> tuple[int, int]:
    ours, shared = set(), set()
    for item, one, seen in zip(task.items, prints, pictures, strict=True):
        group = item.groups.get(task.decisive) or item.groups.get("image") or item.item_id
        ours.add(group)
        if (seen and group == item.groups.get("image")) or any(
            name == task.decisive and value in found for name, value in one.ids
        ):
            shared.add(group)
    return len(shared), len(ours)


def _verdict(one: DeclaredOverlap) -> Verdict:
    share = max(count / of if of else 0.0 for count, of in _shares(one))
    if not share:
        return "no_evidence"
    return "strong" if one.stated and share > MARK_SHARE else "suspicious"


def _shares(one: DeclaredOverlap) -> tuple[tuple[int, int], ...]:
    return (one.items, one.of), (one.pictures, one.of), (one.groups, one.of_groups)
