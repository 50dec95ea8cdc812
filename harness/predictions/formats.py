"""The formats in which predictions come, by name, and reading a file in one of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from medbench.harness.predictions.importers import read_llava_med, read_medevalkit, read_multimedeval, read_uni_med
from medbench.harness.predictions.json_lines import Prediction, read_json_lines
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.spec import Kind, TaskSpec

DEFAULT_FORMAT = "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFormat:
    """One form in which predictions come."""

    title: str  # Who writes it.
    # Yields the predictions of a file for a task, with a file of references where the format needs one; raises a
    # DataError that names the line or row where the file is not in the format.
    read: Callable[[Path, TaskSpec, Path | None], Iterator[Prediction]]
    kinds: tuple[Kind, ...]  # The kinds of task whose predictions it holds.
    needs_references: bool = False  # Whether the right answers come in a second file.
    # Whether the file stores boxes that its writer has read: then a prediction's `predicted_box` is the box, and None
    # there means that the answer held none, so that nobody reads the text again.
    boxes_are_read: bool = False
    description: str  # What the file is, and what is lost in it.


FORMATS: Mapping[str, PredictionFormat] = {
    DEFAULT_FORMAT: PredictionFormat(
        title="JSON lines",
        read=read_json_lines,
        kinds=get_args(Kind),
        description="one JSON object a line with `prediction` and `reference`; the form to write yourself",
    ),
    "medevalkit": PredictionFormat(
        title="MedEvalKit",
        read=read_medevalkit,
        kinds=("qa", "vqa", "report"),
        description="`results.json` of MedQA_USMLE, PubMedQA, SLAKE, PATH_VQA, VQA_RAD or MIMIC_CXR; English rows",
    ),
    "multimedeval": PredictionFormat(
        title="MultiMedEval",
        read=read_multimedeval,
        kinds=("qa", "vqa", "report"),
        description="the CSV that it writes per task; the raw answers are scored, not its reading of them",
    ),
    "llava-med": PredictionFormat(
        title="LLaVA-Med",
        read=read_llava_med,
        kinds=("qa", "vqa", "report", "reg", "cls"),
        needs_references=True,
        description="its answers file (JSON lines); `--references` is the question file with the right answers",
    ),
    "uni-med": PredictionFormat(
        title="Uni-Med's own scripts",
        read=read_uni_med,
        kinds=("vqa", "rec", "reg", "report", "cls"),
        boxes_are_read=True,
        description="the JSON of its evaluation scripts; they store answers in lower case and the first 50 words "
        "of references",
    ),
}


def read_predictions(
    path: Path, format_name: str, spec: TaskSpec, references: Path | None = None
) -> tuple[Prediction, ...]:
    """Read somebody's predictions for a task, each beside its reference; `references` for formats that need them.

    Raises UsageError if there is no such format, it does not hold this kind of task, or `references` is given or left
    out wrongly; DataError if a file is missing, is not in the format or holds no predictions.
    """
    if format_name not in FORMATS:
        raise unknown_name("format of predictions", format_name, FORMATS)
    form = FORMATS[format_name]
    if references is not None and not form.needs_references:
        raise UsageError(
            f"The format {format_name!r} takes no file of references: it holds them itself.",
            f"Leave out --references {references}.",
        )
    if spec.kind not in form.kinds:
        raise UsageError(
            f"The format {format_name!r} holds no predictions of the kind {spec.kind} ({spec.name}).",
            f"It holds {', '.join(form.kinds)}. Any kind can be given in the format {DEFAULT_FORMAT!r}.",
        )
    if references is None and form.needs_references:
        raise UsageError(
            f"The format {format_name!r} holds no right answers, and no file of references was given.",
            f"Give it with --references FILE. It is read with the predictions: {form.description}.",
        )
    predictions = tuple(form.read(path, spec, references))
    if not predictions:
        raise DataError(
            f"{path} holds no predictions for {spec.name}.",
            f"Expected in the format {format_name!r}: {form.description}.",
        )
    return predictions
