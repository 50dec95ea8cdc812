"""The command `medbench convert`: one converter for each model that has one, and what all of them need."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from medbench.adapters.catalog import ADAPTERS
from medbench.tasks.foundation.errors import MedbenchError, RunError, UsageError
from medbench.tasks.foundation.registry import imported


class ConverterGroup(click.Group):
    """A group whose commands the entries of the models name; a converter is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the models that can be converted, in the order of the catalogue."""
        del ctx
        return [name for name in ADAPTERS if _converter(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a converter."""
        path = ADAPTERS.load(cmd_name).converter
        if not path:
            raise UsageError(
                f"{cmd_name} needs no conversion: its weights are read as they were published.",
                f"There are converters for {', '.join(self.list_commands(ctx))}.",
            )
        command: click.Command = imported(path)
        return command


def _converter(name: str) -> str:
    try:
        return ADAPTERS.load(name).converter
    except MedbenchError:
        # A broken plugin must not keep others from being converted; `medbench models` says what is wrong with it.
        return ""


@click.group("convert", cls=ConverterGroup)
def convert_group() -> None:
    """Convert published weights into folders that load fast, and back.

    \b
    Example:  medbench convert radfm DIR --output radfm-bf16
    """


def converter(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """Return a decorator that makes a function the converter of a model: of `source`, `output`, and its own options."""
    output = click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
    source = click.argument("source", type=click.Path(path_type=Path))
    return lambda function: click.command(name)(source(output(function)))


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write to, which becomes `output` when the block ends well and vanishes when it does not."""
    from safetensors import SafetensorError

    if output.exists():
        raise UsageError(f"{output} is there already.", "Give another --output.")
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.rename(output)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise RunError(f"{output} cannot be written: {error}", "Free some space or give another --output.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
