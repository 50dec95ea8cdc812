"""A submission to a leaderboard: `submission.yaml` beside files of predictions, from people whom nobody checks."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError, with_config

from medbench.harness.finish import RunOutcome
from medbench.harness.predictions.importing import About, Missing, import_run
from medbench.harness.predictions.rows import Source
from medbench.harness.results import PartOfADate
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import inside, read_yaml_table, write_atomically
from medbench.tasks.foundation.printable import printable

SUBMISSION_FILE = "submission.yaml"
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)\s*([KMBT]?)|(\d{7,15})", re.IGNORECASE)
_TIMES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_LONGEST = 200
_Text = Annotated[str, StringConstraints(min_length=1, max_length=_LONGEST, strip_whitespace=True)]
_ByTask = Mapping[str, _Text]


def count_of(given: object) -> int:
    """Return a number of parameters as people write it: `7B`, `350M`, `7000000000`; ValueError if it is none."""
    found = _SIZE.fullmatch(str(given).strip())
    count = 0 if found is None else int(found[3] or round(float(found[1]) * _TIMES[found[2].upper()]))
    if not count:
        raise ValueError(f"{given!r} is no number of parameters; write 7B, 350M or 7000000000")
    return count


# YAML reads `2024` as a number and `2024-05-13` as a day.
_Date = Annotated[PartOfADate, BeforeValidator(lambda given: str(given) if given else "")]
_Day = Annotated[str, BeforeValidator(str), StringConstraints(pattern=r"^\d{4}-\d\d-\d\d$")]


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """What a team says of its model and of its files of predictions, by task."""

    name: Annotated[_Text, Field(description="The model's name in tables.")]
    tasks: Annotated[_ByTask, Field(min_length=1, description="File of predictions beside this one, by task.")]
    organization: Annotated[str, Field(max_length=_LONGEST, description="Who hands it in.")] = ""
    url: Annotated[
        str, Field(max_length=_LONGEST, pattern=r"^(https://[^\s<>\"]+)?$", description="Paper, code or weights.")
    ] = ""  # fmt: skip
    submitted: Annotated[_Day | None, Field(description="Day of the submission, YYYY-MM-DD.")] = None
    parameters: Annotated[int | None, BeforeValidator(lambda one: one if one is None else count_of(one)), Field(
        description="How many it has, such as 7B; left out if that is not known.")] = None  # fmt: skip
    released: Annotated[_Date, Field(description="YYYY, YYYY-MM or YYYY-MM-DD.")] = ""
    open_weights: Annotated[bool | None, Field(description="Whether everybody can get the weights.")] = None
    trained_on: Annotated[
        tuple[_Text, ...] | None, Field(description="Tasks whose train splits it has seen; [] for none of them.")
    ] = None  # fmt: skip
    format: Annotated[str | _ByTask, Field(description="Of all files, or by task.")] = ""
    columns: Annotated[_ByTask, Field(description="Names of a table's columns: ours, then theirs.")] = field(
        default_factory=dict
    )
    references: Annotated[_ByTask, Field(description="Files of right answers, by task.")] = field(default_factory=dict)
    boxes: Annotated[str, Field(description="How the model writes boxes.")] = ""
    missing: Annotated[Missing, Field(description="What a sample without a prediction is.")] = "wrong"


_SUBMISSION: TypeAdapter[Submission] = TypeAdapter(Submission)


def schema() -> dict[str, Any]:
    """Return the JSON schema of `submission.yaml`, for editors and for checks before medbench sees it."""
    found = _SUBMISSION.json_schema(mode="validation")
    # As people write it: the number that is read from it is not the text.
    found["properties"]["parameters"]["anyOf"].insert(0, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*[KMBTkmbt]?$"})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def read_submission(path: Path) -> Submission:
    """Return what a `submission.yaml` says; UsageError with the field that is wrong."""
    try:
        return _SUBMISSION.validate_python(read_yaml_table(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = printable(".".join(map(str, first["loc"]))[:_LONGEST])
        way_out = f"Allowed: {', '.join(_SUBMISSION.json_schema()['properties'])}. See docs/submissions.md."
        raise UsageError(f"{path}: {where}: {first['msg']}.", way_out) from error


def import_submission(path: Path, **options: Any) -> RunOutcome:
    """Make a run of a submission, with `options` like `import_run`; its `submission.yaml` stays in the run's folder.

    Its files lie in its own folder: what leads out of it, also by a link, is a DataError and is not read.
    """
    file = path / SUBMISSION_FILE if path.is_dir() else path
    said = read_submission(file)
    forms = said.format if isinstance(said.format, Mapping) else dict.fromkeys(said.tasks, said.format)
    if unknown := [task for task in (*forms, *said.references) if task not in said.tasks]:
        raise UsageError(f"{file}: {unknown[0]} is none of its tasks.", f"There are {', '.join(said.tasks)}.")
    sources = {
        task: Source(
            path=_own_file(file.parent, name), form=forms.get(task, ""), columns=dict(said.columns),
            references=_own_file(file.parent, said.references[task]) if task in said.references else None,
        )
        for task, name in said.tasks.items()
    }  # fmt: skip
    about = About(
        name=said.name, trained_on=said.trained_on, parameters=said.parameters, released=said.released,
        open_weights=said.open_weights,
    )  # fmt: skip
    try:
        outcome = import_run(about, sources, boxes=said.boxes, missing=said.missing, **options)
    except MedbenchError as error:
        error.problem = f"{file.parent.name}: {error.problem}"
        raise
    write_atomically(outcome.path / SUBMISSION_FILE, file.read_text(encoding="utf-8"))
    return outcome


def _own_file(folder: Path, name: str) -> Path:
    path = inside(folder, name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"{name} leads out of {folder}.", "Put the file itself beside submission.yaml.")
    return path
