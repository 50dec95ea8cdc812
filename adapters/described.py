"""What the YAML file of a model says: its card and arguments, known before it is loaded, texts, and its converter."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter

from medbench.adapters.base import Argument, ModelCard
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.foundation.registry import imported


def described(module: str) -> tuple[ModelCard, dict[str, Argument], dict[str, Any]]:
    """Return the card, the arguments, and whatever else the YAML file beside the file of a `module` holds."""
    told = read_yaml_table(Path(module).with_suffix(".yaml"))
    arguments = TypeAdapter(dict[str, Argument]).validate_python(told.pop("arguments", {}))
    return TypeAdapter(ModelCard).validate_python(told.pop("card")), arguments, told


def converter(name: str, told: Mapping[str, Any], path: str) -> click.Command:
    """Return the converter of a model: `module:function` of a source, an output and the options that `told` names.

    `told` is a table of the model's YAML file: what the command does (`help`), an `example`, its `options` (paths,
    where they have no `choices`), and what to do `then` with the `{output}`, also of an option that was given.
    """

    def convert(source: Path, output: Path, **given: Path | str | None) -> None:
        imported(path)(source, output, **given)
        then = (one["then"] for word, one in told["options"].items() if "then" in one and given[word] is not None)
        say(f"Written to {output}. {next(then, told['then']).format(output=output)}")

    place = click.Path(path_type=Path)
    options = [
        click.Option(
            [f"--{word.replace('_', '-')}"], type=click.Choice(one["choices"]) if "choices" in one else place,
            default=one.get("default"), show_default="default" in one, help=one["help"],
        )
        for word, one in told["options"].items()
    ]  # fmt: skip
    return click.Command(
        name, callback=convert, help=f"{told['help']}\n\n\b\n{told['example']}",
        params=[
            click.Argument(["source"], type=place),
            click.Option(["--output"], required=True, type=place, help="New folder."), *options,
        ],
    )  # fmt: skip
