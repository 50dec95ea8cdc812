"""The command `medbench audit probe`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import read_numbered_json_lines, write_atomically
from medbench.tasks.protocols import PROTOCOLS, Protocol

if TYPE_CHECKING:
    from medbench.harness.results import Results
    from medbench.leaderboard.audit.probes import Pair

_path = click.Path(path_type=Path)


@click.command("probe")
@click.argument("run", type=_path)
@click.argument("probed", type=_path, required=False)
@click.option("--peer", "peers", type=(_path, _path), multiple=True, metavar="RUN PROBED", help="Another model's pair.")
@click.option("--wrong-gold", type=_path, help="JSON lines {task, sample_id} of items whose key is known to be wrong.")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="strict", show_default=True, help="Whose definitions."
)
@click.option("--format", "form", type=click.Choice(["markdown", "json"]), help="Write to standard output so.")
@click.option("--output", type=_path, help="Write a markdown page to this file.")
def probe_command(
    run: Path, probed: Path | None, peers: tuple[tuple[Path, Path], ...], wrong_gold: Path | None, protocol: str,
    form: str | None, output: Path | None,
) -> int:  # fmt: skip
    """Read RUN beside PROBED, a run of the same model with `medbench run --probe NAME`.

    Exit codes: 0 nothing found, 3 suspicious, 4 strong, 5 nothing could be tested.

    \b
    Example:  medbench run --model M --tasks medqa-options --probe options-shuffled
              medbench audit probe RUN PROBED --peer RUN_B PROBED_B --peer RUN_C PROBED_C --peer RUN_D PROBED_D
    """
    from medbench.harness.results import read_results
    from medbench.leaderboard.audit.probe_page import COLUMNS, probe_json, reading, render_probe, rows, wrong_key_text
    from medbench.leaderboard.audit.probes import read_probe
    from medbench.leaderboard.audit.verdicts import exit_code

    if probed is None and wrong_gold is None:
        raise UsageError("There is nothing to look at.", "Give a second run (--probe), or --wrong-gold FILE.")
    results = read_results(run)
    findings, name = [], ""
    if probed is not None:
        name, pairs = _pairs(run, probed)
        others = [_pairs(*peer, expected=name)[1] for peer in peers]
        kinds = {task: results.tasks[task].kind for task in pairs}
        findings = read_probe(name, kinds, pairs, others, cast("Protocol", protocol), seed=results.seed)
    wrong = None if wrong_gold is None else _wrong_keys(run, results, wrong_gold, cast("Protocol", protocol))
    page = render_probe(results.model.title, name, findings, wrong, results.notices)
    if output is not None:
        write_atomically(output, page)
    if form is not None:
        emit(page if form == "markdown" else probe_json(results.run, name, findings, wrong))
    else:
        for notice in results.notices:
            warn(notice)
        if name:
            emit_table(COLUMNS, rows(findings), title=f"{results.model.title}, protocol {protocol}")
            say(reading(name))
        if wrong is not None:
            emit(wrong_key_text(wrong))
    return exit_code([*(one.verdict for one in findings), *([wrong.verdict] if wrong else [])])


def _pairs(run: Path, probed: Path, *, expected: str = "") -> "tuple[str, Mapping[str, Pair]]":
    """Return the probe's name and the scores of a model by task, both ways."""
    from medbench.harness.results import read_results
    from medbench.leaderboard.audit.probes import Pair
    from medbench.leaderboard.samples import read_score_table

    plain, other = read_results(run), read_results(probed)
    if plain.probe or not other.probe:
        raise UsageError(
            f"{run} and {probed} are not a run and its probe.", "Give the plain run first, then that made with --probe."
        )
    if expected and other.probe != expected:
        raise UsageError(f"{probed} is the probe {other.probe!r}, not {expected!r}.", "Give peers of the same probe.")
    if plain.model.weights != other.model.weights:
        raise UsageError(f"{run} and {probed} are of different weights.", "Probe the very model of the run.")
    shared = [task for task in plain.tasks if task in other.tasks]
    for task in shared:
        if plain.tasks[task].data != other.tasks[task].data:
            raise UsageError(f"{run} and {probed} answered different data of {task}.", "Probe the data of the run.")
    pairs = {
        task: Pair(plain=read_score_table(run, plain, task), probed=read_score_table(probed, other, task))
        for task in shared
    }
    return other.probe, pairs


def _wrong_keys(run: Path, results: "Results", file: Path, protocol: Protocol) -> "WrongKey":
    from medbench.leaderboard.audit.probes import read_wrong_keys
    from medbench.leaderboard.runs import primary_metric
    from medbench.leaderboard.samples import read_score_table

    wanted: dict[str, set[str]] = {}
    for number, line in read_numbered_json_lines(file):
        task, sample_id = line.get("task"), line.get("sample_id")
        if not isinstance(task, str) or not isinstance(sample_id, str):
            raise DataError(f"{file}, line {number} names no item.", 'Write {"task": "...", "sample_id": "..."}.')
        wanted.setdefault(task, set()).add(sample_id)
    if not any(task in results.tasks for task in wanted):
        raise UsageError(f"{file} names no task of {run}.", f"The run has {', '.join(results.tasks)}.")
    answers: list[float] = []
    for task in sorted(set(wanted) & set(results.tasks)):
        table = read_score_table(run, results, task)
        metric = primary_metric(results.tasks[task].kind, table.columns[protocol])
        scores = [
            record.scores(protocol).get(metric or "") for record in table.records if record.sample_id in wanted[task]
        ]
        answers += [score.value for score in scores if score is not None and score.value is not None]
    return read_wrong_keys(answers)


if TYPE_CHECKING:
    from medbench.leaderboard.audit.probes import WrongKey
