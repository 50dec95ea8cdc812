"""The door: a lazy table from command names to the rooms that bring them. Imports no room but the ground floor."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

import click

from medbench.tasks.foundation import errors
from medbench.tasks.foundation.console import each_warning_once, say, show_error
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.last_resort import explained
from medbench.tasks.foundation.options import quiet_option, quietable
from medbench.tasks.foundation.registry import imported
from medbench.tasks.foundation.streams import guard_streams

COMMANDS = {
    "run": ("harness.commands:run_command", "Run a model over tasks and write a leaderboard."),
    "merge": ("harness.commands:merge_command", "Merge the shards of a run, without its model."),
    "score": ("harness.commands:score_command", "Score a run's answers again, or anybody's predictions."),
    "import": ("harness.predictions.commands:import_command", "Make anybody's predictions into a run."),
    "submissions": ("leaderboard.submissions:submissions_command", "Make runs of what was handed in."),
    "leaderboard": ("leaderboard.cli:leaderboard_command", "Put runs side by side in one table."),
    "plot": ("leaderboard.cli:plot_command", "Draw runs for a paper: intervals, radar, heat map, routing, coverage."),
    "report": ("leaderboard.cli:report_command", "Put runs into one HTML file to look through, sample by sample."),
    "breakdown": ("leaderboard.cli:breakdown_command", "Show a run's numbers by the data's own labels."),
    "compare": ("leaderboard.cli:compare_command", "Compare two runs sample by sample."),
    "gate": ("leaderboard.cli:gate_command", "Tell a script whether a run may replace another."),
    "export": ("leaderboard.cli:export_command", "Write a run's results in a format that others read."),
    "push": ("leaderboard.cli:push_command", "Upload a run's results to a dataset repository on the Hub."),
    "site": ("leaderboard.cli:site_command", "Make a folder of runs into a static leaderboard site."),
    "audit": ("leaderboard.audit.cli:audit_group", "Look for leaks: in outputs, in data, in what was declared."),
    "tasks": ("tasks.cli:tasks_command", "List the tasks."),
    "metrics": ("tasks.cli:metrics_command", "List the metrics that can be asked for, or show one."),
    "data": ("tasks.cli:data_group", "List, prepare and verify datasets."),
    "models": ("adapters.cli:models_command", "List the models, or show all that is known of one."),
    "cache": ("harness.cache.commands:cache_group", "See, check and prune the answers that runs keep for one another."),
    "doctor": ("harness.doctor:doctor_group", "Test this installation: what do the scorers say of known models?"),
    "completion": ("harness.completion.index:completion_command", "Complete words by tab in bash, zsh or fish."),
    "ablate": (
        "harness.ablation.commands:ablate_command",
        "Train the rows of the paper's ablations, and make its tables.",
    ),
    "train": ("harness.commands:train_command", "Train Uni-Med, or show what a training would take."),
    "interpret": ("harness.interpret:interpret_command", "Measure how tasks disturb one another in a connector."),
    "probe": ("harness.probing.commands:probe_command", "Find where a model loses what a picture shows."),
    "convert": ("adapters.cli:convert_group", "Convert published weights of a model, and back."),
}


def refuse_repeated(command: click.Command, name: str | None, words: Sequence[str], parent: click.Context) -> None:
    """Refuse what is said twice where only the last word would count, in a command and in those below it.

    Options of one value, switches with an opposite, and `NAME=VALUE` of one name. Raises UsageError if something is.
    """
    context = command.context_class(command, info_name=name, parent=parent)
    try:
        given, rest, order = command.make_parser(context).parse_args(list(words))
    except click.UsageError:
        # What cannot be read at all is told when the command reads it.
        return
    times = Counter(option.name for option in order)
    for option in dict.fromkeys(order):
        if isinstance(option, click.Option):
            _refuse_twice(option, times[option.name], given.get(option.name or ""))
    if isinstance(command, click.Group) and rest:
        below = command.get_command(context, rest[0])
        if below is not None:
            refuse_repeated(below, rest[0], rest[1:], context)


def _refuse_twice(option: click.Option, times: int, values: object) -> None:
    word = option.opts[-1]
    if option.multiple:
        if isinstance(values, Sequence) and "=" in (option.metavar or ""):
            # A value without a name stands for all.
            names = Counter(name if equals else "" for name, equals, _ in (str(one).partition("=") for one in values))
            if twice := [name for name, count in names.items() if count > 1]:
                raise UsageError(f"{word} {twice[0]}".rstrip() + " was given twice.", "Give it once.")
        return
    harmless = option.count or (option.is_flag and not option.secondary_opts and option.is_bool_flag)
    if times > 1 and not harmless:
        raise UsageError(f"{word} was given {times} times, and takes one value.", "Give it once.")


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that `--help` answers at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command, or None for an unknown name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        return quietable(imported(f"medbench.{COMMANDS[cmd_name][0]}"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Resolve a command, with a guess for a mistyped name."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            raise errors.unknown_name("command", args[0], COMMANDS)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None:
            refuse_repeated(command, name, rest, ctx)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing anything."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="medbench")
@quiet_option
def cli() -> None:
    """Compare medical multimodal LLMs honestly and fast.

    \b
    Start here:  medbench run --model uni-med --tasks all
    """


def main() -> NoReturn:
    """Run the command line; end with the exit code that the errors define."""
    # Two of transformers' bars would tear through the progress line; neither touches a result.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    stopping = (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))
    for number in stopping:
        # What runs under nohup, or in the background of a script, is to go on.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    guard_streams(explained, show_error)
    code = answer(sys.argv[1:])
    for number in stopping:
        # All is done; who cannot wait for the threads to end needs no traceback of theirs.
        signal.signal(number, signal.SIG_DFL)
    sys.exit(code)


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop as Ctrl-C does; at the second signal at once, which costs nothing: what is held is the system's."""
    for other in (signal.SIGINT, signal.SIGTERM, number):
        signal.signal(other, lambda *_: os._exit(errors.EXIT_INTERRUPTED))
    signal.default_int_handler(number, frame)


def answer(words: Sequence[str]) -> int:
    """Do what the words of a command line say; explain every error, and return the exit code."""
    try:
        with each_warning_once():
            outcome: Any = cli.main(args=list(words), prog_name="medbench", standalone_mode=False)
    except errors.MedbenchError as error:
        show_error(error)
        return error.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        say(error.format_message())
        return errors.EXIT_USAGE
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        called = " ".join(["medbench", *(word for word in words[:1] if word in COMMANDS)])
        hint = f"See `{context.command_path if context is not None else called} --help`."
        show_error(UsageError(error.format_message(), hint))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        show_error(errors.StoppedError())
        return errors.EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - what nobody foresaw is no traceback on a user's screen either
        told = explained(error)
        show_error(told)
        return told.exit_code
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    main()
