"""What the first page of a site shows, as one JSON value that the page's own script draws."""

from collections.abc import Iterator, Mapping, Sequence

from medbench.harness.results import ModelInfo, Results
from medbench.leaderboard import render
from medbench.leaderboard import runs as known
from medbench.leaderboard.compare import ScoresByRun, Side, Standing, compare, pairs_among, rank_runs
from medbench.leaderboard.numbers import Board, Number, make_table
from medbench.leaderboard.paper import Publication
from medbench.tasks.foundation.files import JsonObject
from medbench.tasks.protocols import PROTOCOLS, Protocol

SCHEMA = 1
_DIGITS = 4
_PAIR = 2  # one run has no rank
_OF_A_MODEL = ("parameters", "released", "open_weights", "declared")
_ALSO_SHOWN = ("ceiling", "n")


def board_document(
    board: Board, name: str, scores: ScoresByRun, about: Mapping[str, JsonObject], published: Sequence[Publication]
) -> JsonObject:
    """Return what is shown of a board; `about` says by run what else is known of it, `published` stands beside."""
    shown = {protocol: [one for one in published if one.protocol == protocol] for protocol in PROTOCOLS}
    ranks = {protocol: _ranks(board, scores, protocol) for protocol in PROTOCOLS}
    titles = {task: (one.title, one.kind) for run in board.runs for task, one in run.tasks.items()}
    return {
        "name": name, "suite": board.runs[0].suite, "notices": _notices(board),
        "runs": [_run(run, told, board, about) for run, told in zip(board.runs, board.names, strict=True)],
        "tasks": [
            {"name": task, "title": titles[task][0], "kind": titles[task][1]}
            for task in known.in_catalogue_order(titles)
        ],
        "tables": {protocol: _table(board, protocol, shown[protocol]) for protocol in PROTOCOLS},
        "ranks": ranks,
        "pairs": {
            protocol: list(_pairs(board, scores, protocol, ranks[protocol]["overall"])) for protocol in PROTOCOLS
        },
    }  # fmt: skip


def _notices(board: Board) -> list[JsonObject]:
    """Return what must be said beside the numbers, and of which runs, if not of all."""
    of = known.notices_by_run(board.runs)
    return [{"text": told, "runs": [] if len(those) == len(board.runs) else those} for told, those in of.items()]


def _run(run: Results, name: str, board: Board, about: Mapping[str, JsonObject]) -> JsonObject:
    model: ModelInfo = run.model
    return {
        "run": run.run, "name": name, "model": model.name, "title": model.title, **known.picked(model, _OF_A_MODEL),
        "zeroShot": [task for task in run.tasks if model.is_zero_shot_on(task)],
        "leaked": sorted(board.leaks.get(run.run, ())), "tasks": list(run.tasks), "limit": run.limit,
        "imported": run.imported is not None, **about[run.run],
    }  # fmt: skip


def _table(board: Board, protocol: Protocol, published: Sequence[Publication]) -> JsonObject:
    table = make_table(board, protocol, published=published)
    # Between a run and a paper nothing is decided, but among runs it stays so beside a paper.
    own = board.numbers[board.numbers["protocol"] == protocol]
    places = zip(own["task"], own["metric"], own["column"], strict=True)
    standings = dict(zip(places, own["standing"], strict=True))
    rows = [
        {
            **known.picked(first, ("task", "metric", "remark")), "definition": known.definition_of(first.signature),
            "lower": first.lower_is_better,
            "primary": any(one is not None and one.primary for one in line) or _decides(first, board),
            "cells": [
                None if one is None else _cell(one, standings.get((one.task, one.metric, one.column), "none"))
                for one in line
            ],
        }
        for first, line in table.lines()
    ]  # fmt: skip
    papers = table.columns[len(board.runs) :]
    return {"reported": [{"name": one.name, "source": one.source} for one in papers], "rows": rows}


def _decides(first: Number, board: Board) -> bool:
    """Return whether a metric of which only a paper has a number is the primary one of its task."""
    kind = next((run.tasks[first.task].kind for run in board.runs if first.task in run.tasks), None)
    return kind is not None and known.PRIMARY[kind] == first.metric


def _cell(number: Number, standing: Standing) -> JsonObject:
    """Return what is shown of a number; what says nothing is left out, since there are thousands."""
    told: JsonObject = {
        **known.picked(number, _ALSO_SHOWN), "ci": number.interval and [round(end, _DIGITS) for end in number.interval],
        "beside": remarks_on(number),
        "standing": "" if standing == "none" else standing, "leaked": number.leaked,
        "zeroShot": number.zero_shot, "std": number.std,
    }  # fmt: skip
    value = None if number.value is None else round(number.value, 2 + _DIGITS)
    return {"value": value} | {name: one for name, one in told.items() if one or (name == "ceiling" and one == 0)}


def remarks_on(number: Number) -> list[str]:
    """Return what must be read with a number: how much was answered, what failed, what that may have changed."""
    failed = [f"{count} {'failed' if why == 'errors' else why}" for why, count in number.not_ok.items() if count]
    return [*render.beside(number.answered, number.bounds), *([", ".join(failed)] if failed else [])]


def _ranks(board: Board, scores: ScoresByRun, protocol: Protocol) -> JsonObject:
    """Return the mean ranks of the runs that may be ranked over all tasks, None for the others, and why."""
    if len(board.runs) < _PAIR:
        return {"overall": [None], "why": [""], "leftOut": {}}
    found = rank_runs(board.runs, scores, board.names, protocol, board.leaks)
    overall = found.overall or (None,) * len(board.runs)
    return {
        "overall": [one and list(one) for one in overall],
        "why": list(found.unranked),
        "leftOut": dict(found.left_out),
    }


def _pairs(
    board: Board, scores: ScoresByRun, protocol: Protocol, overall: Sequence[Sequence[float] | None]
) -> Iterator[list[int]]:
    """Yield two runs, and on how many tasks the first is better, worse, and neither, by Holm's adjusted p."""
    ranked = sorted((rank[0], place) for place, rank in enumerate(overall) if rank)
    order = [place for _, place in ranked] or list(range(len(board.runs)))
    for pair in pairs_among(order):
        sides = [Side(results=board.runs[one], tables=scores.get(board.runs[one].run, {})) for one in pair]
        verdicts = list(compare(sides[0], sides[1], protocol, primary_only=True).decisive["verdict"])
        better, worse = verdicts.count("better"), verdicts.count("worse")
        yield [*pair, better, worse, len(verdicts) - better - worse]


def histories(board: Board, dates: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the runs of each model that has several, by the day on which they ended, as far as that is known."""
    found: dict[str, list[Results]] = {}
    for run in board.runs:
        found.setdefault(run.title, []).append(run)
    return {
        title: [run.run for run in sorted(of, key=lambda run: (dates[run.run], run.run))]
        for title, of in sorted(found.items()) if len(of) > 1
    }  # fmt: skip


def history_data(boards: Sequence[Board], dates: Mapping[str, str]) -> list[JsonObject]:
    """Return all runs by day with their primary metrics, for `data/history.json`; days that nobody noted are empty."""
    lines: list[JsonObject] = []
    for run in (run for board in boards for run in board.runs):
        primary = {
            protocol: {
                task: found.metrics(protocol)[metric].value
                for task, found in run.tasks.items()
                if (metric := known.primary_metric(found.kind, found.metrics(protocol)))
            }
            for protocol in PROTOCOLS
        }
        about = {"date": dates[run.run], "run": run.run, "model": run.title, "suite": run.suite}
        lines.append({**about, "primary": primary})
    return sorted(lines, key=lambda line: (line["date"], line["run"]))
