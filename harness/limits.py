"""How long an answer may be, where the user says so: `--max-new-tokens 512`, or `report=512,vqa=2048`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from medbench.tasks.catalog import select_tasks
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.spec import Kind, TaskSpec

EVERY_TASK = "all"


def read_limits(given: Sequence[str]) -> dict[str, int]:
    """Return the limits in the words of the command line, by name, kind or pattern of tasks.

    Raises:
        UsageError: If a word is neither a number nor `TASK=NUMBER`, or a task is named twice.
    """
    limits: dict[str, int] = {}
    for word in ",".join(given).split(","):
        task, equals, number = word.strip().rpartition("=")
        task = task.strip() if equals else EVERY_TASK
        if not task or not number.strip().isdecimal() or not int(number):
            raise UsageError(
                f"--max-new-tokens {word.strip() or '(nothing)'} is no number of tokens.",
                "Write --max-new-tokens 512, or for some tasks --max-new-tokens report=512,vqa=2048.",
            )
        if task in limits:
            raise UsageError(f"--max-new-tokens names {task} twice.", "Give one number for it.")
        limits[task] = int(number)
    return limits


def with_limits(specs: Sequence[TaskSpec], limits: Mapping[str, int]) -> tuple[TaskSpec, ...]:
    """Return tasks with the limits that a user chose; the most special word decides: name, kind, pattern, all.

    Raises:
        UsageError: If a word names no task of the run.
    """
    chosen: dict[str, int] = {}
    names = [spec.name for spec in specs]
    for word in sorted(limits, key=_generality, reverse=True):
        # `all` means all of the run, variants too, which a selection by that word leaves out.
        named = names if word == EVERY_TASK else [name for name in select_tasks(word) if name in names]
        if not named:
            raise UsageError(
                f"--max-new-tokens {word}={limits[word]}: no task of this run.", f"It has {', '.join(names)}."
            )
        chosen |= dict.fromkeys(named, limits[word])
    return tuple(
        replace(spec, max_new_tokens=chosen[spec.name], limit_chosen=True) if spec.name in chosen else spec
        for spec in specs
    )


def _generality(word: str) -> int:
    if word == EVERY_TASK:
        return 3
    if word in get_args(Kind):
        return 1
    return 2 if set("*?[") & set(word) else 0
