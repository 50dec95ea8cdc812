"""Runs in shards: what is started, and what of a run must be the same bytes whoever answered it."""

import json
from pathlib import Path
from subprocess import CompletedProcess

from command_line import medbench
from native_data import medmnist_npz, slake

from medbench.tasks.catalog import get_task
from medbench.tasks.prepare import prepare_task

# They say where and when a run was made.
OF_A_PLACE = frozenset({"env.json", "run.yaml", "report.html", "calls.jsonl"})


def make_data(folder: Path) -> Path:
    """Prepare invented tasks: three with several questions about each of six images, and one with an image each."""
    source = slake(folder / "slake", test=[f"xmlab{number}" for number in range(3, 9)])
    for name in ("slake-vqa", "slake-rec", "slake-reg"):
        prepare_task(get_task(name), source, folder / "data", {})
    prepare_task(get_task("dermamnist"), medmnist_npz(folder / "dermamnist"), folder / "data", {})
    return folder / "data"


def folder_in(output: Path) -> Path:
    """Return the folder of the one run in an output folder."""
    [folder] = [path for path in output.iterdir() if path.is_dir()]
    return folder


def contents(run: Path) -> dict[str, bytes]:
    """Return every file of a run that tells neither place nor time, by its path."""
    files = (path for path in run.rglob("*") if path.is_file() and path.name not in OF_A_PLACE)
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}


def environment(run: Path) -> dict[str, dict[str, object]]:
    """Return `env.json` of a run."""
    document: dict[str, dict[str, object]] = json.loads((run / "env.json").read_text())
    return document


def words(
    data: Path, output: Path, *more: object, model: str = "mock:oracle", tasks: str = "slake-*,dermamnist"
) -> list[str]:
    """Return the words of a run."""
    given = ["run", "--model", model, "--tasks", tasks, "--data-dir", data, "--output-dir", output, *more]
    return [str(word) for word in given]


def shard(data: Path, output: Path, which: str, *more: object, **what: str) -> CompletedProcess[str]:
    """Answer a shard, which must end well."""
    done = medbench(*words(data, output, "--shard", which, *more, **what))
    assert done.returncode == 0, done.stderr
    return done
