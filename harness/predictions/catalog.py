"""The formats by name, and reading a file of predictions in one of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast, get_args

from medbench.harness.predictions.record import Importer, Prediction
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.spec import Kind, TaskSpec

_ALL_KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatEntry:
    """One form in which predictions come.

    Attributes:
        name: Name on the command line.
        title: Who writes it.
        read: Its importer as `"module:function"`, imported when it is used.
        kinds: The kinds of task whose predictions it holds.
        needs_references: Whether the right answers come in a second file.
        boxes_are_read: Whether the file stores boxes that its writer has read: then a prediction's `predicted_box` is
            the box, and None there means that the answer held none, so that nobody reads the text again.
        description: What the file is, and what is lost in it.
    """

    name: str
    title: str
    read: str
    kinds: tuple[Kind, ...]
    needs_references: bool = False
    boxes_are_read: bool = False
    description: str


DEFAULT_FORMAT = "jsonl"

FORMATS: Mapping[str, FormatEntry] = {
    entry.name: entry
    for entry in (
        FormatEntry(
            name=DEFAULT_FORMAT,
            title="JSON lines",
            read="medbench.harness.predictions.json_lines:read_json_predictions",
            kinds=_ALL_KINDS,
            description="one JSON object a line with `prediction` and `reference`; the form to write yourself",
        ),
        FormatEntry(
            name="medevalkit",
            title="MedEvalKit",
            read="medbench.harness.predictions.medevalkit:read_results",
            kinds=("qa", "vqa", "report"),
            description="`results.json` of MedQA_USMLE, PubMedQA, SLAKE, PATH_VQA, VQA_RAD or MIMIC_CXR; English rows",
        ),
        FormatEntry(
            name="multimedeval",
            title="MultiMedEval",
            read="medbench.harness.predictions.multimedeval:read_answer_log",
            kinds=("qa", "vqa", "report"),
            description="the CSV that it writes per task; the raw answers are scored, not its reading of them",
        ),
        FormatEntry(
            name="llava-med",
            title="LLaVA-Med",
            read="medbench.harness.predictions.llava_med:read_answers",
            kinds=("qa", "vqa", "report", "reg", "cls"),
            needs_references=True,
            description="its answers file (JSON lines); `--references` is the question file with the right answers",
        ),
        FormatEntry(
            name="uni-med",
            title="Uni-Med's own scripts",
            read="medbench.harness.predictions.uni_med:read_official_results",
            kinds=("vqa", "rec", "reg", "report", "cls"),
            boxes_are_read=True,
            description="the JSON of its evaluation scripts; they store answers in lower case and the first 50 words "
            "of references",
        ),
    )
}


def read_predictions(
    path: Path, format_name: str, spec: TaskSpec, references: Path | None = None
) -> tuple[Prediction, ...]:
    """Read somebody's predictions for a task, each beside its reference.

    Args:
        path: The file.
        format_name: One of `FORMATS`.
        spec: The task.
        references: The file of right answers, for the formats that need one.

    Raises:
        UsageError: If there is no such format, it does not hold this kind of task, or `references` is given or left
            out wrongly.
        DataError: If a file is missing, is not in the format or holds no predictions.
    """
    entry = find_format(format_name)
    if references is not None and not entry.needs_references:
        raise UsageError(
            f"The format {entry.name!r} takes no file of references: it holds them itself.",
            f"Leave out --references {references}.",
        )
    require_kind(entry.name, spec)
    predictions = tuple(_importer(entry)(path, spec, references))
    if not predictions:
        raise DataError(
            f"{path} holds no predictions for {spec.name}.",
            f"Expected in the format {entry.name!r}: {entry.description}.",
        )
    return predictions


def find_format(name: str) -> FormatEntry:
    """Return the format of this name.

    Raises:
        UsageError: If there is none; the message has the closest names.
    """
    if name not in FORMATS:
        raise unknown_name("format of predictions", name, FORMATS)
    return FORMATS[name]


def require_kind(format_name: str, spec: TaskSpec) -> None:
    """Refuse a task of a kind that the format does not hold.

    Raises:
        UsageError: If it does not.
    """
    kinds = FORMATS[format_name].kinds
    if spec.kind not in kinds:
        raise UsageError(
            f"The format {format_name!r} holds no predictions of the kind {spec.kind} ({spec.name}).",
            f"It holds {', '.join(kinds)}. Any kind can be given in the format {DEFAULT_FORMAT!r}.",
        )


def require_references(format_name: str, references: Path | None) -> Path:
    """Return the file of references.

    Raises:
        UsageError: If none was given.
    """
    if references is None:
        raise UsageError(
            f"The format {format_name!r} holds no right answers, and no file of references was given.",
            f"Give it with --references FILE. It is read with the predictions: {FORMATS[format_name].description}.",
        )
    return references


def _importer(entry: FormatEntry) -> Importer:
    module, _, function = entry.read.partition(":")
    return cast("Importer", getattr(import_module(module), function))
