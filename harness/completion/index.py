"""The command `medbench completion`, and its index: commands, options, models, arguments and tasks as plain values."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import click

from medbench.adapters.catalog import ADAPTERS
from medbench.harness.cli import cli
from medbench.harness.completion.answers import FILES, FOLDERS, index_file, key
from medbench.tasks.catalog import PREPARED, get_task, task_names
from medbench.tasks.foundation.console import emit
from medbench.tasks.foundation.errors import MedbenchError, RunError
from medbench.tasks.foundation.files import write_atomically
from medbench.tasks.spec import Kind

# What words are completed to, by the names of options and arguments.
_NAMED = {
    **dict.fromkeys(("tasks", "task"), "tasks"), **dict.fromkeys(("named", "model", "name"), "models"),
    "model_args": "arguments",
}  # fmt: skip
_RUNS = frozenset({"runs", "run", "run_a", "run_b", "baseline", "probed", "peers", "more_peers"})
_FOLDERS = frozenset({"data_dir", "output_dir", "checkpoint", "checkpoints", "lora", "cache", "folder"})


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print the script that completes commands, options, models, tasks, arguments and run folders in a shell.

    \b
    Example:  source <(medbench completion bash)
              medbench completion bash > ~/.local/share/bash-completion/completions/medbench
              medbench completion zsh > ~/.zfunc/_medbench
              medbench completion fish > ~/.config/fish/completions/medbench.fish
    """
    # Made here, so that the first tab need not.
    write_index()
    emit(Path(__file__).with_name(f"medbench.{shell}").read_text(encoding="utf-8"))


def write_index() -> Mapping[str, Any]:
    """Return the index of this installation, and keep it for the next tab where that can be done."""
    found = {"key": key(), **made()}
    with suppress(RunError):
        write_atomically(index_file(), json.dumps(found))
    return found


def made() -> dict[str, Any]:
    """Return all that can be completed.

    `groups`: by the words of a group its commands and what each does. `options` and `arguments`: by the words of a
    command. `values` are a list of words, the kind of what is named, or None. `models` and `tasks` are by name.
    """
    found: dict[str, Any] = {"groups": {}, "options": {}, "arguments": {}}
    for path, command, context in _commands(cli, click.Context(cli, info_name="medbench"), ""):
        if isinstance(command, click.Group):
            named = ((name, command.get_command(context, name)) for name in command.list_commands(context))
            found["groups"][path] = {name: one.get_short_help_str(limit=100) for name, one in named if one}
        found["options"][path] = {
            word: option for one in command.get_params(context) if isinstance(one, click.Option)
            for option in [_option(one)] for word in (*one.opts, *one.secondary_opts)
        }  # fmt: skip
        own = [one for one in command.params if isinstance(one, click.Argument)]
        found["arguments"][path] = _values(own[0]) if own else None
    return {**found, "models": {name: _model(name) for name in ADAPTERS}, "tasks": _task_words()}


def _commands(
    command: click.Command, context: click.Context, path: str
) -> Iterator[tuple[str, click.Command, click.Context]]:
    yield path, command, context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            if (below := command.get_command(context, name)) is not None:
                inside = click.Context(below, info_name=name, parent=context)
                yield from _commands(below, inside, f"{path} {name}".strip())


def _option(option: click.Option) -> dict[str, Any]:
    flag = option.is_flag or option.count
    return {
        "name": option.name, "help": option.help or "", "multiple": option.multiple,
        # What may stand without a value is not waited for.
        "takes": 0 if flag or getattr(option, "_flag_needs_value", False) else option.nargs,
        "values": None if flag else _values(option),
    }  # fmt: skip


def _values(parameter: click.Parameter) -> object:
    name, kind = parameter.name or "", parameter.type
    if isinstance(kind, click.Choice):
        return [str(choice) for choice in kind.choices]
    if name == "device":
        return re.findall(r"\b[a-z]+\b", parameter.metavar or "")
    if isinstance(kind, click.Path | click.Tuple):
        if name in _RUNS and parameter.metavar != "RUNS_FOLDER":
            return "runs"
        return FOLDERS if name in _FOLDERS or not getattr(kind, "file_okay", True) else FILES
    return FOLDERS if name in _FOLDERS else _NAMED.get(name)


def _model(name: str) -> dict[str, Any]:
    try:
        entry = ADAPTERS.load(name)
    except MedbenchError:
        # `medbench models` says what is wrong with a broken plugin.
        return {"title": "", "variants": {}, "arguments": {}}
    arguments = {word: {"help": one.help, "allowed": list(one.choices)} for word, one in entry.arguments.items()}
    return {"title": entry.card.title, "variants": dict(entry.variants), "arguments": arguments}


def _task_words() -> dict[str, str]:
    kinds = dict.fromkeys(get_args(Kind), "all tasks of this kind")
    words = {"all": "all tasks", PREPARED: "what is prepared in --data-dir", **kinds}
    return {**{name: get_task(name).title for name in task_names()}, **words}
