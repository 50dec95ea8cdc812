"""The settings of a run: what the user asked for, validated where it enters."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError

from adapters.base import Device, Dtype
from tasks.foundation.errors import UsageError
from tasks.foundation.yaml_tables import read_yaml_table

MAX_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a run is to do.

    Attributes:
        model: `name` or `name:variant`.
        tasks: Names, kinds, globs or `all`.
        checkpoint: Folder of weights; None means the model's default.
        data_dir: Folder of prepared tasks; None means the bundled mini suite.
        output_dir: Folder under which the run's own folder is made.
        limit: Only the first so many test samples of each task.
        batch_size: Most rows at a time; None lets the engine choose by the memory that is free.
        device: Where the model runs.
        dtype: Type of the model's weights.
        seed: Of everything random; greedy answers do not depend on it.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    model: str
    tasks: tuple[str, ...] = ("all",)
    checkpoint: Path | None = None
    data_dir: Path | None = None
    output_dir: Path = Path("runs")
    limit: PositiveInt | None = None
    batch_size: PositiveInt | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0

    def as_yaml(self) -> dict[str, Any]:
        """Return the settings as plain values; paths are absolute, so that the file works from anywhere."""
        plain = {
            key: str(value.absolute()) if isinstance(value, Path) else value for key, value in asdict(self).items()
        }
        return {**plain, "tasks": list(self.tasks)}


def load_settings(path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of a `run.yaml`, if one is given, with the command line's words on top.

    Raises:
        UsageError: If the file is unreadable, or a setting is unknown or has a value that is not allowed.
    """
    values = _settings_of(path) if path else {}
    values |= {key: value for key, value in overrides.items() if value is not None}
    if "model" not in values:
        raise UsageError("No model was given.", "Write --model NAME; `medbench models` lists them.")
    try:
        return TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"The settings are not valid: {problems}.", "See `medbench run --help`.") from error


def _settings_of(path: Path) -> dict[str, Any]:
    settings = read_yaml_table(path).get("settings")
    if not isinstance(settings, dict):
        raise UsageError(f"{path} is no run.yaml: it has no table `settings`.", "Give the run.yaml of a run's folder.")
    return dict(settings)
