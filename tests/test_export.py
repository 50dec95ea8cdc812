"""A run in the formats of others: golden files, what their schemas ask, and refusals that say what to do."""

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import medbench
from every_eval_schema import LINE, RUN
from export_runs import as_lines, invented, metric, write_run
from huggingface_hub import parse_eval_result_entries
from pydantic import ValidationError

from medbench.harness.results import Results, read_results, write_results
from medbench.leaderboard.export import public
from medbench.leaderboard.export.formats import (
    EvalResultsOptions,
    EveryEvalOptions,
    eval_result_files,
    read_datasets,
    without_dataset,
    write_every_eval,
)
from medbench.leaderboard.export.public import PublicRun, parquet_metadata, public_records, read_public, write_parquet
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.suite import prepare_mini_suite

GOLDEN = Path(__file__).with_name("golden") / "export"
OPTIONS = EveryEvalOptions(timestamp=1_760_000_000, organization="Example Lab")
MINI = "MINI SUITE: never beside the paper's"


def golden(name: str, text: str) -> None:
    """Hold a text against its golden file; MEDBENCH_WRITE_GOLDEN=1 writes it anew, to be read before it is kept."""
    if os.environ.get("MEDBENCH_WRITE_GOLDEN"):
        (GOLDEN / name).parent.mkdir(parents=True, exist_ok=True)
        (GOLDEN / name).write_text(text, encoding="utf-8")
    assert text == (GOLDEN / name).read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> PublicRun:
    values = {"mimic-cxr": 0.21, "mpx-single": None, "slake-vqa": 0.4333}
    return read_public(write_run(tmp_path, invented(values, title="Model <A>")), {})


def test_eval_results_are_the_golden_file(run: PublicRun) -> None:
    files = eval_result_files(run.results, EvalResultsOptions(source_url="https://example.org/run", date="2026-05-31"))
    assert list(files) == [".eval_results/BoKelvin--SLAKE.yaml"]
    golden("eval_results.yaml", files[".eval_results/BoKelvin--SLAKE.yaml"])
    assert without_dataset(run.results, EvalResultsOptions()) == ("mimic-cxr", "mpx-single")


def test_eval_results_are_read_back_by_the_hubs_own_classes(run: PublicRun) -> None:
    text = eval_result_files(run.results, EvalResultsOptions(scale="fraction"))[".eval_results/BoKelvin--SLAKE.yaml"]
    entries = parse_eval_result_entries(yaml.safe_load(text))
    assert [(entry.task_id, entry.value) for entry in entries] == [
        ("slake_vqa_bleu1", 0.4333),
        ("slake_vqa_f1", 0.4333),
    ]
    assert entries[0].source_url is None


def test_one_file_has_one_protocol(run: PublicRun) -> None:
    for protocol, other in (("paper", "strict"), ("strict", "paper")):
        options = EvalResultsOptions(protocol="paper" if protocol == "paper" else "strict")
        (text,) = eval_result_files(run.results, options).values()
        assert f"medbench protocol {protocol}" in text
        assert f"|{other}|" not in text


@pytest.mark.parametrize("results", [
    invented({"slake-vqa": 0.5}, title="A", suite="mini", notices=[MINI]),
    invented({"slake-vqa": 0.5}, title="A", suite="custom"),
    invented({"slake-vqa": 0.5}, title="A", limit=2),
], ids=["mini", "custom", "limited"])  # fmt: skip
def test_numbers_of_other_data_are_put_on_no_dataset_by_themselves(results: Results) -> None:
    with pytest.raises(UsageError, match="--dataset OWNER/NAME"):
        eval_result_files(results, EvalResultsOptions())


def test_a_dataset_that_the_user_names_takes_them_with_their_notices() -> None:
    results = invented({"slake-vqa": 0.5, "mimic-cxr": 0.5}, title="A", suite="mini", notices=[MINI], limit=2)
    options = EvalResultsOptions(datasets=read_datasets(["me/mini", "slake-vqa=me/slake.mini"]))
    files = eval_result_files(results, options)
    assert sorted(files) == [".eval_results/me--mini.yaml", ".eval_results/me--slake.mini.yaml"]
    for text in files.values():
        notes = [entry["notes"] for entry in yaml.safe_load(text)]
        assert all(MINI in note and "the first 2 samples only" in note for note in notes)


@pytest.mark.parametrize("word", ["nobody", "a/b/c", "a/..", "slake-vqa=", "-a/b", "a/b.git", "a/" + "b" * 96, "a/b\n"])
def test_what_is_no_repository_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME"):
        read_datasets([word])


def test_a_dataset_for_no_task_is_refused() -> None:
    with pytest.raises(UsageError, match="slake-vqa"):
        read_datasets(["slake-vqqa=me/x"])


def test_every_eval_ever_is_the_golden_files_and_fits_the_schema(
    run: PublicRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medbench.leaderboard.export.formats.version", lambda name: f"version of {name}")
    document, samples = write_every_eval(tmp_path / "out", run, OPTIONS, data_dir=None, with_inputs=False)
    golden("every_eval.json", document.read_text(encoding="utf-8"))
    golden("every_eval_samples.jsonl", samples.read_text(encoding="utf-8"))
    content = json.loads(document.read_text(encoding="utf-8"))
    RUN.validate_python(content)
    lines = as_lines(samples.read_text(encoding="utf-8"))
    for line in lines:
        LINE.validate_python(line)
    reference = content["detailed_evaluation_results"]
    assert reference["total_rows"] == len(lines) == 8
    assert reference["checksum"] == hashlib.sha256(samples.read_bytes()).hexdigest()
    assert samples == tmp_path / "out" / reference["file_path"]
    assert document.stem == samples.stem.removesuffix("_samples")
    assert {line["evaluation_id"] for line in lines} == {content["evaluation_id"]}
    assert {line["model_id"] for line in lines} == {content["model_info"]["id"]}
    numbers = {number["evaluation_result_id"] for number in content["evaluation_results"]}
    assert {"slake-vqa/paper/bleu1", "slake-vqa/paper/f1", "mimic-cxr/paper/bleu1"} == numbers


def test_the_schema_check_sees_what_is_wrong(run: PublicRun, tmp_path: Path) -> None:
    document, _ = write_every_eval(tmp_path / "out", run, OPTIONS, data_dir=None, with_inputs=False)
    content: dict[str, Any] = json.loads(document.read_text(encoding="utf-8"))
    for broken in (
        {**content, "more": 1},
        {**content, "retrieved_timestamp": "yesterday"},
        {name: value for name, value in content.items() if name != "model_info"},
    ):
        with pytest.raises(ValidationError):
            RUN.validate_python(broken)


def test_a_failed_sample_has_no_line(run: PublicRun, tmp_path: Path) -> None:
    _, samples = write_every_eval(tmp_path / "out", run, OPTIONS, data_dir=None, with_inputs=False)
    assert {line["metadata"]["state"] for line in as_lines(samples.read_text(encoding="utf-8"))} == {"ok"}


def test_the_mini_suites_notice_travels_in_every_format(tmp_path: Path) -> None:
    results = invented({"slake-vqa": 0.5}, title="A", suite="mini", notices=[MINI])
    run = read_public(write_run(tmp_path, results), {})
    document, _ = write_every_eval(tmp_path / "out", run, OPTIONS, data_dir=None, with_inputs=False)
    assert MINI in document.read_text(encoding="utf-8")
    assert (
        "stand-in"
        in json.loads(document.read_text(encoding="utf-8"))["evaluation_results"][0]["source_data"]["dataset_name"]
    )
    assert parquet_metadata(run)["notices"] == [MINI]


def test_questions_come_from_the_data_of_the_run_and_no_others(small_data: Path, tmp_path: Path) -> None:
    prepared = load_prepared(small_data, "slake-vqa")
    sample = prepared.samples("test")[0]
    results = invented({"slake-vqa": 0.5}, title="A")
    right = replace(results.tasks["slake-vqa"], data=prepared.manifest.data_fingerprint)
    path = write_run(tmp_path, replace(results, tasks={"slake-vqa": right}))
    scores = path / "scores" / "slake-vqa.jsonl"
    lines = as_lines(scores.read_text(encoding="utf-8"))
    lines[0]["sample_id"] = sample.sample_id
    scores.write_text("".join(json.dumps(line) + "\n" for line in lines[:1]), encoding="utf-8")
    (path / "generations" / "slake-vqa.jsonl").unlink()
    run = read_public(path, {})
    _, samples = write_every_eval(tmp_path / "out", run, OPTIONS, data_dir=small_data, with_inputs=True)
    line = as_lines(samples.read_text(encoding="utf-8"))[0]
    LINE.validate_python(line)
    assert sample.inputs["question"] in line["input"]["raw"]
    assert line["input"]["reference"] == [sample.reference]
    assert len(line["sample_hash"]) == 64
    other = read_public(write_run(tmp_path / "other", invented({"slake-vqa": 0.5}, title="B")), {})
    with pytest.raises(DataError, match="not the data that the run answered"):
        write_every_eval(tmp_path / "out", other, OPTIONS, data_dir=small_data, with_inputs=True)
    with pytest.raises(DataError, match="--data-dir"):
        write_every_eval(tmp_path / "out", other, OPTIONS, data_dir=tmp_path / "nowhere", with_inputs=True)
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_a_models_name_that_is_none_is_refused(run: PublicRun, tmp_path: Path) -> None:
    for name in ("nobody", "../../x/y", "a/b/c", "a/b "):
        with pytest.raises(UsageError, match="--model-id OWNER/NAME"):
            write_every_eval(tmp_path, run, replace(OPTIONS, model_id=name), data_dir=None, with_inputs=False)


def test_a_run_without_numbers_is_nothing_to_export(tmp_path: Path) -> None:
    run = read_public(write_run(tmp_path, invented({"slake-vqa": None}, title="A")), {})
    with pytest.raises(UsageError, match="no number"):
        write_every_eval(tmp_path / "out", run, OPTIONS, data_dir=None, with_inputs=False)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="None of the run's numbers"):
        eval_result_files(run.results, EvalResultsOptions())


def test_parquet_is_the_golden_rows_and_carries_the_numbers(run: PublicRun, tmp_path: Path) -> None:
    from pyarrow import parquet

    file = tmp_path / "out" / "scores.parquet"
    rows = write_parquet(file, run)
    table = parquet.read_table(file)
    assert rows == table.num_rows == 3 * 2 * (1 + 1 + 2)
    golden("parquet_rows.json", json.dumps(table.to_pylist(), indent=1) + "\n")
    told = json.loads(table.schema.metadata[b"medbench"])
    assert told["numbers"]["slake-vqa"]["paper"]["bleu1"]["value"] == 0.4333
    assert "signed agreement" in told["left_out"]["mimic-cxr"]
    again = tmp_path / "again.parquet"
    write_parquet(again, run)
    assert again.read_bytes() == file.read_bytes()


def test_parquet_is_the_same_in_small_row_groups(
    run: PublicRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyarrow import parquet

    rows = write_parquet(tmp_path / "whole.parquet", run)
    monkeypatch.setattr(public, "_ROW_GROUP", 1)
    assert write_parquet(tmp_path / "pieces.parquet", run) == rows
    whole, pieces = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "pieces"))
    assert pieces.to_pylist() == whole.to_pylist()
    assert parquet.ParquetFile(tmp_path / "pieces.parquet").num_row_groups > len(run.results.tasks)


def test_parquet_agrees_with_the_results_of_a_run(run: PublicRun, tmp_path: Path) -> None:
    from pyarrow import parquet

    write_parquet(tmp_path / "s.parquet", run)
    rows = [row for row in parquet.read_table(tmp_path / "s.parquet").to_pylist() if row["task"] == "slake-vqa"]
    scored = [row for row in rows if row["score"] is not None]
    assert len(scored) == 2 * 2 * 2
    assert {row["state"] for row in rows if row["score"] is None} == {"error"}


def test_without_pyarrow_parquet_says_how_to_get_it(
    run: PublicRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UsageError, match=r"medbench\[parquet\]"):
        write_parquet(tmp_path / "s.parquet", run)
    assert not (tmp_path / "s.parquet").exists()


def test_a_file_that_fails_half_way_is_not_there(run: PublicRun, tmp_path: Path) -> None:
    (run.path / "scores" / "slake-vqa.jsonl").write_text("no json\n", encoding="utf-8")
    with pytest.raises(DataError):
        write_parquet(tmp_path / "out" / "s.parquet", run)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_explained(run: PublicRun, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match="Choose a folder"):
        write_parquet(tmp_path / "file" / "s.parquet", run)


def test_only_the_bundled_samples_of_a_closed_task_are_free_not_real_ones_beside_them(tmp_path: Path) -> None:
    bundled = load_prepared(prepare_mini_suite(), "mimic-cxr").manifest.data_fingerprint
    for data, openness in ((bundled, "open"), ("f" * 64, "closed")):
        results = invented({"mimic-cxr": 0.5}, title=data[:5], suite="mini")
        task = replace(results.tasks["mimic-cxr"], data=data)
        run = read_public(write_run(tmp_path, replace(results, tasks={"mimic-cxr": task})), {})
        assert run.terms["mimic-cxr"].openness == openness
    results = invented({"mimic-cxr": 0.5}, title="no mini", suite="custom")
    assert read_public(write_run(tmp_path, results), {}).terms["mimic-cxr"].openness == "closed"


def test_a_task_that_nobody_knows_is_closed(tmp_path: Path) -> None:
    results = invented({"slake-vqa": 0.5}, title="A")
    path = write_run(tmp_path, replace(results, tasks={"of-a-plugin": results.tasks["slake-vqa"]}))
    run = read_public(path, {})
    assert run.terms["of-a-plugin"].openness == "closed"
    assert {(record.prediction, len(record.labels)) for record in public_records(run, "of-a-plugin")} == {("", 0)}


def test_names_of_closed_samples_are_running_numbers_that_keep_their_clusters(run: PublicRun) -> None:
    scores = public_records(run, "mimic-cxr")
    assert [record.sample_id for record in scores] == [f"mimic-cxr/00000{number}" for number in (1, 2, 3)]
    assert [record.group[-1] for record in scores] == ["1", "1", "2"]


def test_results_of_another_run_and_names_that_are_paths_are_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path, invented({"slake-vqa": 0.5}, title="A"))
    good = read_results(path)
    write_results(path / "results.json", replace(good, run="../../../etc"))
    with pytest.raises(RunError, match="those of another run"):
        read_public(path, {})
    write_results(path / "results.json", replace(good, tasks={"../../etc": good.tasks["slake-vqa"]}))
    with pytest.raises(DataError, match="field tasks"):
        read_public(path, {})


def test_a_metric_without_value_is_left_out_of_eval_results() -> None:
    results = invented({"slake-vqa": 0.5}, title="A")
    task = results.tasks["slake-vqa"]
    mixed = replace(task, paper={"bleu1": metric(None, 0), "f1": metric(0.25, 2)})
    (text,) = eval_result_files(replace(results, tasks={"slake-vqa": mixed}), EvalResultsOptions()).values()
    assert [entry["dataset"]["task_id"] for entry in yaml.safe_load(text)] == ["slake_vqa_f1"]


def test_the_command_writes_each_format_and_says_what_stays(tmp_path: Path) -> None:
    results = invented({"mimic-cxr": 0.2, "slake-vqa": 0.5}, title="A", notices=["SAY: so"])
    path = write_run(tmp_path, results)
    for form, output, words in (
        ("parquet", "s.parquet", []),
        ("every-eval-ever", "eee", ["--no-inputs"]),
        ("eval-results", "hub", ["--scale", "fraction"]),
    ):
        done = medbench("export", path, "--format", form, "--output", tmp_path / output, *words)
        assert done.returncode == 0, done.stderr
        assert "SAY: so" in done.stderr
        assert "mimic-cxr" in done.stderr
    assert (tmp_path / "s.parquet").is_file()
    assert len(list((tmp_path / "eee").rglob("*.json*"))) == 2
    assert [file.name for file in (tmp_path / "hub" / ".eval_results").iterdir()] == ["BoKelvin--SLAKE.yaml"]


def test_an_option_that_says_nothing_of_a_format_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path, invented({"slake-vqa": 0.5}, title="A"))
    done = medbench("export", path, "--format", "parquet", "--output", tmp_path / "x", "--scale", "percent")
    assert (done.returncode, "--scale says nothing of parquet" in done.stderr) == (2, True)
    assert not (tmp_path / "x").exists()
