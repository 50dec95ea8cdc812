"""`medbench score`: the numbers of a run made again from its generations, without the model."""

from dataclasses import replace
from pathlib import Path

from medbench.adapters.catalog import choose_model
from medbench.harness.results import Results, read_results, write_results
from medbench.harness.rundir import RunDirectory, read_run
from medbench.harness.score import doubts_about_boxes, score_tasks
from medbench.harness.settings import load_settings
from medbench.harness.summarise import summarise
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.console import warn
from medbench.tasks.foundation.errors import RunError


def rescore(path: Path, data_dir: Path | None) -> Results:
    """Score a run's generations again with today's metrics and write `scores/` and `results.json`.

    Args:
        path: Folder of a run that was finished once.
        data_dir: Where the prepared tasks are now, if not where they were.

    Raises:
        RunError: If the folder is no finished run, or the data are not those of the run.
    """
    before = read_results(path)
    document = read_run(path)
    settings = load_settings(path / "run.yaml", {"data_dir": data_dir})
    workload = load_workload(replace(settings, tasks=tuple(before.tasks), limit=document["identity_of"]["limit"]))
    directory = RunDirectory(path=path, identity=document["identity"])
    _refuse_other_data(workload, before)
    parts = document["identity_of"]
    # What the arguments were then, not what would follow today from files that may be gone.
    model = choose_model(parts["model"], {**settings.model_args, **parts.get("arguments", {})})
    scores = score_tasks(workload.loads, directory, model)
    scores.raise_if_failed(f"{directory.results} is as it was.")
    doubts = doubts_about_boxes(scores.tasks, model)
    for doubt in doubts:
        warn(doubt)
    results = summarise(
        scores.tasks,
        run=before.run,
        model=before.model,
        suite=before.suite,
        limit=before.limit,
        seed=before.seed,
        notices=tuple(dict.fromkeys((*before.notices, *doubts))),
        unsupported=before.unsupported,
        probe=before.probe,
    )
    write_results(directory.results, results)
    return results


def _refuse_other_data(workload: Workload, before: Results) -> None:
    for load in workload.loads:
        name, found = load.spec.name, load.prepared.manifest.data_fingerprint
        if found != before.tasks[name].data:
            raise RunError(
                f"The prepared {name} in {workload.data_dir} is not the data that the run answered.",
                "Give the folder of the run's data with --data-dir.",
            )
