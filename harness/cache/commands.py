"""The commands `medbench cache ls`, `verify` and `prune`."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from medbench.harness.cache.store import Store
from medbench.harness.settings import AUTO, answers_home
from medbench.tasks.foundation.console import emit_table, say
from medbench.tasks.foundation.errors import EXIT_FAILED, DataError, UsageError
from medbench.tasks.foundation.options import NamedGroup, emit_json, json_option

Command = TypeVar("Command", bound=Callable[..., Any])
_MEGABYTE = 2**20


def _options(command: Command) -> Command:
    """Add the options that all of these commands have."""
    folder = click.option(
        "--cache", "folder", default=AUTO, show_default=True, metavar="DIR|auto", help="As of `medbench run`."
    )
    return folder(json_option(command))


def _store(folder: str) -> Store:
    """Return a cache that is there; DataError otherwise: nothing is made by looking."""
    store = Store(answers_home() if folder == AUTO else Path(folder))
    if not store.path.is_file():
        raise DataError(f"There is no cache of answers in {store.path.parent}.", "`medbench run --cache` makes one.")
    return store


@click.group("cache", cls=NamedGroup)
def cache_group() -> None:
    """See, check and prune the answers that runs keep for one another (`medbench run --cache`).

    \b
    Example:  medbench cache ls
              medbench cache prune --older-than 30
    """


@cache_group.command("ls")
@_options
def ls_command(folder: str, as_json: bool) -> None:
    """List what the cache holds, by model.

    \b
    Example:  medbench cache ls
    """
    store = _store(folder)
    held = store.held()
    if as_json:
        emit_json("cache ls", {"file": str(store.path), "models": [asdict(one) for one in held]})
        return
    rows = [
        [one.model, f"{one.answers:,}", f"{one.size / _MEGABYTE:,.1f}", _day(one.oldest), _day(one.used)]
        for one in held
    ]
    emit_table(["model, weights", "answers", "MiB", "used longest ago", "used last"], rows, title=str(store.path))


@cache_group.command("verify")
@_options
def verify_command(folder: str, as_json: bool) -> int:
    """Read the whole cache: is every answer what was written? One that is damaged is set aside.

    \b
    Example:  medbench cache verify
    """
    store = _store(folder)
    sound = store.verify()
    aside = [str(path) for path in store.set_aside]
    if as_json:
        emit_json("cache verify", {"file": str(store.path), "sound": sound, "set_aside": aside})
    elif not aside:
        say(f"All {sound:,} answers in {store.path} are as they were written.")
    return EXIT_FAILED if aside else 0


@cache_group.command("prune")
@click.option("--older-than", "days", type=click.FloatRange(min=0), metavar="DAYS", help="Not used for so long.")
@click.option("--model", metavar="NAME", help="Of one model, as `ls` calls it; a pattern: 'openai:*'.")
@click.option(
    "--to", "megabytes", type=click.IntRange(min=0), metavar="MIB", help="Used longest ago, until this is left."
)
@_options
def prune_command(
    days: float | None, model: str | None, megabytes: int | None, folder: str, as_json: bool
) -> None:  # fmt: skip
    """Remove answers from the cache.

    \b
    Example:  medbench cache prune --older-than 30 --model 'hf:*'
              medbench cache prune --to 500
    """
    if days is None and model is None and megabytes is None:
        problem = "Nothing says what to remove."
        raise UsageError(problem, "Give --older-than DAYS, --model NAME or --to MIB; --to 0 removes all.")
    store = _store(folder)
    removed = store.prune(most_bytes=None if megabytes is None else megabytes * _MEGABYTE, days=days, model=model)
    left = sum(one.answers for one in store.held())
    if as_json:
        emit_json("cache prune", {"file": str(store.path), "removed": removed, "left": left})
        return
    say(f"{removed:,} answers were removed from {store.path}; {left:,} are left.")


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    except (ValueError, OverflowError, OSError):
        # No hash watches over it.
        return "?"
