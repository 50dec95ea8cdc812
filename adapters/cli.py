"""The command of this room: `medbench models`."""

import click

from adapters.catalog import ADAPTERS
from tasks.foundation.console import emit_table


@click.command("models")
def models_command() -> None:
    """List the models: what each can answer, which weights it needs and under which licence.

    \b
    Example:  medbench models
    """
    rows = []
    for name in ADAPTERS:
        entry = ADAPTERS.load(name)
        card = entry.card
        variants = ", ".join(f":{word}" for word in entry.variants)
        rows.append([name, variants, " ".join(sorted(card.kinds)), card.weights, card.licence])
    emit_table(["model", "variants", "kinds", "weights", "licence"], rows)
