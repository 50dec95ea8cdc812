"""The command `medbench models`."""

from textwrap import fill

import click

from medbench.adapters.base import AdapterEntry, ModelCard
from medbench.adapters.catalog import ADAPTERS, ChosenModel, choose_model
from medbench.tasks.foundation.console import emit, emit_table, say
from medbench.tasks.foundation.errors import MedbenchError

_WIDTH, _INDENT = 110, 15
_UNDECLARED = "not declared here, perhaps by the checkpoint; not known is not the same as none"


@click.command("models")
@click.argument("name", required=False)
def models_command(name: str | None) -> None:
    """List the models, or show all that is known of one: NAME, or NAME:VARIANT.

    \b
    Example:  medbench models
              medbench models llava-med
              medbench models hf:google/medgemma-4b-it
    """
    if name is None:
        emit("\n\n".join(_described(name) for name in ADAPTERS))
        say("With the arguments of one: medbench models NAME")
        return
    model = choose_model(name, {})
    emit(describe(model))
    rows = [
        [word, model.arguments[word] or "-", " ".join(argument.choices) or "any", argument.help]
        for word, argument in model.entry.arguments.items()
    ]
    if rows:
        emit_table(["argument", "default", "allowed", "meaning"], rows, title="--model-arg NAME=VALUE")


def _described(name: str) -> str:
    try:
        return describe(choose_model(name, {}))
    except MedbenchError as error:
        return f"{name}: {error.problem}"


def describe(model: ChosenModel) -> str:
    """Return what is known of a model, a line for each thing."""
    entry, variant = model.entry, model.variant
    card = entry.card_for(variant)
    facts = {
        "answers": ", ".join(sorted(card.kinds)),
        "weights": card.weights,
        "in bfloat16": card.memory,
        "licence": card.licence,
        "trained on": _trained_on(card),
        "boxes": model.boxes.name if model.boxes else "draws none",
        "options": " ".join(f"--{option}" for option in sorted(entry.takes)),
        "choices": _choices(entry),
        "convert": f"medbench convert {card.name} --help" if entry.converter else "",
    }
    named = [(name, value) for name, value in facts.items() if value]
    if not variant:
        named += [("variant", f"{card.name}:{word}  {meaning}") for word, meaning in entry.variants.items()]
    title = f"{card.name}{f':{variant}' if variant else ''}  {card.title if card.title != variant else ''}".rstrip()
    return "\n".join([title, *(_line(name, value) for name, value in named)])


def _trained_on(card: ModelCard) -> str:
    if card.trained_on is None:
        return _UNDECLARED
    return ", ".join(sorted(card.trained_on)) or "none of these tasks"


def _choices(entry: AdapterEntry) -> str:
    closed = {name: argument.choices for name, argument in entry.arguments.items() if argument.choices}
    return ", ".join(f"{name}={'|'.join(choices)}" for name, choices in closed.items())


def _line(name: str, value: str) -> str:
    return fill(
        value, _WIDTH, initial_indent=f"  {name:<{_INDENT - 2}}", subsequent_indent=" " * _INDENT,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
