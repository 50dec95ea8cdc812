"""The formats in which somebody's predictions come, and which of them a file has."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import get_args

from medbench.harness.predictions import logs, peers
from medbench.harness.predictions.rows import Prediction, Source
from medbench.harness.predictions.tables import Row, read_rows, read_table
from medbench.tasks.foundation.errors import DataError, UsageError, unknown_name
from medbench.tasks.spec import Kind, TaskSpec

TABLE = "table"
_SNIFFED = 1 << 16
_SIGNS = (
    (re.compile(rb"PK\x03\x04"), "inspect"),
    (re.compile(rb'\s*\{\s*"version":\s*\d+,\s*"(status|eval)"'), "inspect"),
    (re.compile(rb'\s*\{[^\n]*"filtered_resps":'), "lm-eval"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFormat:
    """One form in which predictions come."""

    title: str  # Who writes it.
    read: Callable[[Source, TaskSpec], Iterator[Prediction]]  # A DataError names the row that is of another form.
    kinds: tuple[Kind, ...] = get_args(Kind)  # The kinds of task whose predictions it holds.
    # Whether the right answers come in a second file: never, always, or where the first has none.
    references: str = "never"
    boxes_are_read: bool = False  # Whether its writer has read the boxes: then `predicted_box` is all that counts.
    description: str  # What the file is, and what is lost in it.


FORMATS: Mapping[str, PredictionFormat] = {
    TABLE: PredictionFormat(
        title="Table", read=read_table, references="where it has none",
        description="CSV, TSV, JSON, JSON lines or Parquet with a column of predictions; the form to write yourself",
    ),
    "lm-eval": PredictionFormat(
        title="lm-eval", read=logs.read_lm_eval,
        description="`samples_*.jsonl` of `--log_samples`; raw answers are scored, not what its filters make of them",
    ),
    "lmms-eval": PredictionFormat(
        title="lmms-eval", read=logs.read_lm_eval,
        description="`*_samples_*.jsonl` of `--log_samples`; it holds prompts, but no names of questions",
    ),
    "inspect": PredictionFormat(
        title="Inspect", read=logs.read_inspect,
        description="a log of Inspect, `.eval` or `.json`; of several epochs the first",
    ),
    "medevalkit": PredictionFormat(
        title="MedEvalKit", read=peers.read_medevalkit, kinds=("qa", "vqa", "report"),
        description="`results.json` of MedQA_USMLE, PubMedQA, SLAKE, PATH_VQA, VQA_RAD or MIMIC_CXR; English rows",
    ),
    "multimedeval": PredictionFormat(
        title="MultiMedEval", read=peers.read_multimedeval, kinds=("qa", "vqa", "report"),
        description="the CSV that it writes per task; the raw answers are scored, not its reading of them",
    ),
    "llava-med": PredictionFormat(
        title="LLaVA-Med", read=peers.read_llava_med, kinds=("qa", "vqa", "report", "reg", "cls"), references="always",
        description="its answers file (JSON lines); `--references` is the question file with the right answers",
    ),
    "uni-med": PredictionFormat(
        title="Uni-Med's own scripts", read=peers.read_uni_med, kinds=("vqa", "rec", "reg", "report", "cls"),
        boxes_are_read=True,
        description="the JSON of its evaluation scripts; they store answers in lower case and the first 50 words "
        "of references",
    ),
}  # fmt: skip


def format_of(source: Source) -> str:
    """Return the format of a file: the one that is said, or else seen; UsageError if there is none of that name."""
    if source.form:
        if source.form not in FORMATS:
            raise unknown_name("format of predictions", source.form, FORMATS)
        return source.form
    try:
        with source.path.open("rb") as stream:
            head = stream.read(_SNIFFED)
    except OSError as error:
        raise DataError(f"{source.path} cannot be read: {error.strerror or error}.", "Check the path given.") from error
    return next((name for sign, name in _SIGNS if sign.match(head)), TABLE)


def read_predictions(source: Source, spec: TaskSpec) -> tuple[Prediction, ...]:
    """Read somebody's predictions for a task, each with its reference where the file has one.

    Raises UsageError if there is no such format, it does not hold this kind of task, or references or columns are given
    or left out wrongly; DataError if a file is missing, is not in the format or holds no predictions.
    """
    name = format_of(source)
    form, named = FORMATS[name], f"The format {name!r}"
    if source.references is not None and form.references == "never":
        problem = f"{named} takes no file of references: it holds them itself."
        raise UsageError(problem, f"Leave out --references {source.references}.")
    if source.columns and name != TABLE:
        raise UsageError(f"{named} has no columns to name.", f"Leave out --column, or read it with --from {TABLE}.")
    if spec.kind not in form.kinds:
        way_out = f"It holds {', '.join(form.kinds)}. Any kind can be given in the format {TABLE!r}."
        raise UsageError(f"{named} holds no predictions of the kind {spec.kind} ({spec.name}).", way_out)
    if source.references is None and form.references == "always":
        way_out = f"Give it with --references FILE. It is read with the predictions: {form.description}."
        raise UsageError(f"{named} holds no right answers, and no file of references was given.", way_out)
    predictions = tuple(form.read(source, spec))
    if not predictions:
        way_out = f"Expected in the format {name!r}: {form.description}."
        raise DataError(f"{source.path} holds no predictions for {spec.name}.", way_out)
    return predictions


def rows_of(source: Source, spec: TaskSpec) -> Iterator[Row]:
    """Yield the rows of any file of predictions with our names of fields, those of a table as they are; raises so."""
    if format_of(source) == TABLE:
        return read_rows(source)
    return ((one.where, asdict(one)) for one in read_predictions(source, spec))
