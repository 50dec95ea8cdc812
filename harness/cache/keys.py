"""The key of an answer: a hash over everything that can change it, so that nothing else is ever taken for it.

What is new in a request, a prompt, a decoding or a run's identity is part of the key unless it is named here.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medbench.adapters.base import Adapter, LocalAdapter
from medbench.adapters.remote import Served, ServedGeneration
from medbench.harness.engine.requests import Request
from medbench.tasks.foundation.errors import RunError, SampleError
from medbench.tasks.foundation.files import Stamp, file_sha256, stamp_of
from medbench.tasks.images import locate
from medbench.tasks.sample import ImageRef
from medbench.tasks.spec import TaskSpec

CHANGES_NO_ANSWER = frozenset({"limit", "suite", "tasks", "probe", "own model"})
"""Parts of a run's identity that say which questions are asked; each question stands in its own key."""
TOLD_OTHERWISE = frozenset({"sample", "spec", "source"})
"""Fields of a request that a model sees as its prompt and its pictures, unless it is answered whole."""
NAMES_ALONE = frozenset({"sample_id", "task", "split"})
"""Fields of a sample that only say which it is."""


def digest(value: object, shown: Callable[[ImageRef], str] | None = None) -> str:
    """Return a hash of plain values and records of them, pictures as `shown`; TypeError or ValueError if it has none.

    No two values have one, but for lists and tuples, and for sets and sorted lists.
    """

    def plain(other: object) -> object:
        if shown is not None and isinstance(other, ImageRef):
            return {"picture": shown(other)}
        if is_dataclass(other) and not isinstance(other, type):
            return {one.name: getattr(other, one.name) for one in fields(other)}
        if isinstance(other, Mapping):
            return dict(other)
        if isinstance(other, frozenset | set):
            return sorted(other)
        raise TypeError(f"{type(other).__name__} has no key.")

    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"), default=plain)
    return hashlib.sha256(text.encode()).hexdigest()


class Pictures:
    """Hashes of pictures by the bytes of their files, each of which is read once as long as it stays the same."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[Stamp, str]] = {}

    def digest(self, source: Path, ref: ImageRef) -> str:
        """Return the hash of a picture, a row of an array by its place; SampleError or OSError if it cannot be read."""
        path = locate(source, ref.path)
        stamp = stamp_of(path)
        if self._known.get(path, (None, ""))[0] != stamp:
            self._known[path] = (stamp, file_sha256(path))
        return f"{self._known[path][1]}/{ref.member}/{ref.index}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Makes keys for one loaded model."""

    base: str  # Of all that is the same for all requests of the model.
    whole: bool  # Whether its own library reads samples and their tasks, and not the prompt.
    pictures: Pictures

    def of(self, request: Request) -> str | None:
        """Return the key of a local model's request; None where a picture cannot be read, or something has no key."""
        told: dict[str, Any] = {
            one.name: getattr(request, one.name) for one in fields(request) if one.name not in TOLD_OTHERWISE
        }
        # Visual tokens may depend on the kind of the task.
        told["kind"] = request.spec.kind
        if self.whole:
            sample = request.sample
            told["sample"] = {
                one.name: getattr(sample, one.name) for one in fields(sample) if one.name not in NAMES_ALONE
            }
            told["spec"] = request.spec.fingerprint()
        try:
            return self.of_sent(told, partial(self.pictures.digest, request.source))
        except (OSError, SampleError, TypeError, ValueError):
            return None

    def of_sent(self, prepared: object, shown: Callable[[ImageRef], str] | None = None) -> str:
        """Return the key of what is sent to a server; TypeError or ValueError if it has none."""
        return digest([self.base, prepared], shown)


def keys_for(
    adapter: Adapter, identity: Mapping[str, object], specs: Sequence[TaskSpec], data_of: Callable[[str], str]
) -> Keys:
    """Return what makes the keys of a loaded model, given the identity of its run and the tasks that it expects.

    `data_of` returns the fingerprint of a task's data. Reads weights whole of which the identity knows samples;
    RunError if one changed since the model was loaded.
    """
    origin = adapter.loaded_from
    base = {
        "identity": {name: value for name, value in identity.items() if name not in CHANGES_NO_ANSWER},
        # Keys of other making are other keys.
        "keys": file_sha256(Path(__file__)),
        "answer": [one.name for kind in (ServedGeneration, Served) for one in fields(kind)],
        "weights": _whole_digests(origin.sampled),
        "data": {task: data_of(task) for task in sorted(origin.tasks)},
        "expects": [] if type(adapter).expect is Adapter.expect else sorted(spec.fingerprint() for spec in specs),
    }
    mine = [getattr(type(adapter), name, None) for name in ("written_whole", "inputs_whole")]
    whole = isinstance(adapter, LocalAdapter) and mine != [LocalAdapter.written_whole, LocalAdapter.inputs_whole]
    return Keys(base=digest(base), whole=whole, pictures=Pictures())


def _whole_digests(sampled: Mapping[Path, Stamp]) -> list[str]:
    def whole(path: Path) -> str:
        found = file_sha256(path)
        if stamp_of(path) != sampled[path]:
            problem = f"{path} changed while the model was loaded"
            raise RunError(f"{problem}.", "Start again when nobody writes to it.")
        return found

    with ThreadPoolExecutor() as pool:
        return sorted(pool.map(whole, sampled))
