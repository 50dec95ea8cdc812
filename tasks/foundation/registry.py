"""A lazy table of names, open to third parties through entry points."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from tasks.foundation.errors import MedbenchError, UsageError, unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Names that stand for objects in modules nobody has imported yet.

    Args:
        kind: The word for one entry in messages, such as `task`.
        builtin: Name to `"module:attribute"`.
        group: The entry-point group through which other distributions add names.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str) -> None:
        self._kind = kind
        self._builtin = dict(builtin)
        self._group = group

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self._group):
            owner = entry.dist.name if entry.dist else "an unnamed distribution"
            if entry.name in self._builtin or entry.name in found:
                raise UsageError(
                    f"The {self._kind} {entry.name!r} of {owner} has a name that is already taken.",
                    f"Uninstall {owner}, or ask its authors for another name in the group {self._group!r}.",
                )
            found[entry.name] = entry
        return found

    def __iter__(self) -> Iterator[str]:
        yield from self._builtin
        yield from sorted(self._plugins)

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._plugins

    def load(self, name: str) -> T:
        """Import and return the entry called `name`.

        Raises:
            UsageError: If there is no such name; the message has the closest ones.
            MedbenchError: If a plugin cannot be imported.
        """
        if name in self._builtin:
            module, _, attribute = self._builtin[name].partition(":")
            return cast("T", getattr(import_module(module), attribute))
        if name not in self._plugins:
            raise unknown_name(self._kind, name, self)
        return self._load_plugin(self._plugins[name])

    def _load_plugin(self, entry: EntryPoint) -> T:
        try:
            return cast("T", entry.load())
        except Exception as error:
            raise MedbenchError(
                f"The {self._kind} {entry.name!r} ({entry.value}) cannot be imported: {error!r}.",
                "Reinstall or uninstall the distribution that brings it.",
            ) from error
