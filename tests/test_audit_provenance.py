"""`medbench audit provenance`: declared training data against test items, by version, split, language and lineage."""

import json
from pathlib import Path
from typing import Any

import pytest
from audit_data_items import jsonl, slake_pictures, slake_tree, vqa
from audit_terminal import medbench
from fixture_root import realdata
from native_data import mpx_row, mpx_single, write_csv

from medbench.harness.models import declared_by
from medbench.leaderboard.audit.data.declared import Inherited, image_prints, inherited, read_sources, source_of
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE, UsageError
from medbench.tasks.prepare import prepare_task
from medbench.tasks.sample import ImageRef
from tools.slake_fingerprints import SHIPPED, slake_prints


def manifest(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def audited(*words: object) -> tuple[int, dict[str, Any]]:
    result = medbench("audit", "provenance", *words, "--format", "json")
    assert result.stdout, result.stderr
    return result.returncode, json.loads(result.stdout)


def levels(document: dict[str, Any]) -> dict[str, str]:
    return {task: found["level"] for task, found in document["tasks"].items()}


@pytest.fixture(scope="module")
def resplit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slake split by picture anew, as Uni-Med's authors did: every seventh picture is for testing."""
    root = tmp_path_factory.mktemp("resplit")
    folder = realdata("slake_text")
    names = sorted({name for split in ("train", "validate", "test") for name in slake_pictures(folder, split, "en")})
    test = names[::7]
    native = slake_tree(root / "native", folder, [name for name in names if name not in test], test)
    prepare_task(get_task("slake-vqa"), native, root / "data", {})
    return root / "data"


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slake with the official split of its English half."""
    root = tmp_path_factory.mktemp("official")
    folder = realdata("slake_text")
    train, test = slake_pictures(folder, "train", "en"), slake_pictures(folder, "test", "en")
    prepare_task(get_task("slake-vqa"), slake_tree(root / "native", folder, train, test), root / "data", {})
    return root / "data"


MODELS = """
models:
  tuned-on-official:
    trained_on: [{dataset: slake, version: official, languages: [en], evidence: its paper}]
  tuned-on-chinese:
    trained_on: [{dataset: slake, version: official, languages: [zh]}]
  tuned-here:
    trained_on: [{dataset: slake, version: prepared}]
  of-some-version:
    trained_on: [{dataset: slake}]
  child:
    adapted_from: [tuned-on-official]
    trained_on: [{dataset: path-vqa, version: official}]
  orphan:
    adapted_from: [nobody-knows]
    trained_on: []
"""


def test_the_resplit_trap_catches_the_official_split_and_nobody_else(resplit: Path, tmp_path: Path) -> None:
    models = manifest(tmp_path / "models.yaml", MODELS)
    data = medbench("audit", "data", "--data-dir", resplit)
    assert data.returncode == 0, data.stdout

    code, document = audited("--model", "tuned-on-official", "--data-dir", resplit, "--manifest", models)
    (found,) = document["tasks"]["slake-vqa"]["overlaps"]
    assert (code, levels(document)) == (4, {"slake-vqa": "L5"})
    # A random re-split holds 61 to 79 % questions of the official training part.
    assert 0.5 < found["items"] / found["of"] < 0.85
    assert (found["version"], found["language"], found["stated"]) == ("official", "en", True)

    code, document = audited("--model", "tuned-here", "--data-dir", resplit, "--manifest", models)
    assert (code, levels(document), document["tasks"]["slake-vqa"]["declared"]) == (0, {"slake-vqa": "L1"}, True)


def test_an_unstated_version_is_tried_in_all_versions_and_never_confirmed(resplit: Path, tmp_path: Path) -> None:
    models = manifest(tmp_path / "models.yaml", MODELS)
    code, document = audited("--model", "of-some-version", "--data-dir", resplit, "--manifest", models)
    found = {(one["version"], one["language"]): one for one in document["tasks"]["slake-vqa"]["overlaps"]}
    assert (code, levels(document)) == (3, {"slake-vqa": "L3"})
    assert set(found) == {("official", "en"), ("official", "zh"), ("uni-med", "")}
    assert found["official", "en"]["items"] > 0
    assert found["uni-med", ""]["items"] == 0
    assert not any(one["stated"] for one in found.values())


def test_radfm_as_our_own_manifest_declares_it(resplit: Path) -> None:
    code, document = audited("--model", "radfm", "--data-dir", resplit)
    assert (code, document["verdicts"], "RadFM" in document["title"]) == (3, {"slake-vqa": "suspicious"}, True)
    assert document["tasks"]["slake-vqa"]["overlaps"][0]["evidence"] == "its training code loads slakevqa_train.csv"


def test_the_language_twin_shares_pictures_and_no_items(official: Path, tmp_path: Path) -> None:
    models = manifest(tmp_path / "models.yaml", MODELS)
    code, document = audited("--model", "tuned-on-chinese", "--data-dir", official, "--manifest", models)
    (found,) = document["tasks"]["slake-vqa"]["overlaps"]
    assert (code, found["groups"], found["of_groups"], found["items"]) == (4, 72, 96, 0)
    code, document = audited("--model", "tuned-on-official", "--data-dir", official, "--manifest", models)
    (found,) = document["tasks"]["slake-vqa"]["overlaps"]
    assert (code, found["groups"], found["items"], levels(document)["slake-vqa"]) == (0, 0, 0, "L1")


def test_training_data_are_inherited_and_a_missing_ancestor_is_unknown(resplit: Path, tmp_path: Path) -> None:
    models = manifest(tmp_path / "models.yaml", MODELS)
    code, document = audited("--model", "child", "--data-dir", resplit, "--manifest", models)
    (found,) = document["tasks"]["slake-vqa"]["overlaps"]
    assert (code, found["through"]) == (4, ["child", "tuned-on-official"])
    code, document = audited("--model", "orphan", "--data-dir", resplit, "--manifest", models)
    assert (code, document["verdicts"]) == (5, {"slake-vqa": "not_testable"})
    assert "nobody-knows" in document["tasks"]["slake-vqa"]["why"]


def test_a_split_of_our_own_is_not_the_authors(tmp_path: Path) -> None:
    folder = realdata("slake_text")
    names = slake_pictures(folder, "test", "en")
    native = slake_tree(tmp_path / "native", folder, names, [])
    (native / "train.txt").unlink()
    (native / "test.txt").unlink()
    prepare_task(get_task("slake-vqa"), native, tmp_path / "data", {})
    models = "models: {m: {trained_on: [{dataset: slake, version: uni-med}]}}"
    code, document = audited(
        "--model", "m", "--data-dir", tmp_path / "data", "--manifest", manifest(tmp_path / "m.yaml", models)
    )
    (found,) = document["tasks"]["slake-vqa"]["overlaps"]
    assert (code, found["verdict"]) == (5, "not_testable")
    assert "prepared with another split: ours" in found["note"]


def test_sibling_tables_of_the_same_cases_are_searched(tmp_path: Path) -> None:
    native = mpx_single(tmp_path / "native")
    data = tmp_path / "data"
    prepare_task(get_task("mpx-single"), native, data, {})
    code, document = audited("--model", "radfm", "--data-dir", data)
    assert (code, document["verdicts"]) == (5, {"mpx-single": "not_testable"})
    write_csv(native / "MedPix_multi_train.csv", [{"case": "MPX1002", "text": "another question of the test case"}])
    code, document = audited("--model", "radfm", "--data-dir", data)
    found = next(one for one in document["tasks"]["mpx-single"]["overlaps"] if one["version"] == "radfm-siblings")
    assert (code, found["groups"], found["of_groups"], found["items"]) == (4, 1, 1, 0)
    assert found["note"] == "not there: MedPix_questions_train.csv"


def test_rows_of_a_model_are_compared_by_fingerprint(tmp_path: Path) -> None:
    data = tmp_path / "data"
    native = mpx_single(tmp_path / "native")
    write_csv(native / "MedPix_single_test.csv", [mpx_row("MPX1002_synpic7.jpg", context="A caption of the test.")])
    prepare_task(get_task("mpx-single"), native, data, {})
    models = manifest(tmp_path / "m.yaml", "models: {m: {trained_on: [{dataset: private, rows: rows.jsonl}]}}")
    code, document = audited("--model", "m", "--data-dir", data, "--manifest", models)
    assert (code, document["tasks"]["mpx-single"]["overlaps"][0]["verdict"]) == (5, "not_testable")
    jsonl(tmp_path / "rows.jsonl", [{"image": "a/MPX1002_synpic7.jpg", "report": "A CAPTION of the test"}])
    code, document = audited("--model", "m", "--data-dir", data, "--manifest", models)
    (found,) = document["tasks"]["mpx-single"]["overlaps"]
    assert (code, found["items"], found["pictures"]) == (4, 1, 1)
    assert not document["tasks"]["mpx-single"]["declared"]


def test_the_mini_suites_stand_ins_are_not_the_datasets() -> None:
    code, document = audited("--model", "radfm", "--task", "slake-vqa,medqa")
    assert code == 5
    assert document["verdicts"] == {"medqa": "no_evidence", "slake-vqa": "not_testable"}
    assert all("stand-ins" in one["note"] for one in document["tasks"]["slake-vqa"]["overlaps"])


@pytest.mark.parametrize(
    ("model", "code"), [("uni-med", 0), ("blind", 0), ("mock", 0), ("llava-med", 5), ("openai", 5)]
)
def test_what_models_of_the_catalogue_declare(model: str, code: int, tmp_path: Path) -> None:
    result = medbench("audit", "provenance", "--model", model, "--output", tmp_path)
    assert result.returncode == code, result.stderr
    assert (tmp_path / "audit-provenance.md").read_text(encoding="utf-8") == result.stdout
    document = json.loads((tmp_path / "audit-provenance.json").read_text(encoding="utf-8"))
    assert len(document["verdicts"]) == 12


def test_the_card_of_a_model_and_the_model_beneath_it(resplit: Path) -> None:
    code, document = audited("--model", "hf:someone/Lingshu-7B", "--data-dir", resplit)
    assert (code, document["verdict"]) == (3, "suspicious")
    assert document["tasks"]["slake-vqa"]["overlaps"][0]["evidence"] == "the adapter's card"
    assert declared_by("hf:someone/Lingshu-7B").trained_on == frozenset({"slake-vqa", "path-vqa", "mimic-cxr", "medqa"})


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("models: {m: {trained_on: [{dataset: slakee}]}}", EXIT_USAGE, "no dataset in the manifest named 'slakee'"),
        ("models: {m: {trained_on: [{dataset: slake, version: 9}]}}", EXIT_USAGE, "valid string"),
        ("models: {m: {trained_on: [{dataset: slake, version: v9}]}}", EXIT_USAGE, "no version 'v9' of slake"),
        ("models: {m: {trained: []}}", EXIT_USAGE, "models.m.trained"),
        ("models: {m: {adapted_from: [n], trained_on: []}, n: {adapted_from: [m]}}", EXIT_USAGE, "adapted from itself"),
        ("models: {m: {trained_on: [{dataset: x, rows: ../x.jsonl}]}}", EXIT_FAILED, "leads out of"),
        ("[]", EXIT_USAGE, "not a table"),
    ],
)
def test_a_wrong_manifest_is_explained(tmp_path: Path, text: str, code: int, message: str) -> None:
    models = manifest(tmp_path / "m.yaml", text)
    result = medbench("audit", "provenance", "--model", "m", "--task", "slake-vqa", "--manifest", models)
    assert (result.returncode, message in result.stderr) == (code, True), result.stderr


def test_an_unknown_model_is_explained() -> None:
    result = medbench("audit", "provenance", "--model", "radfn")
    assert (result.returncode, "radfm" in result.stderr) == (EXIT_USAGE, True)


def test_the_shipped_fingerprints_are_those_of_the_published_files() -> None:
    folder = realdata("slake_text") / "Slake1.0"
    assert SHIPPED.read_text(encoding="utf-8") == slake_prints(folder)
    pictures = json.loads(SHIPPED.read_text(encoding="utf-8"))["pictures"]
    assert {
        language: [len(pictures[language][split]) for split in ("train", "validate", "test")] for language in pictures
    } == {
        "en": [450, 96, 96],
        "zh": [450, 96, 96],
    }
    both = {split: set(pictures["en"][split]) | set(pictures["zh"][split]) for split in ("train", "test")}
    assert len(both["train"] & both["test"]) == 142


def test_our_manifest_is_whole() -> None:
    ours = read_sources()
    tasks = {task for one in ours.datasets.values() for task in one.tasks}
    assert {name for name in TASKS if not name.startswith("echo")} == tasks
    for key, model in ours.models.items():
        assert {one.dataset for one in model.trained_on or ()} <= set(ours.datasets), key
        for step in inherited(key, (ours,)):
            assert isinstance(step, Inherited) or step
    assert all(
        (ours.folder / one.file).is_file() for d in ours.datasets.values() for one in d.versions.values() if one.file
    )


def test_the_most_telling_name_of_a_model_is_taken() -> None:
    ours = read_sources()
    keys = [source_of("hf", name, (ours,)) for name in ("google/medgemma-4b-it", "Qwen/Qwen2.5-VL-7B", "x/unknown")]
    assert [key and key[0] for key in keys] == ["medgemma", "qwen2.5-vl", None]


def test_fingerprints_of_images_hold_no_text_and_go_by_name_and_by_id() -> None:
    image = (ImageRef(path="imgs/xmlab1/source.jpg"),)
    item = vqa("a", "Is it?", "Yes", images=image, groups={"image": "xmlab1"}, family="slake")
    same = vqa("b", "Where?", "No", images=(ImageRef(path="xmlab1/source.jpg"),))
    assert len(image_prints(item)) == 2
    assert image_prints(same) < image_prints(item)
    assert all(len(value) == 32 and set(value) <= set("0123456789abcdef") for value in image_prints(item))
    # A short answer or question alone, without image or id, has none.
    assert image_prints(vqa("d", "", "yes")) == frozenset()
    assert not image_prints(item) & image_prints(vqa("e", "", "", groups={"image": "xmlab1"}, family="path"))


def test_a_model_adapted_from_itself_is_refused(tmp_path: Path) -> None:
    loop = read_sources(manifest(tmp_path / "m.yaml", "models: {a: {adapted_from: [a], trained_on: []}}"))
    with pytest.raises(UsageError, match="adapted from itself"):
        list(inherited("a", (loop,)))
