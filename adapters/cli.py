"""The command of this room: `medbench models`."""

import click

from adapters.catalog import ADAPTERS
from tasks.foundation.console import emit_table
from tasks.foundation.errors import MedbenchError


@click.command("models")
def models_command() -> None:
    """List the models: what each can answer, which weights it needs and under which licence.

    \b
    Example:  medbench models
    """
    emit_table(["model", "variants", "kinds", "weights", "licence"], [_row(name) for name in ADAPTERS])


def _row(name: str) -> list[str]:
    try:
        entry = ADAPTERS.load(name)
    except MedbenchError as error:
        return [name, "", "", error.problem, ""]
    variants = ", ".join(f":{word}" for word in entry.variants)
    return [name, variants, " ".join(sorted(entry.card.kinds)), entry.card.weights, entry.card.licence]
