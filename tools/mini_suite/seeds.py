"""One random generator per named part, so that a change in one part leaves all others as they are."""

import hashlib
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def generator(*names: object) -> np.random.Generator:
    """Return the generator that belongs to `names`, the same in every process."""
    digest = hashlib.sha256("/".join(str(name) for name in names).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def shuffled(items: Sequence[Item], *names: object) -> list[Item]:
    """Return `items` in the order that belongs to `names`."""
    order = generator(*names).permutation(len(items))
    return [items[int(index)] for index in order]
