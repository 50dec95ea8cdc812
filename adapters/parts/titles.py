"""Names in tables of models that can be run in several ways."""

from collections.abc import Mapping
from dataclasses import replace

from medbench.adapters.base import Argument, ModelCard


def card_as_chosen(card: ModelCard, arguments: Mapping[str, Argument], chosen: Mapping[str, str]) -> ModelCard:
    """Return a card whose title names every choice that is not the default: their numbers are not the same model's.

    Args:
        card: Of the model.
        arguments: What may be chosen; those without a closed list, such as folders, are not named.
        chosen: Value of each.
    """
    closed = {name: argument.default for name, argument in arguments.items() if argument.choices}
    others = [f"{name}={chosen[name]}" for name, default in closed.items() if chosen[name] != default]
    return replace(card, title=f"{card.title} ({', '.join(others)})") if others else card
