"""States of all samples of a task in a file, batch after batch: what was read before a stop stays.

The same call goes on behind it, with the same batches. The file holds float32 numbers [N, W], and an index beside it
says of how many samples, and where.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from medbench.harness.probing.places import Place
from medbench.harness.probing.reading import FloatArray, StateReader
from medbench.tasks.foundation.console import meter
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.tasks.foundation.files import canonical_json, fingerprint, write_atomically
from medbench.tasks.sample import Sample
from medbench.tasks.validation import parse_json_file

_BYTES = np.dtype(np.float32).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """What a file of states holds; it is the last that is written of a batch."""

    of: str  # Identity of model, task, samples and way of reading.
    places: tuple[Place, ...]
    digests: tuple[str, ...]  # Of the pictures of the samples that were read so far.


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class States:
    """The states of all samples of a task, which stay on the disk."""

    places: tuple[Place, ...]
    digests: tuple[str, ...]  # Of each sample's pictures; empty where it could not be read.
    values: FloatArray  # [N, W], a memory map.

    def at(self, place: Place) -> npt.NDArray[np.float64]:
        """Return the states [N, C] of one place."""
        start = sum(one.width for one in self.places[: self.places.index(place)])
        return np.asarray(self.values[:, start : start + place.width], dtype=np.float64)


def read_states(reader: StateReader, samples: Sequence[Sample], file: Path, *, of: str, batch: int) -> States:
    """Read the states of samples into a file, from where it was left; `of` is what they are the states of.

    DataError if the file holds states of something else, RunError if it cannot be written.
    """
    index = _left(file.with_suffix(".json"), fingerprint([of, [one.sample_id for one in samples], batch]))
    digests, reader.places = list(index.digests), index.places
    with _rows_of(file, len(digests), sum(place.width for place in index.places)) as stream, meter(
        f"Reading states: {file.stem}", len(samples), done=len(digests)
    ) as progress:  # fmt: skip
        for start in range(len(digests), len(samples), batch):
            some = samples[start : start + batch]
            rows, names = reader.read(some)
            stream.write(rows.tobytes())
            stream.flush()
            digests += names
            index = replace(index, places=reader.places, digests=tuple(digests))
            write_atomically(file.with_suffix(".json"), canonical_json(asdict(index)))
            progress.advance(len(some))
    width = sum(place.width for place in index.places)
    values = np.memmap(file, dtype=np.float32, mode="r", shape=(len(samples), width))
    return States(places=index.places, digests=index.digests, values=values)


def _left(file: Path, of: str) -> _Index:
    if not file.exists():
        return _Index(of=of, places=(), digests=())
    found = parse_json_file(_Index, file)
    if found.of != of:
        problem = f"{file.parent} holds states of other weights, samples or settings in {file.name}."
        raise DataError(problem, "Give another --output, or remove that file.")
    return found


@contextmanager
def _rows_of(file: Path, rows: int, width: int) -> Iterator[IO[bytes]]:
    """Open a file of states behind its first rows; RunError if it cannot be written or is shorter than that."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("r+b" if rows else "wb") as stream:
            stream.seek(0, 2)
            if stream.tell() < rows * width * _BYTES:
                raise RunError(f"{file} is cut short.", f"Remove it and {file.with_suffix('.json').name} to read anew.")
            stream.truncate(rows * width * _BYTES)
            stream.seek(rows * width * _BYTES)
            yield stream
    except OSError as error:
        problem = f"{file} cannot be written: {error.strerror or error}."
        raise RunError(problem, "Make room there; the same command goes on.") from error
