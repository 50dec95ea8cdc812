"""What is tried: commands that write, each from the state that it finds, in folders of their own."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.chaos import warm
from benchmarks.chaos.calls import LISTING, points

_TRAINING = (
    "steps=6", "micro_batch=1", "micro_batches=1", "log_every=2", "mixture={slake-vqa: 1}", "vision_stage.steps=1",
    "vision_stage.batch=2", "validation={share: 0.01, every: 100, answers: 0}", "checkpoints={every: 2, keep: 1}",
    "schedule.warmup_steps=1", "model.text.hidden_size=16", "model.text.intermediate_size=16",
    "model.text.num_hidden_layers=1", "model.text.num_attention_heads=2", "model.vision.hidden_size=16",
    "model.vision.intermediate_size=16", "model.vision.num_hidden_layers=1", "model.vision.num_attention_heads=2",
    "model.vision.image_size=28", "model.vocabulary=600",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Where a scenario happens."""

    path: Path

    @property
    def work(self) -> Path:
        """What the command writes to: every call that changes something below it is a point."""
        return self.path / "work"

    @property
    def given(self) -> Path:
        """What the command reads, and nobody changes."""
        return self.path / "given"

    @property
    def logs(self) -> Path:
        """What the commands say, and what strace says of them."""
        return self.path / "logs"

    def do(self, *words: object) -> None:
        """Run a command that must end well."""
        if (end := warm.command([str(word) for word in words], self.logs)).code != 0:
            raise RuntimeError(f"medbench {' '.join(map(str, words))} ended with {end.code}: {end.err}")
        warm.warm_up(self.logs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A command and what it finds."""

    name: str
    words: Callable[[Room], Sequence[object]]
    prepare: Callable[[Room], None] = lambda _: None  # Makes what is given, and in the work folder what is there.
    promise: str = ""  # The file, as a pattern, which says that everything is there.
    goes_on: str = ""  # The word that makes it go on, where the same words are refused.
    code: int = 0  # How it ends undisturbed.
    every: int = 1  # Every how many calls one is tried, and
    errors_each: int = 99  # how many errors at each, where a command takes long.


def _run(room: Room, *more: object, tasks: str = "slake-vqa,dermamnist", to: Path | None = None) -> list[object]:
    model = [] if "--model" in more else ["--model", "mock:oracle"]
    return ["run", *model, "--tasks", tasks, "--limit", 2, "--output-dir", to or room.work, *more]


def _in(folder: Path) -> Path:
    """Return the folder of the one run in a folder."""
    return next(path for path in sorted(folder.iterdir()) if (path / "run.yaml").exists())


def _finished(room: Room) -> None:
    room.do(*_run(room))


def _interrupted(room: Room) -> None:
    """Leave a run that was killed before its last answer was on the disk."""
    words = [str(word) for word in _run(room)]
    listed = warm.command(words, room.logs, lambda _: LISTING)
    answers = [one for one in points(listed.trace, room.work, listed.pid) if one.path.endswith("t.jsonl")]
    at = next(one for one in reversed(answers) if one.name == "write")
    shutil.rmtree(room.work)
    warm.command(words, room.logs, lambda pid: at.inject(pid, "signal=KILL"))


def _import(room: Room) -> list[object]:
    """Write a table of somebody's answers with its references, which becomes a run."""
    room.given.mkdir(exist_ok=True)
    file = room.given / "answers.csv"
    file.write_text("id,response,gt\n1,liver,Liver\n2,lung,Liver\n")
    return ["import", "--name", "x", "--task", f"slake-vqa={file}", "--output-dir", room.work]


def _two_runs(room: Room) -> None:
    for model in ("mock:oracle", "blind"):
        room.do(*_run(room, "--model", model, to=room.given))


def _older_site(room: Room) -> None:
    """Make a site of two runs in the work folder, one of which is given no more."""
    room.do(*_run(room, "--model", "mock:empty", to=room.given))
    room.do(*_run(room, to=room.given))
    room.do("site", room.given, "--output", room.work)
    shutil.rmtree(next(room.given.glob("mock-empty-*")))
    room.do(*_run(room, "--model", "blind", to=room.given))


def _two_shards(room: Room) -> None:
    for shard in ("1/2", "2/2"):
        room.do(*_run(room, "--shard", shard, to=room.given / shard[0]))


def _shards_beside(room: Room) -> None:
    """Put two shards of a run beside one another, in the folder that they are merged in."""
    _two_shards(room)
    shutil.copytree(room.given / "1", room.work, dirs_exist_ok=True)
    shutil.copytree(_in(room.given / "2") / "shards", _in(room.work) / "shards", dirs_exist_ok=True)


def _pictures(room: Room) -> None:
    """Invent a task's own files: seven pictures and their labels in each split."""
    arrays: dict[str, Any] = {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = (np.arange(7 * 28 * 28 * 3) % 251).astype(np.uint8).reshape(7, 28, 28, 3)
        arrays[f"{split}_labels"] = np.arange(7, dtype=np.uint8).reshape(7, 1)
    room.given.mkdir(exist_ok=True)
    np.savez_compressed(room.given / "dermamnist_224.npz", **arrays)


def _training(room: Room) -> list[object]:
    settings = [word for setting in _TRAINING for word in ("--set", setting)]
    return ["train", "--config", "mini", "--output", room.work / "out", *settings]


def _exported(form: str, *more: str, target: str = "out") -> Scenario:
    return Scenario(
        name=f"export {form}", prepare=lambda room: room.do(*_run(room, to=room.given)),
        words=lambda room: ["export", _in(room.given), "--format", form, "--output", room.work / target, *more],
    )  # fmt: skip


SCENARIOS = (
    Scenario(name="run", words=_run, promise="*/done"),
    Scenario(name="run, continued", words=_run, prepare=_interrupted, promise="*/done"),
    Scenario(
        name="run, reports scored in Java", words=lambda room: _run(room, tasks="mimic-cxr"), promise="*/done",
        every=4, errors_each=1,
    ),
    # Its leaderboard promises nothing: where one model failed it shows the other.
    Scenario(
        name="run of two models", errors_each=2,
        words=lambda room: _run(room, "--model", "mock:oracle", "--model", "blind", tasks="dermamnist"),
    ),
    Scenario(name="run, afresh", words=lambda room: _run(room, "--overwrite", "always"), prepare=_finished),
    Scenario(name="run of a shard", words=lambda room: _run(room, "--shard", "1/2")),
    Scenario(
        name="run of the last shard", words=lambda room: _run(room, "--shard", "2/2"), promise="*/done",
        prepare=lambda room: room.do(*_run(room, "--shard", "1/2")),
    ),
    Scenario(
        name="merge", prepare=_two_shards, promise="*/done",
        words=lambda room: ["merge", _in(room.given / "1"), _in(room.given / "2"), "--output-dir", room.work],
    ),
    Scenario(
        name="merge in place", prepare=_shards_beside, promise="*/done", words=lambda room: ["merge", _in(room.work)]
    ),
    Scenario(name="score", prepare=_finished, words=lambda room: ["score", _in(room.work)]),
    Scenario(name="import", words=_import, promise="*/done"),
    Scenario(
        name="report", prepare=_two_runs,
        words=lambda room: ["report", *sorted(room.given.glob("*/")), "--output", room.work / "page.html"],
    ),
    Scenario(
        name="leaderboard", prepare=_two_runs,
        words=lambda room: ["leaderboard", room.given, "--output", room.work / "board.md"],
    ),
    Scenario(
        name="audit model", prepare=_finished, code=5,
        words=lambda room: ["audit", "model", _in(room.work)],
    ),
    Scenario(
        name="site, new", prepare=_two_runs,
        words=lambda room: ["site", room.given, "--output", room.work / "site"],
    ),
    Scenario(
        name="site, in place of an older one", prepare=_older_site,
        words=lambda room: ["site", room.given, "--output", room.work],
    ),
    _exported("folder"),
    _exported("parquet", target="scores.parquet"),
    _exported("every-eval-ever"),
    _exported("eval-results", "--dataset", "nobody/none", "--date", "2026-01-01"),
    Scenario(
        name="data prepare", prepare=_pictures,
        words=lambda room: ["data", "prepare", "dermamnist", "--source", room.given, "--data-dir", room.work],
    ),
    Scenario(name="train", words=_training, promise="*/learning_curve.svg", goes_on="--resume", errors_each=2),
)  # fmt: skip


def reset(room: Room, start: Path) -> None:
    """Put the work folder back to what the command finds."""
    shutil.rmtree(room.work, ignore_errors=True)
    shutil.copytree(start, room.work, symlinks=True)
