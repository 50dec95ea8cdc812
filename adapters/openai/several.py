"""Several servers of one model: those that are there must tell the same, or their answers are of two."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import RunError


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a server tells of a model and of itself before the first question."""

    mark: str  # Its weights, longest context and version, as one short text; empty where it tells nothing.
    profile: str  # What kind of server it is.
    lists: str  # The model's name if the server lists it, else the names that it lists.

    def __str__(self) -> str:
        return " ".join(filter(None, (f"a {self.profile} server", f"of {self.lists or 'no model'}", self.mark)))


class _Server(Protocol):
    host: str

    async def tell(self) -> Told:
        """Wait for the server, and return what it tells; RunError if it is not there."""
        ...


S = TypeVar("S", bound=_Server)


async def there_and_alike(servers: Sequence[S]) -> tuple[tuple[S, ...], Told]:
    """Return the servers that are there, and what all of them tell; those that are not are named.

    RunError if none is there, or two tell different things.
    """
    told = await asyncio.gather(*(server.tell() for server in servers), return_exceptions=True)
    there = [(server, one) for server, one in zip(servers, told, strict=True) if isinstance(one, Told)]
    failures = [one for one in told if not isinstance(one, Told)]
    unexpected = next((one for one in failures if not isinstance(one, RunError)), None)
    if unexpected or not there:
        raise unexpected or failures[0]
    for failure in failures:
        warn(f"NOT THERE: {str(failure).splitlines()[0].rstrip('.')}. The other servers answer all questions.")
    first, wanted = there[0]
    other = next(((server, one) for server, one in there if one != wanted), None)
    if other:
        problem = f"The servers do not serve the same: {first.host} is {wanted}; {other[0].host} is {other[1]}."
        raise RunError(problem, "Serve the same weights with the same options and version, or leave one of them out.")
    return tuple(server for server, _ in there), wanted
