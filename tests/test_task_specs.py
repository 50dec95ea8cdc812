"""The declarations against the official texts, the catalogue's selections, and the version lock."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fixture_root import fixtures
from native_data import medmnist_npz, organsmnist, path_vqa, path_vqa_row, slake, slake_question, write_json

from medbench.tasks.catalog import benchmark_names, get_task, select_tasks
from medbench.tasks.datasets.medmnist import LABEL_SETS
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import JsonObject
from medbench.tasks.sample import Box, Sample
from tools.locks import LOCK_COMMAND, LOCK_FILE, current_versions, unversioned_changes, write_lock

POOLS = {
    "slakevqa_en": ("slake-vqa", "[vqa] ", "{question}"),
    "path_vqa": ("path-vqa", "[vqa] ", "{question}"),
    "ref_slake": ("slake-rec", "[refer] ", "{object}"),
    "ref_sa_med": ("sa-med2d-rec", "[refer] ", "{object}"),
    "invref_slake": ("slake-reg", "[identify] ", "{box}"),
    "invref_sa_med": ("sa-med2d-reg", "[identify] ", "{box}"),
    "mimic_caption": ("mimic-cxr", "", ""),
    "medpix_single": ("mpx-single", "", ""),
    "medqa_en": ("medqa", "[qa] ", "{question}"),
    "pubmedqa": ("pubmedqa", "[qa] ", "{question}"),
}

PAPER_TABLE_4 = {
    "medqa": ("qa", 10178, 1273),
    "pubmedqa": ("qa", 500, 500),
    "slake-vqa": ("vqa", 6018, 1014),
    "path-vqa": ("vqa", 19755, 6761),
    "slake-rec": ("rec", 1421, 201),
    "sa-med2d-rec": ("rec", 20000, 4000),
    "slake-reg": ("reg", 1421, 201),
    "sa-med2d-reg": ("reg", 20000, 4000),
    "mimic-cxr": ("report", 9997, 3858),
    "mpx-single": ("report", 31416, 6664),
    "dermamnist": ("cls", 7007, 2005),
    "organsmnist": ("cls", 13932, 8827),
}


@pytest.fixture(scope="module")
def official() -> JsonObject:
    found: JsonObject = json.loads((fixtures() / "unimed" / "data" / "datasets.json").read_text(encoding="utf-8"))
    return found


def test_the_catalogue_is_the_papers_table_of_tasks() -> None:
    specs = [get_task(name) for name in benchmark_names()]
    found = {spec.name: (spec.kind, spec.counts["train"], spec.counts["test"]) for spec in specs}
    assert found == PAPER_TABLE_4
    assert [spec.name for spec in specs if spec.credentialed] == ["mimic-cxr"]
    assert {spec.max_new_tokens for spec in specs} == {100}


@pytest.mark.parametrize("name", PAPER_TABLE_4)
def test_every_declaration_is_documented_and_formattable(name: str) -> None:
    spec = get_task(name)
    fields = {"question": "q", "object": "o", "subject": "s", "classes": "c"}
    sample = Sample(sample_id="1", task=name, split="test", inputs=fields, reference="r")
    assert spec.prompt in spec.train_prompts
    for template in spec.train_prompts:
        text = spec.instruction(sample, box="b", template=template)
        assert text == text.strip()
        assert "{" not in text
        assert "[" not in text
    assert spec.licence
    assert spec.source
    assert spec.layout
    assert spec.group_key in {"image", "volume", "patient", "case", "document"}


@pytest.mark.parametrize("dataset", POOLS)
def test_training_pools_are_the_official_ones(official: JsonObject, dataset: str) -> None:
    task, identifier, field = POOLS[dataset]
    pool = official["train"][dataset]["instruction_pool"]
    assert all(template.startswith(identifier) for template in pool)
    assert get_task(task).train_prompts == tuple(
        template.removeprefix(identifier).replace("{}", field) for template in pool
    )


@pytest.mark.parametrize(("dataset", "task"), [("mimic_caption", "mimic-cxr"), ("medpix_single", "mpx-single")])
def test_report_prompts_are_the_official_ones_without_the_final_space(
    official: JsonObject, dataset: str, task: str
) -> None:
    asked = official["eval"][dataset]["tuples"][0][2]
    assert asked == f"[caption] {get_task(task).prompt} "


def test_slake_questions_are_asked_as_in_the_official_evaluation(official: JsonObject, tmp_path: Path) -> None:
    expected = official["eval"]["slakevqa_en"]["tuples"]
    rows = [
        slake_question(1, question="What modality is used to take this image?", answer="CT"),
        slake_question(2, question="Is this a study of\nthe abdomen?", answer="Yes", answer_type="CLOSED"),
    ]
    write_json(slake(tmp_path) / "imgs" / "xmlab3" / "question.json", rows)
    samples = [item for item in get_task("slake-vqa").reader(tmp_path, {}).samples if item.split == "test"]
    spec = get_task("slake-vqa")
    found = [(f"[vqa] {spec.instruction(item)}", item.labels["answer_type"], item.reference) for item in samples]
    assert found == [tuple(row[1:]) for row in expected]


def test_path_vqa_is_asked_as_in_the_official_evaluation(official: JsonObject, tmp_path: Path) -> None:
    expected = official["eval"]["path_vqa"]["tuples"]
    rows = [
        path_vqa_row("test_0001", number, sent=asked.rpartition("answer: ")[2], answer_type=kind, label={answer: 1})
        for number, _, asked, kind, answer in expected
    ]
    (path_vqa(tmp_path) / "qas" / "test_vqa.pkl").write_bytes(pickle.dumps(rows))
    samples = [item for item in get_task("path-vqa").reader(tmp_path, {}).samples if item.split == "test"]
    spec = get_task("path-vqa")
    found = [(f"[vqa] {spec.instruction(item)}", item.labels["answer_type"], item.reference) for item in samples]
    states = {"other": "OPEN", "yes/no": "CLOSED"}
    assert found == [(asked, states[kind], answer) for _, _, asked, kind, answer in expected]


def test_boxes_are_asked_and_kept_as_in_the_official_evaluation(official: JsonObject, tmp_path: Path) -> None:
    reading = get_task("slake-rec").reader(slake(tmp_path), {})
    samples = [item for item in reading.samples if item.split == "test"]
    expected = official["eval"]["ref_slake"]["tuples"]
    assert len(samples) == len(expected)
    for sample, (_, asked, image_id, box, size) in zip(samples, expected, strict=True):
        assert f"[refer] {get_task('slake-rec').instruction(sample)}" == asked
        assert sample.groups["image"] == image_id
        assert sample.box == Box.from_xywh(*box)
        assert sample.image_size == tuple(size)


def test_objects_are_named_as_in_the_official_evaluation(official: JsonObject, tmp_path: Path) -> None:
    reading = get_task("slake-reg").reader(slake(tmp_path), {})
    samples = [item for item in reading.samples if item.split == "test"]
    for sample, (_, asked, _, name) in zip(samples, official["eval"]["invref_slake"]["tuples"], strict=True):
        assert sample.box is not None
        assert sample.image_size is not None
        width, height = sample.image_size
        percent = sample.box.scaled(100 / width, 100 / height)
        box = "{" + "".join(f"<{int(edge)}>" for edge in percent) + "}"
        assert f"[identify] {get_task('slake-reg').instruction(sample, box=box)}" == asked
        assert sample.reference == name
        assert "object" not in sample.inputs


@pytest.mark.parametrize(
    ("dataset", "task", "build"),
    [("medmnist_2d_derma", "dermamnist", medmnist_npz), ("medmnist_2d_organs", "organsmnist", organsmnist)],
)
def test_classes_are_asked_and_named_as_in_the_official_evaluation(
    official: JsonObject, tmp_path: Path, dataset: str, task: str, build: Callable[[Path], Path]
) -> None:
    samples = [item for item in get_task(task).reader(build(tmp_path), {}).samples if item.split == "test"]
    found = [(f"[cls] {get_task(task).instruction(item)}", item.reference) for item in samples]
    assert found == [(asked, label) for _, _, asked, label in official["eval"][dataset]["tuples"]]
    names = official["label_maps"][task]
    assert LABEL_SETS[task].spoken == get_task(task).choices == tuple(names[str(index)] for index in range(len(names)))


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ("all", tuple(PAPER_TABLE_4)),
        ("dermamnist,medqa", ("medqa", "dermamnist")),
        ("rec", ("slake-rec", "sa-med2d-rec")),
        ("slake-*", ("slake-vqa", "slake-rec", "slake-reg")),
        (" vqa , slake-vqa,slake-vqa,", ("slake-vqa", "path-vqa")),
        ("*mnist,report", ("mimic-cxr", "mpx-single", "dermamnist", "organsmnist")),
        ("qa", ("medqa", "pubmedqa")),
        ("med*", ("medqa",)),
        ("medqa-options,medqa", ("medqa", "medqa-options")),
    ],
)
def test_selections(selection: str, expected: tuple[str, ...]) -> None:
    assert select_tasks(selection) == expected


@pytest.mark.parametrize(
    ("selection", "hint"), [("slake-vqa,slak-rec", "slake-rec"), ("nothing-*", "medqa"), ("", "medqa"), (" , ", "all")]
)
def test_a_selection_that_names_nothing_is_an_error_with_a_suggestion(selection: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        select_tasks(selection)
    assert hint in caught.value.hint


def test_a_changed_declaration_has_a_new_version() -> None:
    locked = json.loads(LOCK_FILE.read_text(encoding="utf-8"))
    current = current_versions()
    assert not unversioned_changes(locked, current), f"raise the version of these tasks, then run: {LOCK_COMMAND}"
    assert locked == current, f"the lock file is not up to date; run: {LOCK_COMMAND}"


def test_the_lock_is_not_written_over_a_changed_declaration(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    write_lock(path)
    locked = json.loads(path.read_text(encoding="utf-8"))
    assert locked == current_versions()
    locked["medqa"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(locked), encoding="utf-8")
    with pytest.raises(UsageError, match="medqa"):
        write_lock(path)
    locked["medqa"]["version"] = 0
    path.write_text(json.dumps(locked), encoding="utf-8")
    write_lock(path)
    assert json.loads(path.read_text(encoding="utf-8")) == current_versions()


def test_this_room_imports_no_torch() -> None:
    imports = "import sys; from medbench.tasks.catalog import get_task; import medbench.tasks.cli; "
    code = imports + "get_task('slake-rec'); sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
