"""What `--workers` says: how many, and where. Imports nothing that takes long."""

import re
from dataclasses import dataclass

from medbench.tasks.foundation.errors import UsageError

_WORDS = re.compile(r"(?P<alone>[1-9]\d{0,4})|(?:(?P<count>[1-9]\d{0,4})@)?(?P<ray>ray)(?:://(?P<address>[^\s@/]+))?")
_ALLOWED = (
    "Allowed: a number of processes on this machine (8); ray, on a cluster of this machine's own; ray://auto, on the "
    "cluster that this machine belongs to; ray://HOST:PORT, on the one whose head has this address; before each of "
    "them their number (16@ray://auto)."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The workers that a user asks for."""

    count: int | None  # None: one for each GPU of the cluster or, without any, for each of its machines.
    ray: bool = False
    address: str = ""  # Of a cluster's head, or `auto`; empty for a cluster of this machine's own.


def wanted(word: str) -> Wanted:
    """Return what a word of `--workers` asks for; UsageError if it says nothing."""
    found = _WORDS.fullmatch(word.strip())
    if found is None:
        raise UsageError(f"--workers {word!r} says neither how many workers nor where.", _ALLOWED)
    count = found["alone"] or found["count"]
    return Wanted(count=int(count) if count else None, ray=bool(found["ray"]), address=found["address"] or "")
