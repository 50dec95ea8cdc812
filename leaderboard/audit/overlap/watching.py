"""A stream of rows whose progress is shown."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from medbench.leaderboard.audit.overlap.items import Item
from medbench.tasks.foundation.console import Meter, meter, say

_SHOWN_FROM = 5000
_STEP = 1024


@contextmanager
def watched(rows: Iterable[Item], name: str, total: int) -> Iterator[Iterable[Item]]:
    """Give the rows and say what they are compared for; a few thousand need no display of their progress.

    Args:
        rows: The rows.
        name: What they are.
        total: About how many there are.
    """
    if total < _SHOWN_FROM:
        say(f"Comparing with {name}.")
        yield rows
        return
    with meter(f"Comparing with {name}", total) as progress:
        yield _counted(rows, progress)


def _counted(rows: Iterable[Item], progress: Meter) -> Iterator[Item]:
    done = 0
    for done, row in enumerate(rows, start=1):
        yield row
        if done % _STEP == 0:
            progress.advance(_STEP)
    progress.advance(done % _STEP)
