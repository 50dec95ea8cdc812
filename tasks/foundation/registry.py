"""A lazy table of names, open to third parties through entry points."""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Any, Generic, TypeVar, cast

from medbench.tasks.foundation.errors import MedbenchError, UsageError, described, unknown_name

T = TypeVar("T")


imported: Callable[[str], Any] = resolve_name  # Imports and returns what `module:attribute` names.


def imported_when_called(path: str) -> Callable[..., Any]:
    """Return a function that calls what `module:attribute` names; until then nothing of it is imported."""

    def call(*given: object, **named: object) -> Any:  # noqa: ANN401 - whatever the function returns
        return imported(path)(*given, **named)

    return call


class Registry(Generic[T]):
    """Names that stand for objects in modules nobody has imported yet.

    `builtin` maps names to `"module:attribute"` or to the entry itself; other distributions add names through the
    entry-point `group`. Every entry must be of the type `expected`; `kind` is the word for one in messages.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str | T], group: str, expected: type[T]) -> None:
        self._kind, self._group, self._expected = kind, group, expected
        self._builtin = dict(builtin)

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self._group):
            if entry.name in self._builtin or entry.name in found:
                owner = entry.dist.name if entry.dist else "an unnamed distribution"
                hint = f"Uninstall {owner}, or ask its authors for another name in the group {self._group!r}."
                raise UsageError(f"The {self._kind} {entry.name!r} of {owner} has a name that is already taken.", hint)
            found[entry.name] = entry
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._builtin
        yield from sorted(self._plugins)

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._plugins

    def load(self, name: str) -> T:
        """Import and return the entry called `name`.

        Raises UsageError if there is no such name, with the closest ones; MedbenchError if a plugin cannot be imported.
        """
        if name in self._builtin:
            entry = self._builtin[name]
            return cast("T", imported(entry)) if isinstance(entry, str) else entry
        if name not in self._plugins:
            raise unknown_name(self._kind, name, self)
        plugin, whose = self._plugins[name], f"The {self._kind} {name!r} of {self.origin(name)}"
        hint = "Reinstall or uninstall the distribution that brings it."
        try:
            loaded: object = plugin.load()
        except Exception as error:
            raise MedbenchError(f"{whose} cannot be imported: {described(error, _file_of(plugin))}.", hint) from error
        if not isinstance(loaded, self._expected):
            wanted = f"{self._expected.__module__}.{self._expected.__qualname__}"
            raise MedbenchError(f"{whose} is a {type(loaded).__name__}, not a {wanted}.", hint)
        return loaded

    def origin(self, name: str) -> str:
        """Return the distribution and the entry point that brought a name; empty for our own and unknown ones."""
        entry = self._plugins.get(name)
        owner = f"{entry.dist.name} {entry.dist.version}" if entry and entry.dist else "an unnamed distribution"
        return f"{owner} ({entry.value})" if entry is not None else ""

    def module_of(self, name: str) -> str:
        """Return the module of a plugin; empty for our own and unknown names."""
        return self._plugins[name].module if name in self._plugins else ""


def _file_of(entry: EntryPoint) -> str:
    """Return the file of a plugin's module, also where it failed to import and so is not among the imported ones."""
    try:
        spec = getattr(sys.modules.get(entry.module), "__spec__", None) or find_spec(entry.module)
    except (ImportError, ValueError):
        return ""
    return (spec.origin if spec else None) or ""
