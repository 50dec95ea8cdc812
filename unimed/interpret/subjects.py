"""A Uni-Med checkpoint as something to measure, and what that takes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.checkpoint import read_config
from medbench.unimed.configuration import UniMedConfig
from medbench.unimed.interpret.choice import Choice, choose_tasks
from medbench.unimed.interpret.gradients import UniMedSource, open_source, recipe_beside
from medbench.unimed.interpret.maps import map_model
from medbench.unimed.interpret.measure import Needs, Subject
from medbench.unimed.interpret.routing import moments_of
from medbench.unimed.training.plan import ANSWER_TOKENS, PROMPT_TOKENS, meta_model, parameters_of

CONFIG = "config.json"
_BYTES = {"fp32": 4, "bf16": 2}


def uni_med(folder: Path, label: str, choice: Choice) -> Subject[UniMedSource]:
    """Return a checkpoint folder; DataError if it is none, UsageError if its tasks cannot be measured."""
    if not (folder / CONFIG).is_file():
        problem = f"{folder} is not a Uni-Med checkpoint: it has no {CONFIG}."
        raise DataError(problem, "Give a folder as `medbench train --output DIR` and `medbench convert` write it.")
    config = read_config(folder)
    recipe = recipe_beside(folder)
    chosen = choose_tasks(choice, recipe.tasks())
    opened: Callable[[], UniMedSource] = partial(open_source, folder, choice, chosen)
    return Subject(
        label=label, draws=recipe.draws, chosen=chosen, needs=_needs(config, choice), open=opened,
        moments=lambda source, kept: moments_of(source, folder, kept),
        maps=lambda count, seed: map_model(
            folder, label, chosen.tasks, choice.data_dir, count=count, seed=seed, device=choice.device
        ),
    )  # fmt: skip


def _needs(config: UniMedConfig, choice: Choice) -> Needs:
    """Return what a model takes: gradients pass through the frozen language model, but are not computed of it."""
    model = meta_model(config)
    connector = sum(one.numel() for one in model.connector.parameters())
    parts = {name: sum(counts) for name, counts in parameters_of(model).items()}
    vision, all_of_it = parts["vision tower"], sum(parts.values())
    language = all_of_it - vision - connector
    images, visual = choice.batch_size, config.visual_tokens
    operations = (
        4 * language * images * (visual + PROMPT_TOKENS + ANSWER_TOKENS)
        + 2 * vision * images * config.grid**2
        + 6 * connector * images * visual
    )
    weights = connector * _BYTES["fp32"] + (all_of_it - connector) * _BYTES[choice.precision]
    return Needs(parameters=connector, weights=weights, operations=float(operations))
