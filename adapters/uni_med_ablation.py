"""The paper's ablations for the rooms above: which trainings a table takes, and what each would cost."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from medbench.tasks.foundation.files import fingerprint, read_numbered_json_lines

if TYPE_CHECKING:
    from medbench.unimed.training.recipe import Recipe

TABLES = ("2a", "2b", "2c", "2d", "2e", "5")
_LETTERS = 12
_STEPS_MEASURED, _STEPS_OF_A_LINE = 6, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training; `tower` names the file of the vision tower that it shares with others of its seed, if there is."""

    recipe: "Recipe"
    tower: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """What all rows share: a folder of trainings has one, so that no table stands where another's was."""

    recipe: str  # Its name, or that of the file's own.
    changes: tuple[str, ...]  # Of `--set`.
    steps: int
    samples: int  # Of a step.
    seed: int  # Of the first training of a row; the others have the next ones.
    key: str  # Of the whole recipe and the data.

    @property
    def told(self) -> str:
        """The base in a few words."""
        return " with ".join(filter(None, [self.recipe, ", ".join(self.changes)]))


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPlan:
    """A row of a table: `over` which row its gain is counted, and a training for each seed by its name."""

    table: str
    name: str
    over: str
    trainings: Mapping[str, Training]


def row_plans(
    tables: Sequence[str], rows: Sequence[str], config: str, overrides: Sequence[str], *, data_dir: Path, seeds: int,
    planned: bool = False,
) -> tuple[Base, list[RowPlan]]:  # fmt: skip
    """Return the base, and the wanted rows of tables, all for none wanted, with the recipes of `seeds` trainings each.

    Rows that ask for the same have trainings of the same name. UsageError if a recipe cannot be followed, or there is
    no such row; DataError if a task is not prepared. One that is only `planned` need not name its base weights.
    """
    from medbench.tasks.prepared import load_prepared
    from medbench.unimed.ablation import rows as paper

    base = paper.base_recipe(config, overrides, planned=planned)
    data = {name: load_prepared(data_dir, name).manifest.data_fingerprint for name in base.tasks()}

    def trainings(row: paper.Row) -> dict[str, Training]:
        key, found = paper.key_of(paper.recipe_of_row(base, row, base.seed), data), {}
        for seed in range(base.seed, base.seed + seeds):
            recipe = paper.recipe_of_row(base, row, seed)
            found[f"{key}-seed{seed}"] = Training(recipe=recipe, tower=_tower_of(recipe, data))
        return found

    shared = Base(
        recipe=base.name, changes=tuple(overrides), steps=base.steps, samples=base.micro_batch * base.micro_batches,
        seed=base.seed, key=fingerprint({"recipe": base.table(), "data": data})[:_LETTERS],
    )  # fmt: skip
    return shared, [
        RowPlan(table=table, name=name, over=row.over, trainings=trainings(row))
        for table, name, row in paper.chosen_rows(tables, rows)
    ]


def cost_of(recipe: "Recipe") -> tuple[int, int, str]:
    """Return trained parameters, bytes of memory and whose sizes these are, without loading a weight.

    UsageError if there is no such model.
    """
    from medbench.unimed.training.plan import needs_of

    return needs_of(recipe)


def _tower_of(recipe: "Recipe", data: Mapping[str, str]) -> str:
    """Return the name of a tower that is trained here: by all that decides it, and nothing that rows differ in."""
    if recipe.vision_stage is None:
        return ""
    table = recipe.table()
    parts = {name: table[name] for name in ("vision_stage", "mixture", "validation", "seed")}
    return f"{fingerprint({**parts, 'vision': recipe.model.vision, 'data': dict(data)})[:_LETTERS]}.safetensors"


def seconds_per_step(log: Path) -> float | None:
    """Return how long a step took by a training's log, None if it does not say."""
    if not log.is_file():
        return None
    # Of a training that was killed the last line may be half a line.
    records = [one for _, one in read_numbered_json_lines(log, torn_tail="drop")]
    told = [(one["step"], one["elapsed_seconds"]) for one in records if one["stage"] == "language"]
    # Where a training went on after a stop, the clock began anew.
    pairs = [(after - before, end - start) for (before, start), (after, end) in pairwise(told)]
    steps, seconds = (sum(pair[place] for pair in pairs if pair[1] > 0) for place in (0, 1))
    return seconds / steps if steps else None


def measured_step(recipe: "Recipe", data_dir: Path) -> float | None:
    """Return the seconds of a step, by taking a few in a folder that is removed; raises like a training."""
    from medbench.unimed.training.loop import train

    few = replace(
        recipe, steps=_STEPS_MEASURED, log_every=_STEPS_OF_A_LINE, schedule=replace(recipe.schedule, warmup_steps=0),
        validation=replace(recipe.validation, answers=0),
        vision_stage=recipe.vision_stage and replace(recipe.vision_stage, steps=1),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        return seconds_per_step(train(few, data_dir, Path(folder) / "few") / "train_log.jsonl")
