"""Numbers that papers print, from the YAML files in `published/`, and the Uni-Med paper's tables as layouts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config

from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.protocols import Protocol

FOLDER = Path(__file__).parent / "published"
_Percentage = Annotated[float, Field(ge=0, le=100)]
_STRICT = ConfigDict(extra="forbid")


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A model's numbers in a paper."""

    scores: Mapping[str, Mapping[str, _Percentage]]  # by task and metric
    zero_shot: frozenset[str] = frozenset()  # tasks whose train split it has not seen
    leaked: frozenset[str] = frozenset()  # tasks whose test split it has, as far as the source says
    runs: int | None = 1  # trainings whose mean the numbers are; None for several that the source does not count
    spread: Mapping[str, Mapping[str, _Percentage]] = field(default_factory=dict)  # standard deviations over these
    over: str = ""  # the model that the source counts this one's gain over
    gains: Mapping[str, float] = field(default_factory=dict)  # as it prints it, in percent, by kind and as `total`


@with_config(_STRICT)
@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The numbers of one table: `source` is which of which paper, `models` stand in the paper's order."""

    source: str
    protocol: Protocol
    models: Mapping[str, Reported]

    @property
    def table(self) -> str:
        """The last part of the source: which table it is."""
        return self.source.rpartition(", ")[2]


def publications() -> list[str]:
    """Return the names of the bundled files."""
    return sorted(file.stem for file in FOLDER.glob("*.yaml"))


def read_publication(name: str) -> Publication:
    """Return the numbers of a bundled file or a user's own; a UsageError if there is none, or it is malformed."""
    file = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not file.is_file():
        raise unknown_name("table of published numbers", name, publications())
    try:
        found = TypeAdapter(Publication).validate_python(read_yaml_table(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"{file} holds no published numbers: {where}: {first['msg']}.", f"See {FOLDER}.") from error
    for task in {task for model in found.models.values() for task in model.scores}:
        if task not in task_names():
            raise unknown_name("task", task, task_names())
    return found


class Layout(NamedTuple):
    """The rows of one of the paper's tables: which metrics of which tasks, in which order."""

    name: str
    rows: Sequence[tuple[str, str]]
    models_as_rows: bool = False
    gains: bool = False  # the gain over a baseline stands behind


LAYOUTS = {
    name: TypeAdapter(Layout).validate_python({"name": name, **row})
    for name, row in read_yaml_table(Path(__file__).with_name("layouts.yaml")).items()
}
