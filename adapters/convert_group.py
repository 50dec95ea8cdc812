"""The command `medbench convert`: one converter for each model that has one."""

from importlib import import_module

import click

from medbench.adapters.catalog import ADAPTERS
from medbench.tasks.foundation.errors import MedbenchError, UsageError


class ConverterGroup(click.Group):
    """A group whose commands the entries of the models name; a converter is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the models that can be converted, in the order of the catalogue."""
        del ctx
        return [name for name in ADAPTERS if _converter(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a converter."""
        del ctx
        path = ADAPTERS.load(cmd_name).converter
        if not path:
            raise UsageError(
                f"{cmd_name} needs no conversion: its weights are read as they were published.",
                f"There are converters for {', '.join(self.list_commands(click.Context(self)))}.",
            )
        module, _, attribute = path.partition(":")
        command: click.Command = getattr(import_module(module), attribute)
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
