"""What may be passed on follows the data: not their layout, and not how many they are."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import medbench
from export_runs import GATED, Planted, as_lines, invented, write_run
from fixture_root import realdata
from native_data import slake

from medbench.leaderboard.export.formats import EveryEvalOptions, write_every_eval
from medbench.leaderboard.export.public import public_copy, read_public
from medbench.leaderboard.runs import is_credentialed, terms_of
from medbench.leaderboard.site import collect, site_files
from medbench.tasks.catalog import get_task, task_names
from medbench.tasks.cli import data_group
from medbench.tasks.foundation.errors import EXIT_USAGE
from medbench.tasks.prepare import prepare_task
from medbench.tasks.prepared import load_prepared
from medbench.tasks.suite import SuiteName, prepare_mini_suite
from medbench.tasks.terms import (
    KNOWN_FILE,
    NOBODY_SAID,
    checked_licence,
    is_under_agreement,
    known_data,
    terms_of_data,
    terms_of_prepared,
)

CLOSED = {"mimic-cxr", "mimic-cxr-impression", "mimic-cxr-both"}


def test_unknown_data_of_every_task_are_closed_until_their_owner_says_otherwise() -> None:
    for name in task_names():
        assert terms_of_data(name, "f" * 64, bundled=False, licence="").openness == "closed", name
        said = terms_of_data(name, "f" * 64, bundled=False, licence="CC BY 4.0")
        assert said.openness == ("closed" if name in CLOSED else "open"), name
        assert terms_of_data(name, "f" * 64, bundled=True, licence="").openness == "open", name
    assert terms_of_data("slake-vqa", "f" * 64, bundled=False, licence="").reason == NOBODY_SAID
    assert terms_of_data("a-plugins-task", "f" * 64, bundled=False, licence="MIT").openness == "closed"


@pytest.mark.parametrize(("licence", "openness"), [
    ("MIT", "open"), ("CC BY 4.0", "open"), ("CC BY-NC-SA 4.0 and more", "open"), ("CC0 1.0", "open"),
    ("CC-BY-4.0", "open"), ("Apache-2.0", "open"),
    ("CC BY-ND 4.0", "closed"), ("CC BY-NC-ND 4.0", "closed"), ("none stated", "closed"), ("", "closed"),
    ("MITRE internal", "closed"), ("internal, not CC BY 4.0", "closed"),
])  # fmt: skip
def test_a_licence_opens_only_what_it_says(licence: str, openness: str) -> None:
    assert terms_of_data("slake-vqa", "f" * 64, bundled=False, licence=licence).openness == openness


def test_of_a_published_dataset_without_a_free_licence_the_samples_names_are_no_secret() -> None:
    said = get_task("mpx-single").licence
    assert terms_of_data("mpx-single", "f" * 64, bundled=False, licence=said).openness == "no texts"


def test_the_mini_suite_is_known_by_its_samples_wherever_it_lies() -> None:
    folder = prepare_mini_suite()
    for name in ("slake-vqa", "mimic-cxr", "mpx-single"):
        prepared = load_prepared(folder, name)
        assert terms_of_prepared(prepared).openness == "open"
        assert not is_under_agreement(prepared)
        digests = {**prepared.manifest.sha256, "test": "0" * 64}
        other = replace(prepared, manifest=replace(prepared.manifest, sha256=digests))
        assert terms_of_prepared(other).openness == "closed"
        assert is_under_agreement(other) == (name in CLOSED)


def test_real_data_are_known_by_their_recorded_fingerprint(tmp_path: Path) -> None:
    folder = realdata("pubmedqa")
    for name in ("pubmedqa", "pubmedqa-context"):
        prepared = prepare_task(get_task(name), folder, tmp_path, {})
        assert {prepared.manifest.data_fingerprint} == known_data()[name], f"record it in {KNOWN_FILE.name}"
        assert (terms_of_prepared(prepared).openness, terms_of_prepared(prepared).licence) == ("open", "MIT")


def test_as_many_samples_as_the_papers_prove_nothing(tmp_path: Path) -> None:
    """500 questions of somebody's own, in PubMedQA's layout, are `paper` by their counts."""
    rows = {
        str(number): {
            "QUESTION": f"Is it {number}?", "CONTEXTS": ["It is."], "LONG_ANSWER": "It is.", "final_decision": "yes",
        }
        for number in range(1000)
    }  # fmt: skip
    source = tmp_path / "own"
    source.mkdir()
    (source / "ori_pqal.json").write_text(json.dumps(rows), encoding="utf-8")
    truth = dict.fromkeys(list(rows)[:500], "yes")
    (source / "test_ground_truth.json").write_text(json.dumps(truth), encoding="utf-8")
    prepared = prepare_task(get_task("pubmedqa"), source, tmp_path / "data", {})
    assert prepared.manifest.counts["test"] == prepared.spec.counts["test"]
    assert terms_of_prepared(prepared).openness == "closed"


def test_own_data_in_the_layout_of_an_open_dataset_stay(tmp_path: Path) -> None:
    suites: tuple[SuiteName, ...] = ("paper", "custom")
    for suite in suites:
        own = invented({"slake-vqa": 0.5, "dermamnist": 0.5}, title=suite, suite=suite, owned=False)
        path = write_run(tmp_path / suite, own, Planted())
        (path / "report.html").write_text(GATED, encoding="utf-8")
        run = read_public(path, {})
        left = dict(public_copy(run).files)
        files = write_every_eval(
            tmp_path / f"{suite}-every", run, EveryEvalOptions(timestamp=1), data_dir=None, with_inputs=True
        )
        left |= {file.name: file.read_text(encoding="utf-8") for file in files}
        left |= site_files(collect(tmp_path / suite, all_reports=False), "A board")
        for name, text in left.items():
            assert not [one for one in (GATED, Planted().sample, Planted().patient) if one in text], name
        assert '"licence": "CC BY 4.0"' not in left[files[0].name]
        assert "data in the layout of Slake-VQA" in left[files[0].name]
        assert any(NOBODY_SAID in text for text in left.values())
        # They are their owner's to look at: a report on this machine shows them.
        assert not is_credentialed(run.results, "slake-vqa")
        assert terms_of(run.results, "slake-vqa").openness == "closed"


def test_who_owns_the_data_says_so_when_they_are_prepared(tmp_path: Path) -> None:
    """The same fingerprint, the same answers: what changes is what may leave."""
    native, data, runs = slake(tmp_path / "own"), tmp_path / "data", tmp_path / "runs"
    prepare = ("data", "prepare", "slake-vqa", "--source", native, "--data-dir", data)
    first = medbench(*prepare)
    assert (first.returncode, NOBODY_SAID in first.stderr + first.stdout) == (0, True)
    before = load_prepared(data, "slake-vqa").manifest
    ran = medbench(
        "run", "--model", "mock:oracle", "--tasks", "slake-vqa", "--data-dir", data, "--output-dir", runs
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    [run] = [folder for folder in runs.iterdir() if folder.is_dir()]
    assert exported(run, tmp_path / "closed") == [{"raw": "", "reference": []}]
    assert not list((site_of(runs, tmp_path / "site") / "runs").glob("*/report.html"))
    second = medbench(*prepare, "--licence", "CC BY 4.0")
    assert (second.returncode, NOBODY_SAID in second.stderr + second.stdout) == (0, False)
    after = load_prepared(data, "slake-vqa").manifest
    assert after == replace(before, licence="CC BY 4.0")
    assert medbench("score", run).returncode == 0
    [shown] = exported(run, tmp_path / "open")
    assert (shown["raw"] != "", shown["reference"]) == (True, ["MRI"])
    assert len(list((site_of(runs, tmp_path / "site") / "runs").glob("*/report.html"))) == 1


def exported(run: Path, folder: Path) -> list[dict[str, object]]:
    """Return the distinct inputs in an export."""
    done = medbench("export", run, "--format", "every-eval-ever", "--output", folder)
    assert done.returncode == 0, done.stderr
    [lines] = folder.rglob("*_samples.jsonl")
    return [
        {name: value for name, value in json.loads(one).items() if name in {"raw", "reference"}}
        for one in sorted({json.dumps(line["input"]) for line in as_lines(lines.read_text(encoding="utf-8"))})
    ]


def site_of(runs: Path, folder: Path) -> Path:
    done = medbench("site", runs, "--output", folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_nobodys_word_opens_data_under_an_agreement(tmp_path: Path) -> None:
    refused = medbench(
        "data", "prepare", "mimic-cxr", "--source", tmp_path, "--data-dir", tmp_path / "data", "--licence", "CC0"
    )
    assert (refused.returncode, "--licence has no effect on mimic-cxr" in refused.stderr) == (EXIT_USAGE, True)
    assert checked_licence(get_task("mimic-cxr"), "") == ""
    assert checked_licence(get_task("slake-vqa"), " CC  BY 4.0\n") == "CC BY 4.0"
    assert "licence" in {option.name for option in data_group.commands["prepare"].params}
