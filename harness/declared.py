"""What a model's adapter declares of its training data, before anything is loaded."""

from dataclasses import dataclass

from medbench.adapters.catalog import find_adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """The part of a model's card that an audit of provenance reads.

    Attributes:
        name: Of the adapter.
        variant: What followed the colon.
        title: Name in tables.
        trained_on: Tasks whose train splits it has seen; None if nobody has said.
    """

    name: str
    variant: str
    title: str
    trained_on: frozenset[str] | None


def declared_by(model: str) -> Declared:
    """Return what the card of `name` or `name:variant` declares.

    Raises:
        UsageError: If there is no such model or variant.
    """
    entry, variant = find_adapter(model)
    card = entry.card_for(variant)
    return Declared(name=entry.card.name, variant=variant, title=card.title, trained_on=card.trained_on)
