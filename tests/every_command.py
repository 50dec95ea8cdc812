"""Every command of the command line, on small data and tiny weights that are there already."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import llava_med_fixtures
import med_flamingo_fixtures
import radfm_fixtures
import tiny_vlms
import xraygpt_fixtures
from test_unimed_convert import sizes
from test_unimed_parity_e2e import base, checkpoint_path
from test_unimed_training import TINY

from medbench.harness.cli import COMMANDS, cli

RUNS = ("oracle", "blind", "probed", "machine1", "machine2")
SUBMISSIONS = Path(__file__).parent.parent / "docs" / "examples" / "leaderboard-repository" / "submissions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Words behind `medbench`, how they end without a network, and what is said then."""

    words: Sequence[object]
    codes: frozenset[int] = frozenset({0})
    says: str = ""
    served: bool = False  # Whether a server on this machine is spoken to.


def case(*words: object, codes: Sequence[int] = (0,), says: str = "", served: bool = False) -> Case:
    """Return a case."""
    return Case(words=words, codes=frozenset(codes), says=says, served=served)


def every_name() -> Iterator[str]:
    """Yield each command that does something by itself, `data list` among them."""
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (f"{name} {below}" for below in command.list_commands(context))
        else:
            yield name


def indiscreet(folder: Path) -> Path:
    """Install a plugin whose model says what its environment holds; return the folder for the search path."""
    info = folder / "indiscreet_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("indiscreet_plugin.py"), folder)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: indiscreet-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[medbench.adapters]\nindiscreet = indiscreet_plugin:ENTRY\n")
    return folder


def with_folders(words: Sequence[object], at: Path) -> list[str]:
    """Return words in which the name of a run is its folder, which is the one below `at / name`."""
    folders = {name: at / name for name in RUNS if (at / name).is_dir()}
    found = {name: str(next(path for path in folder.iterdir() if path.is_dir())) for name, folder in folders.items()}
    return [found.get(word, str(word)) if isinstance(word, str) else str(word) for word in words]


def _runs(at: Path, url: str) -> list[Case]:
    def run(model: object, name: str, *more: object, tasks: str = "slake-vqa,medqa", **how: object) -> Case:
        given = "--model", model, "--tasks", tasks, "--limit", 3, "--output-dir", at / name
        return case("run", *given, *more, **how)  # type: ignore[arg-type]

    def local(model: str, folder: Path, *more: object, tasks: str) -> Case:
        return run(model, model.partition(":")[0], "--checkpoint", folder, *more, tasks=tasks)

    tower = llava_med_fixtures.make_tower(at / "clip", "v10_clip.safetensors")
    delta = at / "whole"
    return [
        run("mock:oracle", "oracle", tasks="vqa,qa,cls,mimic-cxr"), run("blind", "blind", tasks="vqa,qa,cls,mimic-cxr"),
        run("mock:oracle", "probed", "--probe", "image-off", tasks="vqa,qa,cls"),
        run("mock", "workers", "--workers", 1), run("mock", "dry", "--dry-run"),
        run("mock", "saved", "--model", "mock:empty", "--save-config", at / "sweep.yaml"),
        case("run", "--config", at / "sweep.yaml", "--quiet", says="was done"),
        *(run("mock:oracle", f"machine{n}", "--shard", f"{n}/2") for n in (1, 2)),
        run("uni-med", "uni-med"), run("uni-med", "uni-med-workers", "--workers", 2),
        run(f"hf:{tiny_vlms.llava(at / 'llava')}", "hf", tasks="vqa"),
        run("hf:nobody/nothing", "nothing", codes=(1, 2), says="nobody/nothing"),
        run("vllm:nobody/nothing", "nothing", codes=(2,), says="no command 'vllm'"),
        local("radfm", radfm_fixtures.write_checkpoint(at / "radfm-weights"), tasks="vqa"),
        local("med-flamingo", med_flamingo_fixtures.write_checkpoint(at / "flamingo"), tasks="vqa"),
        local("llava-med:v1.0", delta, "--model-arg", f"vision_tower={tower}", tasks="vqa"),
        local("xraygpt", xraygpt_fixtures.make_four_files(at / "xraygpt-weights"), tasks="report"),
        run(
            f"openai:tiny@{url}", "served", "--model-arg", "backoff=0.01", "--cache", at / "cache", served=True
        ),
        run("openai:tiny@http://127.0.0.1:9/v1", "gone", codes=(1,), says="cannot be reached"),
        run("openai:tiny@https://example.org/v1", "away", codes=(1,), says="example.org"),
        run("indiscreet", "indiscreet"), run("indiscreet", "indiscreet-workers", "--workers", 1),
    ]  # fmt: skip


def _conversions(at: Path) -> dict[str, list[Case]]:
    llama, changes = llava_med_fixtures.make_v10_parts(at)
    weights = base()
    return {
        "convert uni-med": [
            case(
                "convert", "uni-med", checkpoint_path(), "--vision-weights", weights.vision, "--language-model",
                weights.language_model, *sizes(), "--output", at / "uni-med-folder",
            )
        ],
        "convert radfm": [
            case("convert", "radfm", radfm_fixtures.write_checkpoint(at / "radfm-source"), "--output", at / "radfm-new")
        ],
        "convert llava-med": [case("convert", "llava-med", changes, "--base", llama, "--output", at / "whole")],
        "convert xraygpt": [
            case("convert", "xraygpt", xraygpt_fixtures.make_four_files(at / "four"), "--output", at / "xraygpt-new")
        ],
    }  # fmt: skip


def _of_runs(at: Path) -> dict[str, list[Case]]:
    one, other, out = "oracle", "blind", at / "out"

    exports = [
        case("export", one, "--format", form, "--output", out / f"export-{form}", *more)
        for form, more in {
            "eval-results": ("--dataset", "*=me/data"), "every-eval-ever": ("--no-inputs",), "parquet": (),
            "folder": (),
        }.items()
    ]  # fmt: skip
    return {
        "merge": [case("merge", "machine1", "machine2", "--output-dir", at / "merged")],
        "import": [
            case("import", "--name", "x", "--task", f"slake-vqa={answers(at)}", "--output-dir", out / "imported"),
        ],
        "submissions": [case("submissions", SUBMISSIONS, "--output-dir", out / "submitted")],
        "score": [
            case("score", one),
            case("score", "--task", "slake-vqa", "--predictions", answers(at), "--format", "json"),
        ],
        "leaderboard": [
            case("leaderboard", one, other, "--format", form) for form in ("markdown", "csv", "latex", "json")
        ],
        "plot": [
            case("plot", kind, one, other, "--output", out / f"{kind}.svg")
            for kind in ("forest", "radar", "heatmap", "coverage")
        ],
        "report": [case("report", one, other, "--output", out / "report.html")],
        "breakdown": [case("breakdown", one, "--output", out / "breakdown.md")],
        "compare": [case("compare", one, other, "--output", out / "compare.md"), case("compare", one, other, "--json")],
        "gate": [case("gate", one, "--baseline", other, "--json", codes=(0, 3, 4))],
        "export": exports,
        "push": [
            case("push", one, "--repo", "me/results"),
            case("push", one, "--repo", "me/results", "--yes", codes=(1,), says="cannot"),
        ],
        "site": [case("site", at, "--output", out / "site")],
        "audit model": [case("audit", "model", one, "--peers", other, "--output", out / "model", codes=(0, 3, 4, 5))],
        "audit selftest": [case("audit", "selftest", one, codes=(0, 1, 3, 4, 5))],
        "audit probe": [case("audit", "probe", one, "probed", "--output", out / "probe", codes=(0, 3, 4, 5))],
    }


def answers(at: Path) -> Path:
    """Write answers of somebody's model."""
    file = at / "answers.jsonl"
    lines = ({"prediction": "The liver.", "reference": "liver"}, {"prediction": "no", "reference": "yes"})
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def cases(at: Path, native: Path, data: Path, url: str) -> Mapping[str, Sequence[Case]]:
    """Return the cases of every command, in an order in which they can be done: what one makes, others read."""
    at.mkdir(parents=True, exist_ok=True)
    tiny = [word for setting in TINY for word in ("--set", setting)]
    few_states = "--train-samples", 60, "--limit", 20, "--refits", 2, "--no-random"
    training = "train", "--config", "mini", *tiny, "--data-dir", data
    return {
        "tasks": [case("tasks"), case("tasks", "--json")],
        "metrics": [case("metrics"), case("metrics", "judge", "--json")],
        "models": [case("models"), case("models", "llava-med", "--json")],
        "completion": [case("completion", shell) for shell in ("bash", "zsh", "fish")],
        "data list": [case("data", "list"), case("data", "list", "slake-vqa")],
        "data prepare": [case("data", "prepare", "slake-vqa", "--source", native, "--data-dir", at / "data")],
        "data verify": [case("data", "verify", "--data-dir", at / "data", "--json", codes=(0, 1))],
        "data profile": [case("data", "profile", "--data-dir", at / "data", "--json", codes=(0, 1))],
        "data download": [
            case("data", "download", "slake-vqa", "--source", at / "downloads", codes=(1,), says="reach"),
            case("data", "download", "medqa", "--source", at / "downloads", codes=(0, 1)),
        ],
        **_conversions(at), "run": _runs(at, url), **_of_runs(at),
        "cache ls": [case("cache", "ls", "--cache", at / "cache", "--json")],
        "cache verify": [case("cache", "verify", "--cache", at / "cache")],
        "cache prune": [case("cache", "prune", "--cache", at / "cache", "--to", 1)],
        "audit data": [case("audit", "data", "--data-dir", at / "data", "--output", at / "out", codes=(0, 3, 4, 5))],
        "audit provenance": [case("audit", "provenance", "--model", "llava-med", codes=(0, 3, 4, 5))],
        "doctor engine": [case("doctor", "engine", "--model", "uni-med", "--tasks", "slake-vqa", "--samples", 2)],
        "doctor scorers": [case("doctor", "scorers")],
        "train": [case(*training, "--dry-run"), case(*training, "--output", at / "trained")],
        "probe": [
            case("probe", "--model", "uni-med", "--tasks", "organsmnist", "--output", at / "states", *few_states)
        ],
        "interpret": [
            case("interpret", at / "trained", "--data-dir", data, "--batches", 2, "--output", at / "interference")
        ],
        "ablate": [
            case("ablate", "--table", "2a", "--rows", "Linear", "--base", "mini", *tiny, "--seeds", 1, *more)
            for more in (("--data-dir", data, "--dry-run"), ("--data-dir", data, "--output", at / "ablated"))
        ],
    }  # fmt: skip
