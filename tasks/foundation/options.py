"""What many commands share: `--quiet`, `--json`, and groups whose help says all of what each command does."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from medbench.tasks.foundation.console import Hushed, emit, heard_by
from medbench.tasks.foundation.errors import UsageError, unknown_name
from medbench.tasks.foundation.files import canonical_json, finite

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)
JSON_SCHEMA = 1
_JSON = "medbench.json"
json_option: Callable[[Command], Command] = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else: docs/json.md."
)


def _hush(context: click.Context, _: click.Parameter, given: object) -> None:
    if given:
        context.with_resource(heard_by(Hushed()))


quiet_option: Callable[[Command], Command] = click.option(
    "-q", "--quiet", is_flag=True, expose_value=False, callback=_hush, help="Say only results, warnings and errors."
)


def format_option(forms: Sequence[str], default: str) -> Callable[[Command], Command]:
    """Return what adds `--format`, and `--json` as a short word for one of its values."""

    def chosen(context: click.Context, option: click.Parameter, given: str) -> str:
        if not context.meta.get(_JSON):
            return given
        if given != "json" and context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE:
            raise UsageError(f"--format {given} and --json exclude each other.", "Leave out one of them.")
        return "json"

    def add(command: Command) -> Command:
        json = click.option(
            "--json", is_flag=True, is_eager=True, expose_value=False, help="The same as --format json: docs/json.md.",
            callback=lambda context, _, given: context.meta.update({_JSON: given}),
        )  # fmt: skip
        form = click.option(
            "--format", "form", type=click.Choice(forms), default=default, show_default=True, callback=chosen
        )
        return form(json(command))

    return add


def emit_json(command: str, document: Mapping[str, object]) -> None:
    """Write what a command found as JSON to standard output; a number that JSON does not have becomes null."""
    about = {"command": command, "schema": JSON_SCHEMA}
    emit(canonical_json(finite({**about, **document}), indent=2))


def quietable(command: click.Command) -> click.Command:
    """Return a command with `--quiet`, and those below it too."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            quietable(below)
    elif not any(option.name == "quiet" for option in command.params):
        quiet_option(command)
    return command


class NamedGroup(click.Group):
    """Lists its commands in their order, each with its whole first sentence; guesses what a mistyped name meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were added."""
        del ctx
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; UsageError with the closest names if there is none."""
        if cmd_name not in self.list_commands(ctx):
            raise unknown_name(f"command of `{ctx.command_path}`", cmd_name, self.list_commands(ctx))
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what each command does, as long as it is."""
        with formatter.section("Commands"):
            found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
            formatter.write_dl([(name, one.get_short_help_str(limit=200)) for name, one in found if one])
