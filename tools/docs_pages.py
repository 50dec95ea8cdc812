"""Writes the lists and tables of README.md and docs/ from their sources; with `--check` it only names stale pages.

A section stands between `<!-- begin:NAME -->` and `<!-- end:NAME -->`; this file says what NAME is made of.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, fields
from importlib import import_module
from pathlib import Path

import click

from benchmarks.reading import HEADER, all_of, cells, generated, measure, read
from medbench.adapters.base import ModelCard
from medbench.adapters.catalog import ADAPTERS
from medbench.adapters.hf.entry import FAMILIES, KNOWN, TAKEN_APART, Known
from medbench.harness.cli import COMMANDS, cli
from medbench.harness.commands import run_command
from medbench.harness.doctor import PSEUDO_MODELS, examine_scorers
from medbench.harness.predictions.formats import FORMATS
from medbench.harness.results import MetricResult, Results, read_results_file
from medbench.harness.settings import Settings
from medbench.harness.verdicts import Judged, prompt_of
from medbench.harness.workload import load_workload
from medbench.leaderboard.ablation.document import read_ablation
from medbench.leaderboard.ablation.pages import verdict_lines
from medbench.leaderboard.audit.document import wording
from medbench.leaderboard.numbers import make_board, make_table
from medbench.leaderboard.render import table_as_markdown
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.catalog import BUILTIN, benchmark_names, get_task, task_names
from medbench.tasks.download.archives import readable_size
from medbench.tasks.download.sources import SOURCES, HubSource, ManualSource
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import EXIT_FAILED
from medbench.tasks.foundation.files import read_json
from medbench.tasks.protocols import metric_ids
from medbench.tasks.sample import Box
from medbench.tasks.suite import DATA
from medbench.unimed.training.plan import plan
from medbench.unimed.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parent.parent
HELP_WIDTH = 100
MINI_RESULTS = ROOT / "docs" / "mini"
PRESETS = ("official", "paper", "mini")
ABLATIONS = ("2a", "5", "2b")
DOCTOR_ROWS = {
    ("path-vqa", "closed_accuracy"),
    ("dermamnist", "accuracy"),
    ("pubmedqa", "accuracy"),
    ("slake-rec", "iou"),
}
SAID_OTHERWISE = {
    "model": "The model, `NAME` or `NAME:VARIANT`", "device": "Where the model runs",
    "checkpoint": "Folder of weights", "model_args": "A table of the model's own choices; see `medbench models NAME`",
    "checkpoint_for": "A table of folders of weights for tasks of their own, by name, kind or glob",
    "max_new_tokens": "Longest answer in tokens, thoughts included: a number, or a table by name, kind or glob",
    "repetition_penalty": "Makes tokens that were written less likely",
    "compile": "`true` lets torch.compile fuse the layers",
    "lock": "`false` holds no lock, where the file system has none",
}  # fmt: skip
ROOMS = ("tasks", "adapters", "harness", "leaderboard", "unimed")
SECTION = re.compile(r"(<!-- begin:(?P<name>[a-z-]+) -->\n).*?(<!-- end:(?P=name) -->)", re.DOTALL)


def commands() -> str:
    """Return the commands and what each does."""
    return table(["command", "does"], [[f"`medbench {name}`", text] for name, (_, text) in COMMANDS.items()])


def command_help() -> str:
    """Return the help of every command, and of those below it."""
    top = click.Context(cli, info_name="medbench", **cli.context_settings)
    return "\n\n".join(f"## {name}\n\n```text\n{text}\n```" for name, text in _helps(cli, top))


def _helps(group: click.Group, above: click.Context) -> Iterator[tuple[str, str]]:
    for name in group.list_commands(above):
        command = group.get_command(above, name)
        context = click.Context(command or group, info_name=name, parent=above, terminal_width=HELP_WIDTH)
        if isinstance(command, click.Group):
            yield from _helps(command, context)
        elif command is not None:
            yield context.command_path, command.get_help(context)


def sweep_keys() -> str:
    """Return the settings that a file of many runs may hold, with what the options of `medbench run` say of them."""
    called = {"model": "named", "checkpoint": "checkpoints"}
    told = {one.name: one for one in run_command.params if isinstance(one, click.Option)}
    rows = []
    for one in fields(Settings):
        option = told[called.get(one.name, one.name)]
        values = {"tasks": "one selection", "model": "-", "output_dir": "-"}.get(one.name, "a run for each")
        meaning = SAID_OTHERWISE.get(one.name) or re.sub(r"\s*\[default: .*\]", "", option.help or "").rstrip(".")
        rows.append([f"`{one.name}`", meaning, f"`{option.opts[-1]}`", values])
    return table(["key", "means", "option", "a list is"], rows)


def rooms() -> str:
    """Return the packages and the first line of what each says of itself."""
    rows = [[f"`{room}/`", (import_module(f"medbench.{room}").__doc__ or "").strip().splitlines()[0]] for room in ROOMS]
    return table(["room", "holds"], rows)


def tasks() -> str:
    """Return the tasks with kind, counts of the paper, metrics and licence."""
    rows = []
    for name in benchmark_names():
        spec = get_task(name)
        metrics = " ".join(metric_ids(name, spec.kind, "paper"))
        counts = " / ".join(str(spec.counts[split]) for split in ("train", "test"))
        rows.append([f"`{name}`", spec.kind, counts, metrics, spec.licence])
    return table(["task", "kind", "train / test in the paper", "metrics", "licence of the data"], rows)


def layouts() -> str:
    """Return the native layout that each task reads."""
    rows = [[f"`{name}`", f"`{get_task(name).layout}`".replace("|", "\\|")] for name in _with_data()]
    return table(["task", "native layout"], rows)


def models() -> str:
    """Return the models and what they answer."""
    cards = [ADAPTERS.load(name).card for name in ADAPTERS]
    return table(["model", "title", "answers"], [[f"`{card.name}`", card.title, kinds_of(card)] for card in cards])


def all_models() -> str:
    """Return the models with weights, memory and licence."""
    cards = [ADAPTERS.load(name).card for name in ADAPTERS]
    header = ["model", "answers", "weights", "in bfloat16", "licence of the weights"]
    return table(
        header, [[f"`{card.name}`", kinds_of(card), card.weights, card.memory or "-", card.licence] for card in cards]
    )


def kinds_of(card: ModelCard) -> str:
    """Return the kinds that a model answers."""
    return " ".join(sorted(card.kinds))


def hf_known() -> str:
    """Return what is known of published models by their types and by their names."""
    rows = [[f"`{family}`", "any", *_known_row(one)] for family, one in FAMILIES.items()]
    rows += [["by its configuration", f"`*{name}*`", *_known_row(one)] for name, one in KNOWN.items()]
    return table(["`model_type`", "name", "boxes", "trained on", "licence"], rows)


def _known_row(one: Known) -> list[str]:
    boxes = f"`{one.boxes}`" if one.boxes else "by its type"
    return [boxes, " ".join(sorted(one.trained_on or ())) or "-", one.licence or "see its card"]


def hf_families() -> str:
    """Return the families that tests hold against their own `generate`, by their `model_type`."""
    return ", ".join(f"`{name}`" for name in sorted(TAKEN_APART))


def mini_suite() -> str:
    """Return what the bundled tasks are made of."""
    suite = read_json(DATA / "suite.json")["tasks"]
    rows = [
        [f"`{name}`", suite[name]["origin"], suite[name]["licence"], suite[name]["split"]] for name in benchmark_names()
    ]
    return table(["task", "origin", "licence", "split"], rows)


def mini_board() -> str:
    """Return the paper-protocol table of the committed mini runs: Uni-Med beside the blind baseline."""
    board = make_board([mini_results("uni-med"), mini_results("blind")])
    return table_as_markdown(make_table(board, "paper"))


def mini_primary() -> str:
    """Return the primary metrics of the same runs, what is seen first of a model that knows no medicine last."""
    found = make_table(make_board([mini_results("uni-med"), mini_results("blind")]), "paper")
    numbers = found.numbers[found.numbers["primary"]]
    order = numbers["task"].map(lambda task: get_task(task).kind == "qa").sort_values(kind="stable").index
    return table_as_markdown(found._replace(numbers=numbers.loc[order]))


def audit_words() -> str:
    """Return what the words on an audit's page mean, as the page has it."""
    return "\n\n".join(f"**{word}**: {meaning}" for word, meaning in wording("glossary").items())


def mini_rerun() -> str:
    """Return the bundled weights' scores beside those of a training run again from the preset."""
    bundled, rerun = mini_results("uni-med"), mini_results("uni-med-rerun")
    rows = []
    for name in benchmark_names():
        for metric in metric_ids(name, get_task(name).kind, "paper"):
            cells = [_with_interval(results.tasks[name].paper[metric]) for results in (bundled, rerun)]
            rows.append([f"`{name}`", metric, *cells])
    return table(["task", "metric", "bundled", "run again"], rows)


def _with_interval(result: MetricResult) -> str:
    if result.value is None or result.ci is None:
        return "-"
    low, high = (f"{100 * edge:.1f}" for edge in result.ci)
    return f"{100 * result.value:.1f} [{low}, {high}]"


def box_spaces() -> str:
    """Return the spaces that boxes may be written in, each with an example."""
    box, size = Box(64, 96, 320, 240), (640, 480)
    rows = [[f"`{space.name}`", f"`{space.write(box, size)}`", space.order] for space in BOX_SPACES.values()]
    return table(["space", "left 64, top 96, right 320, bottom 240 of 640 x 480 pixels", "order"], rows)


def reading() -> str:
    """Return how well the generated outputs of `make bench-reading` are read, by form."""
    outputs = generated()
    rows = measure(outputs, read(outputs))
    return table(HEADER, [cells(row) for row in [*rows, all_of(rows)]])


def formats() -> str:
    """Return the formats of other harnesses that predictions are read from."""
    rows = [[f"`{name}`", entry.title, entry.description] for name, entry in FORMATS.items()]
    return table(["format", "written by", "what it is"], rows)


def doctor() -> str:
    """Return a few telling rows of `medbench doctor scorers` on the mini suite."""
    loads = load_workload(Settings(model="doctor", tasks=tuple({task for task, _ in DOCTOR_ROWS}))).loads
    found = [item for item in examine_scorers(loads) if (item.task, item.metric) in DOCTOR_ROWS]
    rows = [
        [f"`{item.task}`", item.protocol, item.metric]
        + ["-" if value is None else f"{100 * value:.2f}" for value in item.values.values()]
        for item in found
    ]
    return table(["task", "protocol", "metric", *PSEUDO_MODELS], rows)


def sources() -> str:
    """Return where each task's native files come from."""
    rows = []
    for name in _with_data():
        source = SOURCES[name]
        if isinstance(source, ManualSource):
            rows.append([f"`{name}`", "by hand", source.reason])
        else:
            place = source.repo if isinstance(source, HubSource) else source.home
            pin = f"at `{source.revision[:12]}`" if source.revision else "newest commit, recorded"
            rows.append([f"`{name}`", "fetched", f"{place}, {pin}, {readable_size(source.size)}"])
    return table(["task", "how", "from"], rows)


def _with_data() -> list[str]:
    """Return the tasks that have data of their own: the 12, then those beside the benchmark."""
    return [name for name in BUILTIN if not get_task(name).variant_of]


def variants() -> str:
    """Return the tasks that ask about another task's data in another way."""
    specs = [spec for name in task_names() if (spec := get_task(name)).variant_of]
    rows = [[f"`{spec.name}`", f"`{spec.variant_of}`", f"`{spec.prompt}`".replace("\n", " ")] for spec in specs]
    return table(["variant", "of", "prompt"], rows)


def on_request() -> str:
    """Return the tasks beside the benchmark, which run only when they are named."""
    specs = [spec for name in task_names() if (spec := get_task(name)).on_request]
    rows = [[f"`{spec.name}`", ", ".join(spec.choices), spec.group_key, spec.licence] for spec in specs]
    return table(["task", "classes", "counted as one", "licence of the data"], rows)


def presets() -> str:
    """Return the settings in which the training presets differ."""
    flat = {name: _flat(asdict(load_recipe(name, planned=True))) for name in PRESETS}
    names = dict.fromkeys(name for settings in flat.values() for name in settings)
    rows = []
    for name in names:
        cells = [_cell(flat[preset].get(name)) for preset in PRESETS]
        if len(set(cells)) > 1 and not name.startswith(("model.vision.", "model.text.", "name")):
            rows.append([f"`{name}`", *cells])
    return table(["setting", *(f"`{preset}`" for preset in PRESETS)], rows)


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def full_size() -> str:
    """Return the parameters and the memory plan of the full-size model under the official recipe."""
    tables = plan(load_recipe("official", planned=True), None).tables[:2]
    return "\n\n".join(table(list(header), [list(row) for row in rows]) for header, rows in tables)


def mini_results(model: str) -> Results:
    """Return the committed results of a model on the mini suite."""
    return read_results_file(MINI_RESULTS / f"{model}.json")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def ablation_gains() -> str:
    """Return what the rows of the committed tables of trained rows gain in total."""
    lines, head = list[list[str]](), list[str]()
    for name in ABLATIONS:
        found = read_ablation(ROOT / "docs" / "ablation" / name / "ablation.json")
        head, rows = verdict_lines(found.protocols["paper"])
        lines += [[name, *row] for row in rows]
    return table(["Table", *head], lines)


def judge_prompt() -> str:
    """Return what a judge is asked about an answer."""
    prompt = prompt_of(Judged(question="Which organ is shown?", reference="liver", answer="the hepatic organ"))
    return f"```text\n{prompt.strip()}\n```"


SECTIONS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "command-help": command_help,
    "rooms": rooms,
    "sweep-keys": sweep_keys,
    "tasks": tasks,
    "layouts": layouts,
    "models": models,
    "all-models": all_models,
    "hf-known": hf_known,
    "hf-families": hf_families,
    "mini-suite": mini_suite,
    "mini-board": mini_board,
    "mini-primary": mini_primary,
    "audit-words": audit_words,
    "mini-rerun": mini_rerun,
    "box-spaces": box_spaces,
    "formats": formats,
    "reading": reading,
    "doctor": doctor,
    "variants": variants,
    "on-request": on_request,
    "sources": sources,
    "presets": presets,
    "full-size": full_size,
    "judge-prompt": judge_prompt,
    "ablation-gains": ablation_gains,
}


def refreshed(text: str) -> str:
    """Return a page with every section made anew."""
    return SECTION.sub(lambda found: f"{found[1]}{SECTIONS[found['name']]()}\n{found[3]}", text)


def pages() -> Iterator[Path]:
    """Yield the pages that may hold sections."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").rglob("*.md"))


def stale_pages() -> list[Path]:
    """Return the pages whose sections are not what their sources say."""
    return [page for page in pages() if refreshed(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]


def main() -> int:
    """Refresh the pages, or with `python -m tools.docs_pages --check` only name the stale ones."""
    stale = stale_pages()
    for page in stale:
        say(f"{page.relative_to(ROOT)} is stale: make docs")
        if "--check" not in sys.argv:
            page.write_text(refreshed(page.read_text(encoding="utf-8")), encoding="utf-8")
    return EXIT_FAILED if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
