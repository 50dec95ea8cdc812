"""Arrays inside `.npz` files, one member at a time and never by pickle."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from medbench.tasks.foundation.errors import DataError

# The largest array of a supported dataset (DermaMNIST at 224 pixels, training images) has 1.05 GB.
MAX_ARRAY_BYTES = 4 * 2**30

GREY_STACK, COLOUR_STACK = 3, 4
_CHANNELS = (1, 3)

_MALFORMED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError)


def array_form(path: Path, member: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array from its header alone.

    Raises:
        DataError: If the file or the member is missing or malformed.
    """
    with _open_member(path, member) as stream:
        return _read_header(stream)


def refuse_other_stacks(path: Path, member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Refuse an array that is no stack of 8-bit pictures; its values and axes are not guessed.

    Raises:
        DataError: If it is not `uint8` [N, H, W], [N, H, W, 1] or [N, H, W, 3]; the hint says how to make it so.
    """
    grey = len(shape) == GREY_STACK
    colour = len(shape) == COLOUR_STACK and shape[-1] in _CHANNELS
    if dtype != np.uint8 or not (grey or colour):
        problem = f"{path}: {member!r} is {dtype} {list(shape)}; pictures are uint8 [N, H, W] or [N, H, W, 3]."
        raise DataError(problem, _way_out(member, shape, dtype))


def _way_out(member: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> str:
    if len(shape) == COLOUR_STACK and shape[1] in _CHANNELS and shape[-1] not in _CHANNELS:
        return f"Its channels come first. Save np.moveaxis({member}, 1, -1) as uint8, or download the file again."
    if dtype.kind == "f":
        return (
            f"Save ({member} * 255).round().astype('uint8') if its values go from 0 to 1, or download the file again."
        )
    if len(shape) == COLOUR_STACK and len(set(shape[1:])) == 1:
        return "Volumes (3-D sets) are not read. Download the 2-D set of this name from its authors."
    return "Download the file again from its authors."


def read_array(path: Path, member: str) -> npt.NDArray[Any]:
    """Read one array whole; raises like `array_form`, also if it is larger than `MAX_ARRAY_BYTES`."""
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
