"""The command group `medbench audit`: a lazy table from questions to the modules that answer them."""

from importlib import import_module

import click

from medbench.tasks.foundation.errors import unknown_name

QUESTIONS = {
    "model": (
        "medbench.leaderboard.audit.model_command:model_command",
        "Did a model's outputs repeat test references?",
    ),
    "selftest": (
        "medbench.leaderboard.audit.selftest_command:selftest_command",
        "Is a planted leak found in your own predictions, and a shuffled control not?",
    ),
    "data": ("medbench.leaderboard.audit.data_command:data_command", "Do test and training data overlap?"),
    "probe": (
        "medbench.leaderboard.audit.probe_command:probe_command",
        "What do answers rest on? A run beside one that asked in another way.",
    ),
    "provenance": (
        "medbench.leaderboard.audit.provenance_command:provenance_command",
        "Do a model's declared training data contain test items?",
    ),
}


class QuestionGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the questions in the order of the table."""
        del ctx
        return list(QUESTIONS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command."""
        del ctx
        if cmd_name not in QUESTIONS:
            raise unknown_name("audit", cmd_name, QUESTIONS)
        module, _, attribute = QUESTIONS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table without importing anything."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in QUESTIONS.items()])


@click.group("audit", cls=QuestionGroup)
def audit_group() -> None:
    """Look for leaks, with evidence: in outputs, in data, in what was declared.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 could not check.

    \b
    Example:  medbench audit model runs/uni-med-mini-*
              medbench audit data --task slake-vqa --data-dir data
    """
