"""Fingerprints of items: whether two lists hold the same item can be told without passing either on.

A fingerprint is the BLAKE2b-128 of a kind and of normalised parts. Three kinds: a picture by the name of its file
(`xmlab3/source.jpg`), an id of one dataset (`slake`, `image`, `xmlab3`), and an item (picture, question, answer). A
short answer alone never stands in one: a hash of `yes` would hide nothing.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from medbench.leaderboard.audit.normalise import norm_v1
from medbench.leaderboard.audit.overlap.items import Item, picture_names

_BYTES = 16
_BETWEEN = "\x1f"


@dataclass(frozen=True, slots=True)
class ItemPrints:
    """Fingerprints of one item.

    Attributes:
        whole: Of picture, question and answer; of question and answer where there is no picture.
        pictures: Of its pictures by name and by id.
        ids: By name of the id.
    """

    whole: frozenset[str]
    pictures: frozenset[str]
    ids: tuple[tuple[str, str], ...]

    def all(self) -> Iterator[str]:
        """Yield them all."""
        yield from self.whole
        yield from self.pictures
        yield from (value for _, value in self.ids)


def prints_of(item: Item, family: str = "") -> ItemPrints:
    """Return the fingerprints of an item.

    Args:
        item: The item.
        family: The dataset whose ids it has, where the item does not say.
    """
    dataset = item.family or family
    names = sorted(picture_names(item.images))
    question, answer = norm_v1(item.question) or "", norm_v1(item.answer) or ""
    own_image = item.groups.get("image", "")
    pictures: list[tuple[str, ...]] = [("name", name) for name in names]
    if own_image and dataset:
        pictures.append(("id", dataset, own_image))
    bases: list[tuple[str, ...]] = pictures if item.images or own_image else [("text",)]
    ids = [(name, fingerprint("id", dataset, name, value)) for name, value in item.groups.items() if dataset and value]
    return ItemPrints(
        whole=frozenset(fingerprint("item", *base, question, answer) for base in bases if answer),
        pictures=frozenset(fingerprint("picture", *base) for base in pictures),
        ids=tuple(sorted(ids)),
    )


def fingerprint(*parts: str) -> str:
    """Return 32 hex digits."""
    return blake2b(_BETWEEN.join(parts).encode(), digest_size=_BYTES).hexdigest()


def found_among(wanted: frozenset[str], items: Iterable[Item], family: str) -> frozenset[str]:
    """Return those of some fingerprints that a stream of items has; nothing else is kept of the stream."""
    found: set[str] = set()
    for item in items:
        found.update(value for value in prints_of(item, family).all() if value in wanted)
    return frozenset(found)
