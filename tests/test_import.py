"""`medbench import`: predictions of others, whatever their form, are matched with samples and become runs."""

import csv
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command_line import medbench
from native_data import write_json

import medbench as api
from medbench.harness.predictions.formats import format_of, read_predictions
from medbench.harness.predictions.importing import About, import_run
from medbench.harness.predictions.matching import match
from medbench.harness.predictions.rows import Prediction, Source
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.suite import prepare_mini_suite

Rows = Sequence[Mapping[str, Any]]


def samples_of(task: str) -> tuple[Sample, ...]:
    return load_prepared(prepare_mini_suite(), task).samples("test")


def lines(path: Path, rows: Rows) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, task: str = "slake-vqa", **options: Any) -> tuple[Prediction, ...]:
    return read_predictions(Source(path=path, **options), get_task(task))


# Tables

TABLE: Rows = [
    {"Question ID": 7, "img_name": "a.jpg", "model answer": "yes", "gt": "Yes", "answer_type": "closed"},
    {"Question ID": 8, "img_name": "b.jpg", "model answer": "liver", "gt": "Lung", "answer_type": "open"},
]


def table(folder: Path, form: str) -> Path:
    path, frame = folder / f"answers.{form}", pd.DataFrame(TABLE)
    if form in {"csv", "tsv"}:
        frame.to_csv(path, index=False, sep="," if form == "csv" else "\t")
    elif form == "parquet":
        frame.assign(picture=b"bytes").to_parquet(path)
    elif form == "jsonl":
        lines(path, TABLE)
    else:
        write_json(path, {"model": "m", "results": TABLE})
    return path


@pytest.mark.parametrize("form", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_a_table_is_read_by_common_names_of_its_columns(tmp_path: Path, form: str) -> None:
    first, second = read(table(tmp_path, form))
    assert (first.sample_id, first.image, first.prediction, first.reference) == ("7", "a.jpg", "yes", "Yes")
    assert (second.prediction, second.reference, second.answer_type) == ("liver", "Lung", "OPEN")


def test_columns_can_be_named_and_wrong_names_are_answered_with_a_guess(tmp_path: Path) -> None:
    path = table(tmp_path, "csv")
    assert read(path, columns={"prediction": "gt"})[0].prediction == "Yes"
    with pytest.raises(UsageError, match=r"no column 'foo'(.|\n)*It has: Question ID, (.|\n)*prediction=model answer"):
        read(path, columns={"prediction": "foo"})
    with pytest.raises(UsageError, match=r"no column of ours named 'predicton'(.|\n)*Did you mean prediction"):
        read(path, columns={"predicton": "gt"})
    (tmp_path / "b.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"common for a prediction(.|\n)*It has: a, b. Say which"):
        read(tmp_path / "b.csv")


def test_boxes_sizes_and_choices_of_a_csv_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prediction,bbox,image_size\n"[1, 2, 3, 4]","1, 2, 3, 4","[9, 8]"\n')
    (one,) = read(path, "slake-rec")
    assert (one.box, one.image_size) == ((1, 2, 3, 4), (9, 8))
    path.write_text('prediction,reference,choices\nB,warfarin,"[""aspirin"", ""warfarin""]"\n')
    (one,) = read(path, "medqa-options")
    assert (one.reference, dict(one.choices)) == ("B", {"A": "aspirin", "B": "warfarin"})


def test_right_answers_come_from_a_second_table(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("id,answer\n1,yes\n2,no\n")
    (tmp_path / "r.csv").write_text("qid,question,gold\n2,Is it?,No\n1,Was it?,Yes\n")
    found = read(tmp_path / "p.csv", references=tmp_path / "r.csv")
    assert [(one.prediction, one.reference, one.question) for one in found] == [
        ("yes", "Yes", "Was it?"),
        ("no", "No", "Is it?"),
    ]
    (tmp_path / "r.csv").write_text("qid,gold\n2,No\n")
    with pytest.raises(DataError, match=r"p.csv, line 2 has no sample_id that"):
        read(tmp_path / "p.csv", references=tmp_path / "r.csv")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "prediction,x\n1,2,3\n", "line 2 has 3 cells, and the header 2"),
        ("a.csv", "prediction,prediction\n1,2\n", "two columns 'prediction'"),
        ("a.json", '{"a": 1,\n"b": 2}', "no list of objects"),
        ("a.json", '{"a": [{"x": 1}],\n"b": [{"x": 1}]}', "several: a, b"),
        ("a.jsonl", '{"prediction": "x"}\n{', "line 2 is not JSON"),
        ("a.parquet", "PAR1 and nothing more", "no readable Parquet file"),
        ("a.eval", "PK\x03\x04 and nothing more", "cannot be unpacked"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=words):
        read(tmp_path / name)


# Logs

GENERATED = {
    "doc_id": 1, "doc": {"qid": 11, "question": "Which organ?", "img_name": "x/b.jpg", "answer": "Lung"},
    "target": "Lung", "arguments": {"gen_args_0": {"arg_0": "Which organ?\nAnswer:", "arg_1": {"until": ["\n"]}}},
    "resps": [["The lung."]], "filtered_resps": ["lung"], "filter": "none", "metrics": ["exact_match"],
    "doc_hash": "a", "prompt_hash": "b", "target_hash": "c", "exact_match": 0.0,
}  # fmt: skip
WORDS = ("yes", "no")
CHOSEN = {
    "doc_id": 0, "doc": {"question": "Is it?"}, "target": "1",
    "arguments": {f"gen_args_{place}": {"arg_0": "Is it?", "arg_1": f" {word}"} for place, word in enumerate(WORDS)},
    "resps": [[["-2.5", "False"]], [["-0.5", "True"]]], "filtered_resps": [["-2.5", "False"], ["-0.5", "True"]],
    "filter": "none", "metrics": ["acc"], "doc_hash": "a", "acc": 1.0,
}  # fmt: skip


def test_a_log_of_lm_eval(tmp_path: Path) -> None:
    path = lines(tmp_path / "samples_x.jsonl", [GENERATED, CHOSEN, {**GENERATED, "filter": "strict"}])
    assert format_of(Source(path=path)) == "lm-eval"
    chosen, generated = read(path)
    assert (generated.prediction, generated.reference, generated.sample_id) == ("The lung.", "Lung", "11")
    assert (generated.question, generated.image) == ("Which organ?", "x/b.jpg")
    assert (chosen.prediction, chosen.reference, dict(chosen.choices)) == ("no", "no", {"yes": "yes", "no": "no"})
    lines(path, [GENERATED, GENERATED])
    with pytest.raises(DataError, match=r"line 2 has the doc_id of .*line 1"):
        read(path)
    lines(path, [{**CHOSEN, "arguments": {}}])
    with pytest.raises(DataError, match="the options are not there"):
        read(path)


def test_a_log_of_lmms_eval_has_no_names_but_prompts(tmp_path: Path) -> None:
    rows = [
        {"doc_id": place, "target": word, "filtered_resps": [word.upper()], "doc_hash": "h", "submission": {},
         "input": f"Which one is {word}?\nAnswer the question using a single word or phrase."}
        for place, word in enumerate(("a", "b"))
    ]  # fmt: skip
    first, _ = read(lines(tmp_path / "20260101_samples_x.jsonl", rows), form="lmms-eval")
    assert (first.prediction, first.reference, first.sample_id) == ("A", "a", "")
    assert first.question.startswith("Which one is a?\n")


def inspected(place: int, **more: Any) -> dict[str, Any]:
    spoken = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "B"}]
    message = {"role": "assistant", "content": spoken}
    asked = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Which?"}]},
    ]
    return {
        "id": place, "epoch": 1, "target": "B", "choices": ["aspirin", "warfarin"], "messages": [], "scores": {},
        "input": asked, "output": {"model": "m", "choices": [{"message": message, "stop_reason": "stop"}]},
        "metadata": {}, **more,
    }  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_a_log_of_inspect(tmp_path: Path, packed: bool) -> None:
    cut = {"completion": "attachment://k", "choices": [{"message": {"content": ""}, "stop_reason": "max_tokens"}]}
    rows = [
        inspected(1), inspected(1, epoch=2), inspected(2, error={"message": "x", "traceback": ""}),
        inspected(3, output=cut, attachments={"k": "a long one"}, target="warfarin"),
    ]  # fmt: skip
    path = tmp_path / ("log.eval" if packed else "log.json")
    if packed:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("header.json", "{}")
            for row in rows:
                archive.writestr(f"samples/{row['id']}_epoch_{row['epoch']}.json", json.dumps(row))
    else:
        path.write_text(json.dumps({"version": 2, "status": "success", "eval": {}, "samples": rows}))
    assert format_of(Source(path=path)) == "inspect"
    first, failed, last = read(path, "medqa-options")
    assert (first.sample_id, first.question, first.prediction, first.reference) == ("1", "Which?", "B", "B")
    assert failed.prediction is None
    assert (last.prediction, last.stop, last.reference) == ("a long one", "length", "B")


# Matching


def said(place: int, **fields: Any) -> Prediction:
    return Prediction(where=f"row {place}", **{"prediction": "x", "reference": None, **fields})


def by_question_and_image(one: Sample) -> Prediction:
    return said(0, question=f"<image>\n{one.inputs['question']}\nBriefly.", image=f"/x/{one.images[0].path}")


@pytest.mark.parametrize(
    ("way", "task", "asked"),
    [
        ("the ids of the samples", "slake-vqa", lambda one: said(0, sample_id=one.sample_id)),
        ("the dataset's own ids", "slake-vqa", lambda one: said(0, sample_id=one.sample_id.rpartition("q")[2])),
        ("question and image", "slake-vqa", by_question_and_image),
        ("question and image", "slake-rec", lambda one: said(0, question=one.reference, image=one.groups["image"])),
        ("the question", "medqa", lambda one: said(0, question=f"Question: {one.inputs['question']}")),
        ("their order, since", "slake-vqa", lambda one: said(0, reference=one.reference.upper())),
    ],
)
def test_predictions_find_their_samples_in_every_way(
    way: str, task: str, asked: Callable[[Sample], Prediction]
) -> None:
    samples = samples_of(task)
    matched = match([asked(one) for one in samples], samples, "x")
    assert matched.way.startswith(way)
    assert list(matched.answers) == list(range(len(samples)))


def test_what_cannot_be_matched_is_told() -> None:
    vqa = samples_of("slake-vqa")
    ids = [one.sample_id for one in vqa]
    with pytest.raises(DataError, match=r"No prediction of x could be matched(.|\n)*--column sample_id"):
        match([said(0)], vqa, "x")
    with pytest.raises(DataError, match=r"row 1 and row 2 answer one sample"):
        match([said(1, sample_id=ids[0]), said(2, sample_id=f"{ids[0]}")], vqa, "x")
    matched = match([said(1, sample_id=ids[3]), said(2, sample_id="nobody's")], vqa, "x")
    assert (list(matched.answers), [one.where for one in matched.nowhere]) == ([3], ["row 2"])
    # Numbers of rows that begin at 0 are not the dataset's, which begin at 1.
    qa = samples_of("medqa")
    with pytest.raises(DataError, match=r"1 of 100 ids of x are none of the dataset's"):
        match([said(place, sample_id=str(place)) for place in range(len(qa))], qa, "x")
    # The same question of several images is nobody's without its image; by order only if the references agree.
    wrong = [said(0, reference=one.reference if place else "another") for place, one in enumerate(vqa)]
    with pytest.raises(DataError, match="could be matched"):
        match(wrong, vqa, "x")


# Runs


def qa_rows(count: int = 100) -> Rows:
    found = enumerate(samples_of("medqa-options")[:count])
    return [
        {"id": one.sample_id, "response": one.reference if place % 2 else "E", "gt": one.reference}
        for place, one in found
    ]


def test_a_file_becomes_a_run_which_says_what_is_not_known(tmp_path: Path) -> None:
    file = lines(tmp_path / "answers.jsonl", [*qa_rows(90), {"id": "nobody's", "response": "A", "gt": "A"}])
    given = {"medqa-options": Source(path=file)}
    about = About(name="GPT-x", trained_on=("medqa",), parameters=7, released="2024-05", open_weights=False)
    outcome = import_run(about, given, data_dir=prepare_mini_suite(), output_dir=tmp_path / "runs")
    results, path = outcome.results, outcome.path
    assert (results.title, results.model.released, results.model.open_weights) == ("GPT-x (imported)", "2024-05", False)
    assert results.imported is not None
    assert results.imported.files["medqa-options"].startswith("answers.jsonl sha256:")
    assert "hardware" in results.imported.unknown
    assert dict(results.tasks["medqa-options"].states) == {
        "ok": 45, "unparsed": 45, "empty": 0, "refused": 0, "truncated": 0, "error": 10,
    }  # fmt: skip
    told = "\n".join(results.notices)
    assert "10 of 100 samples have no prediction and count as failures" in told
    assert "1 of 91 predictions answer no sample" in told
    assert "IMPORTED: the answers of GPT-x" in (path / "leaderboard.md").read_text()
    assert {"done", "report.html", "audit", "env.json"} <= {one.name for one in path.iterdir()}
    again = import_run(About(name="GPT-x"), given, data_dir=prepare_mini_suite(), output_dir=tmp_path / "runs")
    assert (again.path, again.phases, again.results.model.released) == (path, None, "")
    wrong = import_run(about, given, data_dir=prepare_mini_suite(), output_dir=tmp_path / "runs", missing="wrong")
    assert wrong.path != path
    assert wrong.results.tasks["medqa-options"].states["error"] == 0


def test_without_data_a_file_stands_alone_and_only_beside_its_like(tmp_path: Path) -> None:
    rows = [
        {"qid": str(place), "question": f"{place}?", "answer": word, "gold": word}
        for place, word in enumerate(("a", "b", "c"))
    ]  # fmt: skip
    one = api.import_predictions("One", {"slake-vqa": lines(tmp_path / "1.jsonl", rows)}, output_dir=tmp_path)
    bare = [{"qid": row["qid"], "answer": "x", "gold": row["gold"]} for row in rows]
    two = api.import_predictions("Two", {"slake-vqa": lines(tmp_path / "2.jsonl", bare)}, output_dir=tmp_path)
    assert (one.results.suite, one.model) == ("custom", "One (imported)")
    assert one.results.tasks["slake-vqa"].data == two.results.tasks["slake-vqa"].data
    assert not api.compare(one, two).to_pandas().empty
    assert "0?" in one.report.read_text(encoding="utf-8")
    again = medbench("score", one.path)
    assert again.returncode == 0, again.stderr
    other = lines(tmp_path / "3.jsonl", [{**row, "gold": "z"} for row in rows])
    three = api.import_predictions("Three", {"slake-vqa": other}, output_dir=tmp_path)
    with pytest.raises(MedbenchError, match="different data"):
        api.compare(one, three)


def test_references_that_are_others_are_refused(tmp_path: Path) -> None:
    rows = [{**row, "gt": "A" if row["gt"] == "B" else "B"} for row in qa_rows()]
    source = {"medqa-options": Source(path=lines(tmp_path / "a.jsonl", rows))}
    with pytest.raises(DataError, match=r"have another reference than their sample; the first is .*line 1"):
        import_run(About(name="x"), source, data_dir=prepare_mini_suite(), output_dir=tmp_path)


def test_boxes_that_were_read_are_pixels(tmp_path: Path) -> None:
    rec = samples_of("slake-rec")
    rows = [
        {"image_id": one.groups["image"], "item": one.reference, "iou_score": 1.0, "gt_bbox": list(one.box or ()),
         "pred_bbox": list(one.box or ()) if place else "Unable to match: {<1600><1><2>"}
        for place, one in enumerate(rec)
    ]  # fmt: skip
    source = {"slake-rec": Source(path=write_json(tmp_path / "ref_slake.json", rows), form="uni-med")}
    found = import_run(About(name="x"), source, output_dir=tmp_path).results.tasks["slake-rec"]
    assert found.states["ok"] == len(rec) - 1
    assert found.strict["iou"].value == pytest.approx(1 - 1 / len(rec))
    with pytest.raises(UsageError, match="another space"):
        import_run(About(name="x"), source, output_dir=tmp_path, boxes="percent")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--task", "slake-vqa"], "is no pair"),
        (["--task", "slake-vq=a.csv"], "Did you mean slake-vqa"),
        (["--task", "slake-vqa=a.csv"], "cannot be read"),
        (["--task", "slake-vqa=a.csv", "--from", "csv"], "no format of predictions named 'csv'"),
        (["--task", "slake-vqa=a.csv", "--column", "medqa:prediction=x"], "names no task of --task"),
        (["--task", "slake-vqa=a.csv", "--parameters", "many"], "Write 7B"),
        (["--task", "slake-vqa=a.csv", "--released", "May"], "released of the model"),
        (["--task", "slake-vqa=a.csv", "--name", " "], "name is empty"),
        (["--task", "slake-vqa=a.csv", "--trained-on", "slake"], "no task named 'slake'"),
    ],
)
def test_bad_usage_is_explained(words: list[str], told: str) -> None:
    done = medbench("import", *(() if "--name" in words else ("--name", "x")), *words)
    assert done.returncode in {1, 2}
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_the_audit_of_a_file_reads_what_can_be_imported(tmp_path: Path) -> None:
    rows = [
        (place, f"Report {place} of a case that has many words in it, a left effusion among them.")
        for place in range(30)
    ]
    pd.DataFrame([{"qid": place, "said": text} for place, text in rows]).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame([{"id": place, "gold": text} for place, text in rows]).to_csv(tmp_path / "r.csv", index=False)
    words = ("--predictions", tmp_path / "a.csv", "--references", tmp_path / "r.csv", "--column", "prediction=said")
    done = medbench("audit", "model", *words, "--task", "mimic-cxr", "--format", "json")
    assert done.returncode in {3, 4, 5}, done.stderr
    assert json.loads(done.stdout)["tasks"]["report"]["exact"] == len(rows)
    wrong = medbench("audit", "model", tmp_path, "--column", "prediction=said")
    assert "go with --predictions" in wrong.stderr


FORMS = {
    "a.csv": "table", "b.parquet": "table", "c.jsonl": "lm-eval", "d.json": "inspect", "e.json": "medevalkit",
    "f.jsonl": "lmms-eval", "g.csv": "multimedeval", "h.jsonl": "llava-med",
}  # fmt: skip


def write_all(folder: Path) -> None:
    found = samples_of("medqa-options")
    questions = [one.inputs["question"] for one in found]
    pd.DataFrame(qa_rows()).to_csv(folder / "a.csv", index=False)
    pd.DataFrame(qa_rows()).to_parquet(folder / "b.parquet")
    logged = [
        {**GENERATED, "doc_id": place, "doc": {"question": questions[place]}, "target": one.reference, "resps": [["A"]]}
        for place, one in enumerate(found)
    ]
    lines(folder / "c.jsonl", logged)
    asked = [
        inspected(place, input=questions[place], target=one.reference, choices=list(one.choices.values()))
        for place, one in enumerate(found)
    ]
    write_json(folder / "d.json", {"version": 2, "status": "success", "samples": asked})
    kit = [
        {"choices": [f"{key}. {text}" for key, text in one.choices.items()], "answer": one.reference, "response": "C",
         "question": one.inputs["question"]}
        for one in found
    ]  # fmt: skip
    write_json(folder / "e.json", kit)
    prompts = [f"{question}\nAnswer with the option's letter." for question in questions]
    pairs = list(enumerate(found))
    without_doc = [
        {"doc_id": place, "target": one.reference, "filtered_resps": ["D"], "input": prompts[place]}
        for place, one in pairs
    ]
    lines(folder / "f.jsonl", without_doc)
    with (folder / "g.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([f"{one.reference}: x", "B", "b", one.reference, "False"] for one in found)
    lines(folder / "h.jsonl", [{"question_id": place, "text": "A", "prompt": "?"} for place, _ in pairs])
    asking = [{"question_id": place, "text": questions[place], "answer": one.reference} for place, one in pairs]
    lines(folder / "questions.jsonl", asking)


@pytest.mark.slow
def test_every_format_stands_in_one_leaderboard_report_and_comparison(tmp_path: Path) -> None:
    write_all(tmp_path)
    for name, form in FORMS.items():
        words = ["--task", f"medqa-options={tmp_path / name}", "--from", form, "--output-dir", tmp_path / "runs"]
        second = ["--references", tmp_path / "questions.jsonl"] if form == "llava-med" else []
        done = medbench("import", "--name", name, *words, *second)
        assert done.returncode == 0, done.stderr
        assert "100 of 100 predictions matched" in done.stderr
    runs = sorted((tmp_path / "runs").glob("[a-z]*-mini-*"))
    assert len(runs) == len(FORMS)
    board = medbench("leaderboard", *runs)
    assert board.returncode == 0, board.stderr
    assert all(f"{name} (imported)" in board.stdout for name in FORMS)
    report = medbench("report", *runs, "--output", tmp_path / "r.html")
    assert report.returncode == 0, report.stderr
    assert all(f"{name} (imported)" in (tmp_path / "r.html").read_text(encoding="utf-8") for name in FORMS)
    compared = medbench("compare", *runs[:2])
    assert compared.returncode == 0, compared.stderr
    for words in (
        ["breakdown", runs[0]],
        ["score", runs[0]],
        ["site", tmp_path / "runs", "--output", tmp_path / "site"],
    ):
        assert medbench(*words).returncode == 0
    assert "a.csv (imported)" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
