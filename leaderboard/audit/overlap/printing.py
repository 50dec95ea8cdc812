"""Pictures to fingerprints: in threads, each picture of prepared data once."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from medbench.leaderboard.audit.overlap.items import Item
from medbench.leaderboard.audit.overlap.pixels import Print, print_of
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import open_image
from medbench.tasks.sample import ImageRef

Place = tuple[Path, ImageRef]
"""The folder and the picture in it."""


class Printer:
    """Makes fingerprints; a picture that cannot be decoded has None.

    Args:
        enabled: Whether pictures are looked at, at all.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self._known: dict[Place, Print | None] = {}
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def prints(self, places: Sequence[Place], *, keep: bool) -> list[Print | None]:
        """Return the fingerprints of pictures, in their order.

        Args:
            places: The pictures.
            keep: Whether they may be asked about again; a stream of millions is not kept.
        """
        if not self.enabled:
            return [None] * len(places)
        new = [place for place in dict.fromkeys(places) if place not in self._known]
        made = dict(zip(new, self._pool.map(_print, new), strict=True))
        if keep:
            self._known |= made
        return [made[place] if place in made else self._known[place] for place in places]

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown(cancel_futures=True)


def places_of(items: Iterable[Item]) -> list[Place]:
    """Return the distinct pictures of items, in the order in which they come."""
    return list(dict.fromkeys((item.source, image) for item in items for image in item.images))


def _print(place: Place) -> Print | None:
    try:
        return print_of(open_image(*place))
    except SampleError:
        return None
