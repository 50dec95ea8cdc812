"""From a file of published numbers to columns of a table."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from medbench.tasks.catalog import task_names
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.protocols import Protocol

FOLDER = Path(__file__).parent
Percentage = Annotated[float, Field(ge=0, le=100)]
_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A model's numbers in a paper.

    Attributes:
        scores: Percentages by task and metric.
        zero_shot: Tasks whose train split it has not seen.
        leaked: Tasks whose test split it has, as far as the source says.
        runs: Trainings behind the numbers, if the source gives their mean; None for several that it does not count.
        spread: Standard deviations over these, by task and metric.
        over: The model that the source counts this one's gain over.
        gains: That gain as the source prints it, in percent, by kind of task and as `total`.
    """

    __pydantic_config__ = _STRICT

    scores: Mapping[str, Mapping[str, Percentage]]
    zero_shot: frozenset[str] = frozenset()
    leaked: frozenset[str] = frozenset()
    runs: int | None = 1
    spread: Mapping[str, Mapping[str, Percentage]] = field(default_factory=dict)
    over: str = ""
    gains: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """The numbers of one table.

    Attributes:
        source: Which table of which paper.
        protocol: Whose definitions they follow.
        models: By name, in the order of the paper.
    """

    __pydantic_config__ = _STRICT

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
    """Return the published numbers of a bundled file, or of one that the user wrote.

    Raises:
        UsageError: If there is no such file, or it does not have the form of `leaderboard/published/table3.yaml`.
    """
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
