"""The settings of a run: what the user asked for, validated where it enters."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from adapters.base import Device, Dtype
from tasks.foundation.errors import UsageError


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
        batch_size: Most rows of a batch; None lets the engine pack by tokens.
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
    limit: int | None = None
    batch_size: int | None = None
    device: Device = "auto"
    dtype: Dtype = "auto"
    seed: int = 0

    def as_yaml(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            key: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
            for key, value in asdict(self).items()
        }


def load_settings(path: Path | None, overrides: dict[str, Any]) -> Settings:
    """Return the settings of a `run.yaml`, if one is given, with the command line's words on top.

    Raises:
        UsageError: If the file is unreadable, or a setting is unknown or has a value that is not allowed.
    """
    values = _read(path) if path else {}
    values |= {key: value for key, value in overrides.items() if value is not None}
    if "model" not in values:
        raise UsageError("No model was given.", "Write --model NAME; `medbench models` lists them.")
    try:
        return TypeAdapter(Settings).validate_python(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise UsageError(f"The settings are not valid: {problems}.", "See `medbench run --help`.") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings = document["settings"]
    except (OSError, yaml.YAMLError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is no run.yaml: {error!r}.", "Give the run.yaml of a run's folder.") from error
    known = {field.name for field in fields(Settings)}
    return {key: value for key, value in settings.items() if key in known}
