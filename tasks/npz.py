"""Arrays inside `.npz` files, one member at a time and never by pickle."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from tasks.foundation.errors import DataError

# The largest array of a supported dataset (DermaMNIST at 224 pixels, training images) has 1.05 GB.
MAX_ARRAY_BYTES = 4 * 2**30

_MALFORMED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)


def array_shape(path: Path, member: str) -> tuple[int, ...]:
    """Return the shape of an array from its header alone.

    Raises:
        DataError: If the file or the member is missing or malformed.
    """
    with _open_member(path, member) as stream:
        shape, _ = _read_header(stream)
        return shape


def read_array(path: Path, member: str) -> npt.NDArray[Any]:
    """Read one array whole; raises like `array_shape`, also if it is larger than `MAX_ARRAY_BYTES`."""
    with _open_member(path, member) as stream:
        shape, dtype = _read_header(stream)
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if size > MAX_ARRAY_BYTES:
        raise DataError(f"{path}: the array {member!r} claims {size} bytes; at most {MAX_ARRAY_BYTES} are read.")
    with _open_member(path, member) as stream:
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    else:
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    return shape, dtype


@contextmanager
def _open_member(path: Path, member: str) -> Iterator[IO[bytes]]:
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as stream:
            yield stream
    except KeyError as error:
        raise DataError(f"{path} has no array {member!r}.", "Download the file again from its authors.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder given.") from error
    except _MALFORMED as error:
        raise DataError(f"{path}: the array {member!r} is broken: {error}.", "Download the file again.") from error
