"""What the user asked to audit, read from disk."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medbench.harness.workload import MINI_NOTICE
from medbench.leaderboard.audit.overlap.audit import DataAuditInput, TrainingFile
from medbench.leaderboard.audit.overlap.ids_file import read_ids
from medbench.leaderboard.audit.overlap.items import TaskItems, items_of
from medbench.tasks.catalog import get_task, select_tasks
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import file_sha256
from medbench.tasks.prepared import Prepared, load_prepared, prepared_names
from medbench.tasks.sample import Split
from medbench.tasks.suite import prepare_mini_suite, suite_of
from medbench.tasks.terms import is_under_agreement


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSelection:
    """What the command line says.

    Attributes:
        tasks: A selection of tasks; None for all that are prepared, variants left out.
        data_dir: Prepared tasks; None for the mini suite.
        train: The user's own training data.
        images: Where their pictures start; None for the folder of each file.
        ids: Files of ids that the native data lack.
        pictures: Whether pictures are looked at.
        seed: Of the null re-split.
        reveal: Whether texts of credentialed datasets are shown.
    """

    tasks: str | None = None
    data_dir: Path | None = None
    train: tuple[Path, ...] = ()
    images: Path | None = None
    ids: tuple[Path, ...] = ()
    pictures: bool = True
    seed: int = 0
    reveal: bool = False


def audit_input(
    selection: DataSelection, *, with_train: bool = True
) -> tuple[DataAuditInput, dict[str, str], tuple[str, ...]]:
    """Read what is to be audited.

    Args:
        selection: What the command line says.
        with_train: Whether training splits are read.

    Returns:
        The input of the audit, fingerprints of all data by name, and lines that must be shown.

    Raises:
        UsageError: If a task is unknown, or two files of training data have one name.
        DataError: If a task is not prepared, or a file is missing or broken.
    """
    files = _training_files(selection)
    loaded = prepared_tasks(selection)
    chosen = _chosen(selection.tasks, tuple(loaded))
    compared = [name for name in loaded if with_train and (name in chosen or not get_task(name).variant_of)]
    ids = read_ids(selection.ids)

    def read(name: str, split: Split) -> TaskItems:
        closed = is_under_agreement(loaded[name])
        return items_of(loaded[name], split, ids.get(name, {}), credentialed=closed, reveal=selection.reveal)

    given = DataAuditInput(
        test=[read(name, "test") for name in chosen],
        train=[read(name, "train") for name in loaded if name in compared],
        files=files,
        seed=selection.seed,
        images=selection.pictures,
    )
    used = [loaded[name] for name in loaded if name in chosen or name in compared]
    fingerprints = {prepared.task: prepared.manifest.data_fingerprint for prepared in used}
    fingerprints |= {path.name: file_sha256(path) for path in (*selection.train, *selection.ids)}
    notices = (MINI_NOTICE,) if suite_of(used) == "mini" else ()
    return given, fingerprints, notices


def prepared_tasks(selection: DataSelection) -> dict[str, Prepared]:
    """Return all prepared tasks of the data folder by name.

    Raises:
        DataError: If there is no such folder, or it holds none.
    """
    data_dir = selection.data_dir or prepare_mini_suite()
    if not data_dir.is_dir():
        raise DataError(
            f"The data folder {data_dir} does not exist.",
            "Prepare tasks into it: medbench data prepare TASK --source DIR --data-dir DIR",
        )
    return {name: load_prepared(data_dir, name) for name in prepared_names(data_dir)}


def _chosen(selection: str | None, present: tuple[str, ...]) -> tuple[str, ...]:
    if selection is None:
        return tuple(name for name in present if not get_task(name).variant_of)
    named: Mapping[str, None] = dict.fromkeys(select_tasks(selection))
    whole_kinds = [part.strip() for part in selection.split(",")]
    missing = [name for name in whole_kinds if name in named and name not in present]
    if missing:
        raise DataError(
            f"Not prepared: {', '.join(missing)}.",
            f"Prepare it: medbench data prepare {missing[0]} --source DIR --data-dir DIR",
        )
    found = tuple(name for name in named if name in present)
    if not found:
        raise DataError(f"No task of {selection!r} is prepared.", f"Prepared are: {', '.join(present)}.")
    return found


def _training_files(selection: DataSelection) -> list[TrainingFile]:
    names = [path.name for path in selection.train]
    if len(set(names)) < len(names):
        raise UsageError("Two files of training data have the same name.", "Rename one: reports tell them by name.")
    for path in (*selection.train, *selection.ids):
        if not path.is_file():
            raise DataError(f"{path} is missing.", "Check the path that was given.")
    return [TrainingFile(path=path, images=selection.images or path.parent) for path in selection.train]
