"""The Python API: run models, score predictions, compare, audit; what comes back fits a notebook and pandas."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from medbench.adapters.base import Adapter
from medbench.adapters.function import name_of
from medbench.harness.finish import REPORT
from medbench.harness.predictions.importing import About, Missing, import_run
from medbench.harness.predictions.rows import Source
from medbench.harness.predictions.scoring import PredictionScores
from medbench.harness.predictions.scoring import score as score_given
from medbench.harness.results import MetricResult, Results, percent, read_results
from medbench.harness.run import run as run_settings
from medbench.harness.settings import Settings
from medbench.leaderboard.audit.document import Audit
from medbench.leaderboard.audit.outputs.audit import audit_answers
from medbench.tasks.foundation.console import Listener, Logged, Terminal
from medbench.tasks.prepared import Prepared
from medbench.tasks.protocols import PROTOCOLS, Protocol
from medbench.tasks.spec import Kind
from medbench.tasks.suite import open_task

if TYPE_CHECKING:
    import pandas as pd

    from medbench.leaderboard.compare import Comparison as Compared

# A library's talk is heard where somebody listens; without this, warnings would go to standard error all the same.
logging.getLogger("medbench").addHandler(logging.NullHandler())

Predictions: TypeAlias = "str | Path | Iterable[Mapping[str, Any]] | pd.DataFrame"
_COUNTED = ("n", "errors", "unparsed", "refused", "truncated", "empty", "signature")
_SHOWN = ["protocol", "task", "metric", "value, % [95 %]", "n"]


class _Shown:
    """A result that a notebook shows as a page; `_repr_markdown_` is its text."""

    def _repr_markdown_(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        from medbench.leaderboard.render import markdown_as_html

        return markdown_as_html(self._repr_markdown_())


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Run(_Shown):
    """A finished run, as its folder holds it."""

    path: Path  # With `results.json`, `leaderboard.md`, `report.html`, `scores/`, `generations/`, `audit/`.
    results: Results  # The numbers, with everything that is needed to read them.

    @property
    def model(self) -> str:
        """Title of the model."""
        return self.results.title

    @property
    def report(self) -> Path:
        """The page to look at in a browser: every sample, what the model said, and what it scored."""
        return self.path / REPORT

    def to_pandas(self, table: Literal["numbers", "samples"] = "numbers") -> "pd.DataFrame":
        """Return one long table of the run.

        Args:
            table: `numbers` has a row for each task, protocol and metric: `value` with its 95 % interval from `low` to
                `high` (fractions), `n` samples, states, signature. `samples` has a row for each sample, protocol and
                metric: `score` (a fraction; NaN where nothing was scored), `state`, `prediction`, `cluster`, labels.

        Raises:
            MedbenchError: If a file of the folder is missing or was damaged.
        """
        from medbench.leaderboard import numbers, samples

        return samples.read(self.path) if table == "samples" else numbers.read([self.path])

    def _repr_markdown_(self) -> str:
        tasks = self.results.tasks.values()
        found = ((protocol, task.title, task.metrics(protocol)) for protocol in PROTOCOLS for task in tasks)
        return _page(f"{self.model} on {', '.join(task.title for task in tasks)}", found, self.results.notices)

    def __repr__(self) -> str:
        return f"<Run of {self.model} on {', '.join(self.results.tasks)}, in {self.path}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Scores(_Shown):
    """What both protocols make of somebody's predictions."""

    found: PredictionScores  # The numbers by protocol and metric, and how many predictions are in which state.

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row for each protocol and metric: `value` and its 95 % interval from `low` to `high`, fractions."""
        import pandas as pd

        rows = [
            {
                "task": self.found.task, "protocol": protocol, "metric": metric, "value": one.value,
                "low": one.ci and one.ci[0], "high": one.ci and one.ci[1],
                **{name: getattr(one, name) for name in _COUNTED},
            }
            for protocol, metrics in self.found.protocols.items() for metric, one in metrics.items()
        ]  # fmt: skip
        return pd.DataFrame(rows)

    def _repr_markdown_(self) -> str:
        found = ((protocol, self.found.task, metrics) for protocol, metrics in self.found.protocols.items())
        states = ", ".join(f"{count} {state}" for state, count in self.found.states.items() if count)
        return _page(f"{self.found.samples} predictions of {self.found.task}", found, [f"States: {states}."])

    def __repr__(self) -> str:
        return f"<Scores of {self.found.samples} predictions of {self.found.task}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison(_Shown):
    """What separates two runs, sample by sample."""

    found: "Compared"  # All of it: names, what changed, what could not be compared.

    def to_pandas(self) -> "pd.DataFrame":
        """Return a row for each metric of each task.

        The values of the `first` and the `second` run on the samples that both scored, their `difference` with its 95 %
        interval from `low` to `high` (fractions), `p`, for the metric that decides a task `p_adjusted` (Holm) and the
        `verdict` on the first run, `detectable` (the smallest difference that these data would show), `samples`.
        """
        return self.found.rows.copy()

    def _repr_markdown_(self) -> str:
        from medbench.leaderboard.pages import comparison_as_markdown

        return comparison_as_markdown(self.found)

    def __repr__(self) -> str:
        return f"<Comparison of {self.found.names[0]} with {self.found.names[1]}, {self.found.protocol} protocol>"


def run(
    model: str | Adapter | Callable[..., str], tasks: str | Sequence[str] | None = None, *, name: str = "",
    limit: int | None = None, data_dir: str | Path | None = None, output_dir: str | Path = "runs", boxes: str = "",
    overwrite: bool = False, progress: bool | Listener = True, **settings: Any,
) -> Run:  # fmt: skip
    """Run a model over tasks, or go on with what an interrupted run left; the same call on a finished run reads it.

    Args:
        model: A name (`medbench models` lists them: `"uni-med"`, `"hf:org/model"`, `"openai:name@url"`), an adapter
            that is loaded, or a function. A function is given what its parameters name: `prompt` (a text), `images` (a
            list of RGB images of PIL, empty for texts), `sample`, `spec`; it returns the text of the answer.
        tasks: Names, kinds or globs. By default all tasks that are prepared in `data_dir`, or all of the mini suite.
        name: Of a function, in tables; by default its own.
        limit: Only the first so many test samples of each task.
        data_dir: Folder of prepared tasks; by default the bundled mini suite.
        output_dir: Where the folder of the run is made.
        boxes: How a function writes boxes: `pixels` by default, else as in `medbench score --boxes`.
        overwrite: Whether to start afresh where there is such a run.
        progress: True for a progress bar, False to send all talk to the logger `medbench`, or an object that listens.
        settings: Everything else that `medbench run` takes, e.g. `checkpoint`, `dtype`, `lora`,
            `max_new_tokens={"vqa": 4096}`, `model_args={"system": "..."}`.

    Raises:
        MedbenchError: If something given is wrong, or the machine failed; what was answered is on disk.
    """
    own = None if isinstance(model, str) else model
    chosen = (["prepared"] if data_dir is not None else ["all"]) if tasks is None else tasks
    given = {
        "model": model if isinstance(model, str) else name or name_of(model),
        "tasks": (chosen,) if isinstance(chosen, str) else tuple(chosen),
        "limit": limit, "data_dir": data_dir, "output_dir": output_dir, **settings,
    }  # fmt: skip
    listener = (Terminal() if progress else Logged()) if isinstance(progress, bool) else progress
    again = "always" if overwrite else "never"
    outcome = run_settings(Settings(**given), adapter=own, boxes=boxes, overwrite=again, listener=listener)
    return Run(path=outcome.path, results=outcome.results)


def load_run(path: str | Path) -> Run:
    """Return a run from its folder.

    Raises:
        MedbenchError: If the folder is no finished run; the message says what to do.
    """
    return Run(path=Path(path), results=read_results(Path(path)))


def score(task: str, predictions: Predictions, *, boxes: str = "", source: str = "", **more: Any) -> Scores:
    """Score anybody's predictions of a task, under both protocols.

    Args:
        task: Its name.
        predictions: A list of objects or a DataFrame with `prediction` and `reference` (for boxes `box` and
            `image_size` in pixels), and optionally `sample_id`, `group`, `answer_type`, `choices`; or a file.
        boxes: How the model writes boxes, as in `medbench score --boxes`.
        source: Format of a file, as in `medbench score --from`; by default seen by the file.
        more: `references`, a file of the right answers where the format has none; `columns`, names of a table's columns
            by ours; `protocols`.

    Raises:
        MedbenchError: If there is no such task, or a prediction is malformed; the message names it.
    """
    given = predictions if isinstance(predictions, str | Path) else _rows(predictions)
    return Scores(found=score_given(task, given, source=source, boxes=boxes, **more))


def import_predictions(
    name: str, files: Mapping[str, str | Path | Source], *, data_dir: str | Path | None = None,
    output_dir: str | Path = "runs", boxes: str = "", missing: Missing = "error", overwrite: bool = False,
    **about: Any,
) -> Run:  # fmt: skip
    """Make a run of anybody's predictions, as `medbench import` does; the same call on a finished run reads it.

    Args:
        name: The model's, in tables.
        files: By task the file of its predictions, or a `Source`: `path`, `form` (its format), `references` (a file of
            the right answers) and `columns` (names of its columns by ours).
        data_dir: Folder of prepared tasks; by default the mini suite, if it has all of them, else the files alone.
        output_dir: Where the folder of the run is made.
        boxes: How the model writes boxes, as in `medbench score --boxes`.
        missing: What samples without a prediction are, `error` (failures) or `wrong` (answers).
        overwrite: Whether to start afresh where there is such a run.
        about: What is known of the model: `trained_on` (names of tasks), `parameters`, `released`, `open_weights`.

    Raises:
        MedbenchError: If a file cannot be read or matched; the message names file and row.
    """
    given = {task: file if isinstance(file, Source) else Source(path=Path(file)) for task, file in files.items()}
    outcome = import_run(
        About(name=name, **about), given, data_dir=None if data_dir is None else Path(data_dir), missing=missing,
        output_dir=Path(output_dir), boxes=boxes, overwrite="always" if overwrite else "never",
    )  # fmt: skip
    return Run(path=outcome.path, results=outcome.results)


def compare(first: Run | str | Path, second: Run | str | Path, *, protocol: Protocol = "strict",
            tasks: str | None = None) -> Comparison:  # fmt: skip
    """Compare two runs on the samples that both scored; a difference is the first minus the second.

    Args:
        first: A run, or its folder.
        second: Another one.
        protocol: Whose definitions.
        tasks: Names, kinds or globs with commas between; by default all that both have.

    Raises:
        MedbenchError: If they answered different data, or share no task.
    """
    from medbench.leaderboard.compare import compare_runs

    return Comparison(found=compare_runs(_folder(first), _folder(second), protocol=protocol, tasks=tasks))


def audit(given: "Run | Predictions", kind: Kind | None = None, **options: Any) -> Audit:
    """Look for evidence that a model has seen the test split: does it repeat references that no question gives away?

    Args:
        given: A run or its folder, or predictions: rows or a JSON-lines file with `sample_id`, `group`, `prediction`
            and `reference`.
        kind: What the predictions answer (`report` by default); a run knows it.
        options: `peers` (runs or predictions of other models on the same samples, which show what anybody would say),
            `train_references` (of predictions) and others of `medbench audit model`.

    Raises:
        MedbenchError: If the folder is no finished run, or a file is broken.
    """
    if isinstance(given, Run):
        return audit_answers(given.path, kind, **options)
    return audit_answers(Path(given) if isinstance(given, str | Path) else _rows(given), kind, **options)


def task(name: str, data_dir: str | Path | None = None) -> Prepared:
    """Return a task's prepared data.

    `.samples("test")` are its samples, `.images(sample)` the RGB images of one, `.spec` what is asked and how.

    Args:
        name: Name of the task.
        data_dir: Folder of prepared tasks; by default the bundled mini suite.

    Raises:
        MedbenchError: If there is no such task, or it is not prepared there.
    """
    return open_task(name, None if data_dir is None else Path(data_dir))


def _folder(run: Run | str | Path) -> Path:
    return run.path if isinstance(run, Run) else Path(run)


def _rows(given: "Iterable[Mapping[str, Any]] | pd.DataFrame") -> list[Mapping[str, Any]]:
    """Return the rows of a DataFrame without its missing cells, or the objects of any other collection."""
    import pandas as pd

    if not isinstance(given, pd.DataFrame):
        return list(given)
    there = given.astype(object).where(given.notna(), None)
    return [
        {str(name): value for name, value in row.items() if value is not None or name == "prediction"}
        for row in there.to_dict("records")
    ]


def _page(title: str, found: Iterable[tuple[str, str, Mapping[str, MetricResult]]], notes: Iterable[str]) -> str:
    from medbench.leaderboard.render import markdown_table, markdown_text

    rows = [
        [markdown_text(cell) for cell in (protocol, task, metric, percent(one), str(one.n))]
        for protocol, task, metrics in found
        for metric, one in metrics.items()
    ]
    return "\n\n".join([f"**{markdown_text(title)}**", markdown_table(_SHOWN, rows), *map(markdown_text, notes)]) + "\n"
