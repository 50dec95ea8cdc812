"""A site on disk: pages, data and copied reports, in a folder that is the site's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medbench.harness.results import MetricResult
from medbench.leaderboard.board import Board
from medbench.leaderboard.counts import not_ok
from medbench.leaderboard.export.public import results_text
from medbench.leaderboard.site.collect import REPORT_FILE, Collection
from medbench.leaderboard.site.index_page import render_index
from medbench.leaderboard.site.run_page import render_run
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import canonical_json, inside, read_json, write_atomically
from medbench.tasks.protocols import PROTOCOLS

MARK = "medbench-site.json"
"""Lists the files of a site, so that the next one made in its folder takes away what it no longer has."""


def site_files(found: Collection, title: str) -> dict[str, str]:
    """Return the content of every file of a site by its path; the same runs give the same bytes."""
    names = {run.run: name for board in found.boards for run, name in zip(board.runs, board.names, strict=True)}
    files = {
        "index.html": render_index(found, title),
        "data/boards.json": canonical_json([_board(board) for board in found.boards], indent=2) + "\n",
    }
    for identity, run in found.runs.items():
        files[f"runs/{identity}.html"] = render_run(run, names[identity])
        files[f"data/{identity}.json"] = results_text(run.results)
        if run.report:
            files[f"runs/{identity}/{REPORT_FILE}"] = _report(run.public.path / REPORT_FILE)
    return files


def _report(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}.", "Make it again: medbench report RUN") from error


def _board(board: Board) -> dict[str, Any]:
    return {
        "suite": board.suite,
        "notices": list(dict.fromkeys(notice for run in board.runs for notice in run.notices)),
        "runs": [{"run": run.run, "name": name} for run, name in zip(board.runs, board.names, strict=True)],
        "rows": {
            protocol: [
                {
                    "task": row.task,
                    "metric": row.metric,
                    "remark": row.remark,
                    "cells": [_cell(cell, compared) for cell, compared in zip(row.cells, row.compared, strict=True)],
                }
                for row in board.rows[protocol]
            ]
            for protocol in PROTOCOLS
        },
    }


def _cell(cell: MetricResult | None, compared: float | None) -> Mapping[str, Any] | None:
    if cell is None:
        return None
    return {
        "value": cell.value, "ci": cell.ci, "n": cell.n, "ceiling": cell.ceiling, "compared": compared,
        "answered": cell.answered, "among_answered": cell.among_answered, "bounds": cell.bounds, **not_ok(cell),
    }  # fmt: skip


def write_site(folder: Path, files: Mapping[str, str]) -> None:
    """Write a site, and take away the files of an earlier one that are no longer part of it.

    Raises:
        UsageError: If the folder holds anything that no site wrote.
        RunError: If it cannot be written to.
    """
    before = _files_before(folder)
    for name, text in files.items():
        write_atomically(folder / name, text)
    for name in sorted(set(before).difference(files)):
        inside(folder, name).unlink(missing_ok=True)
    write_atomically(folder / MARK, canonical_json({"files": sorted(files)}, indent=2) + "\n")


def _files_before(folder: Path) -> list[str]:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return []
    if not (folder / MARK).is_file():
        raise UsageError(f"{folder} holds other things than a site.", "Give an empty or a new folder with --output.")
    document = read_json(folder / MARK)
    files = document.get("files") if isinstance(document, dict) else None
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise UsageError(f"{folder / MARK} is not the list of a site's files.", "Give an empty or a new folder.")
    return files
