"""What is known of a model before it is loaded: card, arguments and texts, in a YAML file beside the code."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from medbench.adapters.base import Argument, ModelCard
from medbench.tasks.foundation.files import read_yaml_table


def described(module: str) -> tuple[ModelCard, dict[str, Argument], dict[str, Any]]:
    """Return the card, the arguments, and whatever else the YAML file beside the file of a `module` holds."""
    told = read_yaml_table(Path(module).with_suffix(".yaml"))
    arguments = TypeAdapter(dict[str, Argument]).validate_python(told.pop("arguments", {}))
    return TypeAdapter(ModelCard).validate_python(told.pop("card")), arguments, told
