"""Pickles as plain data: containers, numbers and texts load; nothing in the file can name code to run."""

import pickle
from pathlib import Path

from tasks.foundation.errors import DataError

# Dicts, lists, tuples, numbers, texts and None have opcodes of their own; only these two plain containers
# are spelled as a global by older protocols.
_PLAIN_GLOBALS = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("__builtin__", "set"): set,
    ("__builtin__", "frozenset"): frozenset,
}

# What the unpickler itself raises on bytes that are no pickle: its documentation promises
# UnpicklingError and names the others as possible.
_MALFORMED = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    TypeError,
    ValueError,
)


class _PlainUnpickler(pickle.Unpickler):
    """An unpickler that knows no class and no function but two containers."""

    def find_class(self, module_name: str, global_name: str, /) -> type:
        """Return a plain container, or refuse.

        Raises:
            DataError: For every other global.
        """
        plain = _PLAIN_GLOBALS.get((module_name, global_name))
        if plain is None:
            raise DataError(
                f"A pickle asks for {module_name}.{global_name}, which is refused: it could run code.",
                "Only plain data is read from pickles; download the file again from its authors.",
            )
        return plain


def load_plain_pickle(path: Path) -> object:
    """Load a pickle that holds builtin data only.

    Raises:
        DataError: If the file is missing, is no pickle, or names any class or function; the message has the
            name.
    """
    try:
        with path.open("rb") as stream:
            return _PlainUnpickler(stream, encoding="utf-8").load()
    except DataError as error:
        raise DataError(f"{path}: {error.problem}", error.hint) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.", "Check the folder given.") from error
    except _MALFORMED as error:
        raise DataError(f"{path} is not a readable pickle: {error}.", "Download the file again.") from error
