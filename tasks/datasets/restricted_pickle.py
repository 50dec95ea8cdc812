"""Pickles as plain data: containers, numbers and texts load; nothing in the file can name code to run.

Numbers and texts of numpy, which are in pickles whose makers used it or pandas, come as plain numbers and texts. Their
pickles name functions of numpy; what is called in their place is ours and makes nothing but a number or a text.
"""

import pickle
import re
import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import numpy as np

from medbench.tasks.foundation.errors import DataError
from medbench.tasks.validation import read_bytes

_PLAIN_TYPE = re.compile(r"[<>|=]?([biuf]\d{1,2}|U\d{1,9})")


class _NumberType:
    """What stands in for a `numpy.dtype`: a letter and a size such as `f8`, and the order of its bytes."""

    __slots__ = ("code", "order")

    def __init__(self, code: object, *_: object) -> None:
        plain = _PLAIN_TYPE.fullmatch(code) if isinstance(code, str) else None
        if plain is None:
            raise pickle.UnpicklingError("a numpy type that is neither of plain numbers nor of texts")
        self.code, self.order = plain[1], "<"

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or state[1:2] not in (("<",), (">",), ("|",), ("=",)):
            raise pickle.UnpicklingError("the state of a numpy type is malformed")
        self.order = ">" if state[1] == ">" else "<"


class _Maker:
    """What a pickle may call but not change: the state that it would set is refused."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self._make = make

    def __call__(self, *arguments: object) -> object:
        return self._make(*arguments)

    def __setstate__(self, _state: object) -> None:
        raise pickle.UnpicklingError("a function takes no state")


def _value(kind: object, data: object) -> object:
    """Stand in for numpy's making of one value out of a type and bytes."""
    raw = data.encode() if isinstance(data, str) else data
    if not isinstance(kind, _NumberType) or not isinstance(raw, bytes):
        raise pickle.UnpicklingError("a numpy value is malformed")
    if kind.code.startswith("U"):
        return raw.decode("utf-32-le" if kind.order == "<" else "utf-32-be").rstrip("\0")
    values = np.frombuffer(raw, dtype=np.dtype(f"{kind.order}{kind.code}"))
    if len(values) != 1:
        raise pickle.UnpicklingError("a numpy value has another size than its type")
    return values[0].item()


def _latin1(text: object, encoding: object) -> bytes:
    """Stand in for `_codecs.encode`, by which older protocols spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes are malformed")
    return text.encode("latin-1")


# Dicts, lists, tuples, numbers, texts and None have opcodes of their own; these are spelled as a global.
_PLAIN_GLOBALS: Mapping[tuple[str, str], Callable[..., object]] = {
    **{(module, kind.__name__): kind for module in ("builtins", "__builtin__") for kind in (set, frozenset)},
    **{(f"numpy.{core}.multiarray", "scalar"): _Maker(_value) for core in ("core", "_core")},
    ("_codecs", "encode"): _Maker(_latin1),
    ("numpy", "dtype"): _Maker(_NumberType),
}

# What the unpickler itself raises on bytes that are no pickle: its documentation promises
# UnpicklingError and names the others as possible.
_MALFORMED = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError),
    *(KeyError, MemoryError, OverflowError, TypeError, ValueError, AssertionError, NameError, struct.error),
)


_InPython = pickle._Unpickler  # noqa: SLF001 - it has no public name
_ALL_CODES: dict[int, Callable[..., None]] = _InPython.dispatch


class _PlainUnpickler(_InPython):
    """An unpickler that knows no class and no function but containers and stand-ins.

    That in C takes room for as many remembered things as a pickle numbers: nine bytes take four gigabytes. A bytearray
    takes as much as it says before it is read, and no dataset has one.
    """

    dispatch: ClassVar = {code: load for code, load in _ALL_CODES.items() if code != pickle.BYTEARRAY8[0]}

    def find_class(self, module_name: str, global_name: str, /) -> Callable[..., object]:
        """Return a plain container or a stand-in; everything else is a DataError."""
        plain = _PLAIN_GLOBALS.get((module_name, global_name))
        if plain is None:
            problem = f"A pickle asks for {module_name}.{global_name}, which is refused: it could run code."
            raise DataError(problem, "Only plain data is read from pickles; download the file again from its authors.")
        return plain


def load_plain_pickle(path: Path) -> object:
    """Load a pickle that holds builtin data and numpy's single values only.

    Raises DataError if the file is missing, is no pickle, or names any class or function; the message has the name.
    """
    stream = BytesIO(read_bytes(path))
    try:
        return _PlainUnpickler(stream, encoding="utf-8").load()
    except DataError as error:
        raise DataError(f"{path}: {error.problem}", error.hint) from error
    except _MALFORMED as error:
        raise DataError(f"{path} is not a readable pickle: {error}.", "Download the file again.") from error
