"""`medbench audit data`: what must be found, what must not, what must be said to be unknown; as a user gets it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_data_items import against, as_task, check, compared, jsonl, noise, report, vqa
from audit_terminal import medbench
from native_data import medqa, mimic_cxr, mpx_row, write_csv, write_picture
from PIL import Image

from medbench.leaderboard.audit.data.audit import DataToAudit, report_overlaps
from medbench.leaderboard.audit.data.findings import null_split
from medbench.leaderboard.audit.data.items import Item, image_names, training_rows
from medbench.leaderboard.runs import overlaps_in
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, DataError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.sample import ImageRef


def prepared(task: str, native: Path, data: Path) -> Path:
    prepare_task(get_task(task), native, data, {})
    return data


def audited(*words: object) -> tuple[int, dict[str, Any]]:
    result = medbench("audit", "data", *words, "--format", "json")
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


def checks_of(document: dict[str, Any], task: str, corpus: str) -> dict[str, dict[str, Any]]:
    (found,) = [one for one in document["tasks"][task]["overlaps"] if one["corpus"] == corpus]
    return {one["check"]: one for one in found["checks"]}


def test_the_mini_suite_end_to_end(tmp_path: Path) -> None:
    result = medbench("audit", "data", "--output", tmp_path)
    assert result.returncode == 3, result.stderr
    assert "MINI SUITE" in result.stderr
    page = (tmp_path / "audit-data.md").read_text(encoding="utf-8")
    assert result.stdout == page
    document = json.loads((tmp_path / "audit-data.json").read_text(encoding="utf-8"))
    assert document["verdicts"]["pubmedqa"] == "no_evidence"
    assert document["verdicts"]["dermamnist"] == "not_testable"
    assert document["marks"] == {}
    assert overlaps_in(tmp_path / "audit-data.json") == frozenset()
    assert "shared lesion ids **unknown**, 400 of 400 test items have no lesion id" in page
    # BreastMNIST itself has one test picture with the very pixels of a training picture.
    own = checks_of(document, "organsmnist", "organsmnist train")
    assert (own["image"]["shared"], own["near_image"]["shared"]) == (1, 0)
    # The phantoms stand in for credentialed data, and are nobody's: their texts may be shown.
    shown = [one for one in document["examples"] if one["corpus"] == "mimic-cxr train" and one["texts"]]
    assert shown


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("first", "second"):
        result = medbench("audit", "data", "--task", "mpx-single,slake-vqa", "--output", tmp_path / name)
        assert result.returncode == 3
    for file in ("audit-data.json", "audit-data.md"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
        assert str(tmp_path) not in (tmp_path / "first" / file).read_text(encoding="utf-8")


def lesions(root: Path) -> Path:
    root.mkdir(parents=True)
    draw = np.random.default_rng(0)
    arrays = {}
    for split, rows in (("train", 28), ("val", 1), ("test", 14)):
        coarse = draw.integers(0, 256, (rows, 7, 7, 3), dtype=np.uint8)
        arrays[f"{split}_images"] = coarse.repeat(4, axis=1).repeat(4, axis=2)
        arrays[f"{split}_labels"] = (np.arange(rows, dtype=np.uint8) % 7).reshape(-1, 1)
    np.savez_compressed(root / "dermamnist_224.npz", allow_pickle=False, **arrays)
    return root


def lesion_ids(path: Path, shared: int) -> Path:
    """Ids of all samples; the first `shared` test pictures show lesions of the training pictures of the same number."""
    train = [{"task": "dermamnist", "sample_id": f"train/{n}", "lesion": f"HAM_{n}"} for n in range(28)]
    test = [
        {"task": "dermamnist", "sample_id": f"test/{n}", "lesion": f"HAM_{n if n < shared else 100 + n}"}
        for n in range(14)
    ]
    return jsonl(path, [*train, *test])


def test_one_lesion_in_different_pixels_is_found_by_its_id_and_unknown_without(tmp_path: Path) -> None:
    data = prepared("dermamnist", lesions(tmp_path / "native"), tmp_path / "data")
    code, document = audited("--data-dir", data)
    own = checks_of(document, "dermamnist", "dermamnist train")
    assert code == 5
    assert own["image"]["shared"] == own["near_image"]["shared"] == 0
    assert own["id:lesion"]["state"] == "unknown"
    assert "shared" not in own["id:lesion"]

    code, document = audited("--data-dir", data, "--ids", lesion_ids(tmp_path / "ids.jsonl", shared=5))
    own = checks_of(document, "dermamnist", "dermamnist train")
    assert code == 4
    assert (own["id:lesion"]["groups"], own["id:lesion"]["shared"], own["id:lesion"]["null"]) == (5, 5, 0.0)
    assert document["marks"] == {"dermamnist": "‡"}

    code, document = audited("--data-dir", data, "--ids", lesion_ids(tmp_path / "ids.jsonl", shared=0))
    assert (code, document["marks"]) == (0, {})


def test_ids_of_some_samples_are_not_ids_of_all(tmp_path: Path) -> None:
    data = prepared("dermamnist", lesions(tmp_path / "native"), tmp_path / "data")
    ids = lesion_ids(tmp_path / "ids.jsonl", shared=0)
    ids.write_text("".join(ids.read_text().splitlines(keepends=True)[:-4]))
    code, document = audited("--data-dir", data, "--ids", ids)
    assert code == 5
    found = checks_of(document, "dermamnist", "dermamnist train")["id:lesion"]
    assert (found["state"], found["note"]) == ("unknown", "4 of 14 test items have no lesion id")


def medpix(root: Path, by: str) -> Path:
    """48 cases of two pictures under one caption; split by picture, or by case."""
    for case in range(48):
        for view in range(2):
            noise(root / "images" / f"MPX{1000 + case}_synpic{view}.png", case * 2 + view)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "test": []}
    for case in range(48):
        for view in range(2):
            held = case % 3 == 0 and (view == 1 if by == "image" else True)
            words = " ".join(f"finding{case * 31 + place}" for place in range(12))
            name = f"MPX{1000 + case}_synpic{view}.png"
            rows["test" if held else "train"].append(mpx_row(name, context=f"Case {case} shows {words}."))
    for split, found in rows.items():
        write_csv(root / f"MedPix_single_{split}.csv", found)
    return root


def test_a_split_by_picture_marks_the_dataset_and_a_split_by_case_does_not(tmp_path: Path) -> None:
    data = prepared("mpx-single", medpix(tmp_path / "image", "image"), tmp_path / "by-image")
    code, document = audited("--data-dir", data, "--output", tmp_path / "out")
    own = checks_of(document, "mpx-single", "mpx-single train")
    assert code == 4
    assert (own["text"]["share"], own["text"]["null"]) == (1.0, 0.0)
    assert (own["id:case"]["groups"], own["id:case"]["of_groups"]) == (16, 16)
    # The pictures differ: it is the captions and the cases that leak, not whole items.
    assert own["item"]["shared"] == own["image"]["shared"] == own["near_image"]["shared"] == 0
    assert overlaps_in(tmp_path / "out" / "audit-data.json") == {"mpx-single"}

    data = prepared("mpx-single", medpix(tmp_path / "case", "case"), tmp_path / "by-case")
    code, document = audited("--data-dir", data)
    assert (code, document["marks"], document["verdicts"]) == (0, {}, {"mpx-single": "no_evidence"})


def test_credentialed_texts_are_withheld_unless_asked_for(tmp_path: Path) -> None:
    data = prepared("mimic-cxr", mimic_cxr(tmp_path / "native"), tmp_path / "data")
    secret = "invented report"
    result = medbench("audit", "data", "--data-dir", data, "--output", tmp_path / "out")
    assert result.returncode == 4, result.stderr
    for file in ("audit-data.json", "audit-data.md"):
        assert secret not in (tmp_path / "out" / file).read_text(encoding="utf-8")
    assert "Texts are withheld" in result.stdout
    shown = medbench("audit", "data", "--data-dir", data, "--reveal")
    assert secret in shown.stdout
    assert "Do not pass it on" in shown.stderr


def test_texts_of_credentialed_training_data_are_withheld_beside_open_tests() -> None:
    closed = report("train/1", "one two three four five six seven eight nine", images=())
    test = as_task([report("t", closed.answer)], task="mpx-single", kind="report", decisive="case", family="mpx")
    train = as_task([closed], task="mimic-cxr", kind="report", decisive="patient", family="mimic-cxr")
    hidden = replace(train, credentialed=True)
    for corpus, reveal, expected in ((train, False, True), (hidden, False, False), (hidden, True, True)):
        given = DataToAudit(test=[test], train=[corpus], reveal=reveal)
        examples = report_overlaps(given).examples
        assert examples
        assert any(one.texts for one in examples) is expected


def test_your_own_training_rows_are_searched_by_text_picture_id_and_item(tmp_path: Path) -> None:
    native = medpix(tmp_path / "native", "case")
    data = prepared("mpx-single", native, tmp_path / "data")
    copy = tmp_path / "mine" / "renamed.jpg"
    copy.parent.mkdir()
    with Image.open(native / "images" / "MPX1000_synpic0.png") as image:
        image.convert("RGB").resize((224, 224)).save(copy, quality=75)
    caption = "Case 0 shows " + " ".join(f"finding{place}" for place in range(12)) + "."
    rows: list[dict[str, object]] = [
        {"text": f"Before it. {caption} After it."},
        {"image": "renamed.jpg", "conversations": [
            {"from": "human", "value": "<image>\nDescribe this."}, {"from": "gpt", "value": caption.upper()},
        ]},
        {"image": "MPX1003_synpic0.png", "text": "A name alone."},
        {"task": "mpx-single", "case_id": "MPX1006"},
    ]  # fmt: skip
    train = jsonl(tmp_path / "mine" / "rows.jsonl", rows)
    code, document = audited("--data-dir", data, "--train", train)
    found = checks_of(document, "mpx-single", "rows.jsonl")
    assert code == 4
    assert found["text"]["shared"] == 2
    assert found["near_text"]["shared"] == 2
    assert found["near_image"]["shared"] == 1
    assert found["near_item"]["shared"] == 1
    assert found["id:image name"]["groups"] == 1
    assert found["id:case"]["groups"] == 1
    assert found["unreadable"]["note"] == "1 of 2 images could not be read"
    # The user's own data say nothing of the dataset: no mark.
    assert document["marks"] == {}


def test_a_language_is_a_body_of_training_data_of_its_own(tmp_path: Path) -> None:
    train = jsonl(
        tmp_path / "both.jsonl",
        [
            {"question": "what is it", "answer": "liver", "img_name": "xmlab1/source.jpg", "q_lang": "en"},
            {"question": "这是什么", "answer": "肝", "img_name": "xmlab2/source.jpg", "q_lang": "zh"},
        ],
    )
    rows = list(training_rows(train, tmp_path))
    assert [row.language for row in rows] == ["en", "zh"]
    test = as_task(
        [
            vqa(name, "what is it", "liver", images=(ImageRef(path=f"imgs/{name}/source.jpg"),))
            for name in ("xmlab1", "xmlab2")
        ]
    )
    audit = compared(test, files={train: tmp_path})
    english, chinese = against(audit, "both.jsonl [en]"), against(audit, "both.jsonl [zh]")
    assert (check(english, "item").shared, check(chinese, "id:image name").groups) == (1, 1)
    assert check(chinese, "id:image name").shared == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [({"label_id": 3}, "has no text, no image and no id"), (["text"], "is a JSON list, not an object")],
)
def test_a_row_with_nothing_to_compare_is_an_error_that_names_its_line(
    tmp_path: Path, row: object, message: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"text": "fine"}}\n{json.dumps(row)}\n')
    with pytest.raises(DataError, match=message) as raised:
        list(training_rows(path, tmp_path))
    assert "2" in str(raised.value)


def test_a_list_of_rows_is_read_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([{"question": "q", "answer": "a", "subject_id": 7, "groups": {"study": 8}}]))
    (row,) = training_rows(path, tmp_path)
    assert (row.question, row.answer, row.texts) == ("q", "a", ("q", "a"))
    assert row.groups == {"patient": "7", "study": "8"}
    path.write_text('{"text": "a"}')
    with pytest.raises(DataError, match="not a list of rows"):
        list(training_rows(path, tmp_path))


def test_pictures_left_out_are_unknown_not_clean(tmp_path: Path) -> None:
    data = prepared("mpx-single", medpix(tmp_path / "native", "case"), tmp_path / "data")
    code, document = audited("--data-dir", data, "--no-images")
    own = checks_of(document, "mpx-single", "mpx-single train")
    assert (code, own["image"]["state"], own["item"]["state"]) == (5, "unknown", "unknown")


def test_missing_pictures_of_the_training_data_are_unknown(tmp_path: Path) -> None:
    native = medpix(tmp_path / "native", "case")
    data = prepared("mpx-single", native, tmp_path / "data")
    (native / "images" / "MPX1001_synpic0.png").unlink()
    code, document = audited("--data-dir", data)
    assert (code, document["verdict"]) == (5, "not_testable")
    found = checks_of(document, "mpx-single", "mpx-single train")["unreadable"]
    assert found["note"] == "1 of 64 images could not be read"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--task", "slake-vqs"), EXIT_USAGE, "slake-vqa"),
        (("--data-dir", "nowhere"), EXIT_FAILED, "does not exist"),
        (("--train", "nowhere.jsonl"), EXIT_FAILED, "nowhere.jsonl is missing"),
        (("--images", "."), EXIT_USAGE, "goes with --train"),
        (("--task", "medqa", "--ids", __file__), EXIT_FAILED, "is not JSON"),
    ],
)
def test_wrong_words_are_explained(words: tuple[str, ...], code: int, message: str) -> None:
    result = medbench("audit", "data", *words)
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr


def test_a_task_that_is_not_prepared_is_an_error_and_not_a_clean_result(tmp_path: Path) -> None:
    data = prepared("medqa", medqa(tmp_path / "native"), tmp_path / "data")
    result = medbench("audit", "data", "--data-dir", data, "--task", "pubmedqa")
    assert (result.returncode, "Not prepared: pubmedqa" in result.stderr) == (EXIT_FAILED, True)


def test_shared_text_only_items_are_found_by_question_and_answer(tmp_path: Path) -> None:
    # The first two test rows are the first two training rows.
    data = prepared("medqa", medqa(tmp_path / "native"), tmp_path / "data")
    code, document = audited("--data-dir", data)
    own = checks_of(document, "medqa", "medqa train")
    assert (code, own["item"]["shared"], own["text"]["shared"]) == (4, 2, 2)


def test_a_question_alone_is_no_item() -> None:
    question = "Does the ninth drug of the tenth trial lower mortality in adults?"
    test = as_task([vqa("t", question, "yes")], task="pubmedqa", kind="qa", decisive="document", family="pubmedqa")
    for answer, shared in (("no", 0), ("Yes.", 1)):
        train = as_task([vqa("r", question, answer)], task="medqa", kind="qa", decisive="document", family="medqa")
        audit = compared(test, train)
        found = against(audit, "medqa train")
        assert (check(found, "text").shared, check(found, "item").shared) == (1, shared)


def pictured(number: int, path: str, folder: Path, **fields: Any) -> Item:
    return vqa(number, "Which organ is it?", "Liver", images=(ImageRef(path=path),), source=folder, **fields)


def test_blank_pictures_are_labelled_and_are_no_leak(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("L", (96, 96), 0).save(tmp_path / name)
    test = as_task([pictured(1, "a.png", tmp_path, groups={"image": "a"}, family="slake")])
    train = as_task([pictured(2, "b.png", tmp_path, groups={"image": "b"}, family="slake")])
    audit = compared(test, train)
    own = against(audit, "slake-vqa train")
    assert check(own, "blank_image").shared == 1
    assert (check(own, "image").shared, check(own, "item").shared, audit.mark) == (0, 0, "")
    assert own.verdict == "no_evidence"


def test_the_same_question_about_an_equal_picture_is_an_item(tmp_path: Path) -> None:
    noise(tmp_path / "a.png", 1)
    noise(tmp_path / "other.png", 2)
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "copy.bmp")
    test = as_task([pictured(1, "a.png", tmp_path, groups={"image": "a"}, family="slake")])
    for name, shared in (("copy.bmp", 1), ("other.png", 0)):
        train = as_task([pictured(2, name, tmp_path, groups={"image": name}, family="slake")])
        audit = compared(test, train)
        found = against(audit, "slake-vqa train")
        assert (check(found, "item").shared, check(found, "text").shared) == (shared, 1)
        assert bool(audit.mark) is bool(shared)


def test_ids_of_other_datasets_are_not_compared() -> None:
    test = as_task([vqa(1, "a", "b", groups={"image": "7"}, family="slake")])
    train = as_task([vqa(2, "c", "d", groups={"image": "7"}, family="path")], task="path-vqa", family="path")
    found = against(compared(test, train), "path-vqa train")
    assert [one.check for one in found.findings if one.check.startswith("id:")] == []
    assert found.verdict == "no_evidence"


def test_an_empty_training_split_cannot_be_compared() -> None:
    test = as_task([vqa(1, "a", "b", groups={"image": "7"}, family="slake")])
    audit = report_overlaps(DataToAudit(test=[test], train=[as_task([])]))
    assert (audit.verdicts, audit.code) == ({"slake-vqa": "not_testable"}, 5)


def test_the_null_keeps_cases_whole_and_is_the_same_every_time() -> None:
    items = [report(n, f"text {n}", groups={"image": str(n), "patient": f"p{n // 4}"}) for n in range(100)]
    train = as_task(items, task="mimic-cxr", kind="report", decisive="patient", family="mimic-cxr")
    first, again, other = null_split(train, 20, 0), null_split(train, 20, 0), null_split(train, 20, 1)
    assert first == again
    assert first.test.items != other.test.items
    assert first.unit == "patient"
    held = {item.groups["patient"] for item in first.test.items}
    assert not held & {item.groups["patient"] for item in first.rest}
    assert len(first.test.items) == 20
    assert len(first.test.items) + len(first.rest) == 100
    nameless = as_task([vqa(n, "q", "a") for n in range(8)])
    assert null_split(nameless, 20, 0).unit == "item"


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("imgs/xmlab3/source.jpg", ["xmlab3/source.jpg"]),
        ("images/synpic54610.JPG", ["synpic54610.jpg"]),
        ("a/b/0001.png", []),
        ("source.jpg", []),
        ("7/image.png", []),
    ],
)
def test_only_telling_names_of_pictures_are_compared(path: str, names: list[str]) -> None:
    assert list(image_names([ImageRef(path=path)])) == names


def test_rows_of_arrays_have_no_names() -> None:
    assert list(image_names([ImageRef(path="dermamnist.npz", member="test_images", index=3)])) == []


def captioned(folder: Path, number: int, text: str) -> Item:
    picture = ImageRef(path=f"p{number}.png")
    return report(number, text, images=(picture,), source=folder, groups={"image": picture.path}, family="mpx")


def test_surrogate_groups_stand_in_for_ids_and_are_a_lower_bound(tmp_path: Path) -> None:
    for number in range(4):
        noise(tmp_path / f"p{number}.png", number)
    caption = "the same long caption of one case in nine words"
    texts = [caption, caption, "another caption that nobody else has in this set"]
    shown = [captioned(tmp_path, n, text) for n, text in enumerate(texts)]
    test = as_task(shown, task="mpx-single", kind="report", decisive="case", family="mpx")
    train = as_task([captioned(tmp_path, 3, caption)], task="mpx-single", kind="report", decisive="case", family="mpx")
    own = against(compared(test, train), "mpx-single train")
    assert check(own, "id:case").state == "unknown"
    surrogate = check(own, "surrogate")
    assert (surrogate.groups, surrogate.of_groups) == (1, 2)


def test_a_hostile_text_cannot_break_the_page() -> None:
    text = "one | two <script>alert(1)</script> three [four](five) six seven eight nine"
    test = as_task([report("t|<b>", text)], task="mpx-single", kind="report", decisive="case", family="mpx")
    train = as_task([report("r", text)], task="mimic-cxr", kind="report", decisive="patient", family="mimic-cxr")
    page = report_overlaps(DataToAudit(test=[test], train=[train])).to_markdown()
    assert "<script>" not in page
    assert r"one \| two" in page


def test_pictures_outside_the_folder_are_not_opened(tmp_path: Path) -> None:
    write_picture(tmp_path / "secret.png")
    inner = tmp_path / "inner"
    inner.mkdir()
    path = jsonl(inner / "rows.jsonl", [{"image": "../secret.png", "text": "a"}])
    test = as_task([pictured(1, "secret.png", tmp_path, groups={"image": "s"}, family="slake")])
    found = against(compared(test, files={path: inner}), "rows.jsonl")
    assert check(found, "image").state == "unknown"
