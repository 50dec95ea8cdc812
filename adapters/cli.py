"""The commands `medbench models` and `medbench convert`; of a model both say what its entry and its YAML file say."""

from textwrap import fill
from typing import cast

import click

from medbench.adapters.catalog import ADAPTERS, ChosenModel, choose_model
from medbench.tasks.foundation.console import emit, emit_table, say
from medbench.tasks.foundation.errors import MedbenchError, UsageError
from medbench.tasks.foundation.options import NamedGroup, emit_json, json_option, quietable
from medbench.tasks.foundation.registry import imported

_WIDTH, _INDENT = 110, 16
_UNDECLARED = "not declared here, perhaps by the checkpoint; not known is not the same as none"


@click.command("models")
@click.argument("name", required=False)
@json_option
def models_command(name: str | None, *, as_json: bool) -> None:
    """List the models, or show all that is known of one: NAME, or NAME:VARIANT.

    \b
    Example:  medbench models
              medbench models llava-med
              medbench models hf:google/medgemma-4b-it
    """
    if as_json:
        emit_json("models", {"models": [_known(one) for one in (ADAPTERS if name is None else [name])]})
        return
    if name is None:
        emit("\n\n".join(map(_described, ADAPTERS)))
        say("With the arguments of one: medbench models NAME")
        return
    model = choose_model(name, {})
    emit(describe(model))
    rows = [
        [word, model.arguments[word] or "-", " ".join(argument.choices) or "any", argument.help]
        for word, argument in model.entry.arguments.items()
    ]
    if rows:
        emit_table(["argument", "default", "allowed", "meaning"], rows, title="--model-arg NAME=VALUE")


def _known(name: str) -> dict[str, object]:
    """Return what is known of a model; a plugin that is broken has its `problem` alone."""
    try:
        model = choose_model(name, {})
    except MedbenchError as error:
        if name not in ADAPTERS:
            raise
        return {"model": name, "problem": error.problem}
    entry, card = model.entry, model.entry.card_for(model.variant)
    return {
        "model": name, "title": card.title, "problem": "", "answers": sorted(card.kinds), "weights": card.weights,
        "memory": card.memory, "licence": card.licence,
        "trained_on": None if card.trained_on is None else sorted(card.trained_on),
        "boxes": model.boxes.name if model.boxes else None, "options": sorted(entry.takes),
        "variants": dict(entry.variants),
        "arguments": [
            {"name": word, "default": model.arguments[word], "allowed": list(one.choices), "meaning": one.help}
            for word, one in entry.arguments.items()
        ],
    }  # fmt: skip


def _described(name: str) -> str:
    try:
        return describe(choose_model(name, {}))
    except MedbenchError as error:
        return f"{name}: {error.problem}"


def describe(model: ChosenModel) -> str:
    """Return what is known of a model, a line for each thing."""
    entry, variant = model.entry, model.variant
    card = entry.card_for(variant)
    closed = [f"{name}={'|'.join(one.choices)}" for name, one in entry.arguments.items() if one.choices]
    trained_on = _UNDECLARED if card.trained_on is None else ", ".join(sorted(card.trained_on))
    facts = [
        ("answers", ", ".join(sorted(card.kinds))),
        ("weights", card.weights),
        ("in bfloat16", card.memory),
        ("parameters", "" if card.parameters is None else f"{card.parameters / 1e9:.2g} B"),
        ("released", card.released),
        ("open weights", {True: "yes", False: "no", None: ""}[card.open_weights]),
        ("licence", card.licence),
        ("trained on", trained_on or "none of these tasks"),
        ("boxes", model.boxes.name if model.boxes else "draws none"),
        ("options", " ".join(f"--{option.replace('_', '-')}" for option in sorted(entry.takes))),
        ("choices", ", ".join(closed)),
        ("convert", f"medbench convert {card.name} --help" if entry.converter else ""),
    ]
    if not variant:
        facts += [("variant", f"{card.name}:{word}  {meaning}") for word, meaning in entry.variants.items()]
    title = f"{card.name}{f':{variant}' if variant else ''}  {card.title if card.title != variant else ''}".rstrip()
    lines = (
        fill(value, _WIDTH, initial_indent=f"  {name:<{_INDENT - 2}}", subsequent_indent=" " * _INDENT,
             break_long_words=False, break_on_hyphens=False)
        for name, value in facts if value
    )  # fmt: skip
    return "\n".join([title, *lines])


class ConverterGroup(NamedGroup):
    """A group whose commands the entries of the models name; a converter is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the models that can be converted, in the order of the catalogue."""
        del ctx
        return [name for name in ADAPTERS if _converter(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a converter."""
        path = ADAPTERS.load(cmd_name).converter
        if not path:
            problem = f"{cmd_name} needs no conversion: its weights are read as they were published."
            raise UsageError(problem, f"There are converters for {', '.join(self.list_commands(ctx))}.")
        return quietable(cast("click.Command", imported(path)))


def _converter(name: str) -> str:
    try:
        return ADAPTERS.load(name).converter
    except MedbenchError:
        # A broken plugin must not keep others from being converted; `medbench models` says what is wrong with it.
        return ""


@click.group("convert", cls=ConverterGroup)
def convert_group() -> None:
    """Convert published weights into folders that load fast, and back.

    \b
    Example:  medbench convert radfm DIR --output radfm-bf16
    """
