"""Options of the command line that several commands have."""

from collections.abc import Sequence

import click

from medbench.tasks.foundation.errors import UsageError


def as_table(_: click.Context, option: click.Parameter, given: Sequence[str]) -> dict[str, str] | None:
    """Return repeated `NAME=VALUE` as a table, or None if there are none; a callback of click.

    Raises:
        UsageError: If one has no `=`, or a name comes twice.
    """
    table: dict[str, str] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"{option.opts[0]} {pair} is no pair.", f"Write {option.opts[0]} NAME=VALUE.")
        if name in table:
            raise UsageError(f"{option.opts[0]} {name} was given twice.", "Give it once.")
        table[name] = value
    return table or None


def as_limits(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, int] | None:
    """Return `--max-new-tokens` as a table, or None if it was not given; a callback of click.

    Raises:
        UsageError: If it has another form.
    """
    from medbench.harness.limits import read_limits

    return read_limits(given) if given else None
