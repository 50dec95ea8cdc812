"""The report's data and its file: what is in it, what is left out, and that nothing in it can become markup."""

import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench
from engine_helpers import pictures
from PIL import Image
from report_fixtures import HOSTILE, Answer, task_source, write_run
from source_files import ROOT

from medbench.harness.results import read_results, write_results
from medbench.leaderboard.pages import publish_run
from medbench.leaderboard.report.document import (
    BY_COMMAND,
    SCRIPTS,
    ImageBudget,
    Shelves,
    inert_json,
    make_document,
    render_page,
    report_of,
    thumbnail,
)
from medbench.leaderboard.report.sources import RunSource, TaskSource, read_run_source, read_task_source
from medbench.tasks.foundation.errors import EXIT_USAGE, RunError, UsageError
from medbench.tasks.foundation.printable import printable_values
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef
from medbench.tasks.suite import prepare_mini_suite

ASSETS = ROOT / "leaderboard" / "assets" / "report"
ANSWERS = (
    Answer(sample_id="q/1", text="yes", raw=" Yes. ", labels={"organ": "liver"}),
    Answer(sample_id="q/2", text="yes", score=0.123456, labels={"organ": "lung"}),
    Answer(sample_id="q/3", text="", score=None, state="error", error="The image is broken."),
)


class Elements(HTMLParser):
    """Every start tag of a page, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> RunSource:
    return read_run_source(write_run(tmp_path / "run", {"slake-vqa": ANSWERS}))


def document_of(runs: list[RunSource], source: TaskSource, **options: Any) -> dict[str, Any]:
    document, _ = make_document(runs, dict.fromkeys(runs[0].results.tasks, source), **{"budget": BY_COMMAND, **options})
    return document


def texts(document: dict[str, Any], column: list[int]) -> list[str]:
    return [document["texts"][place] if place >= 0 else "" for place in column]


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="document">(.*?)</script>', page, re.DOTALL)
    assert found
    document: dict[str, Any] = json.loads(found[1])
    return document


def test_embedded_json_is_inert_and_whole() -> None:
    value = {HOSTILE: [HOSTILE, 1.5, None], "half a character": "\ud800"}
    text = "".join(inert_json(value))
    assert json.loads(text) == printable_values(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert text.encode("utf-8")


def test_numbers_that_json_lacks_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        "".join(inert_json([math.nan]))


def test_hostile_texts_add_no_element() -> None:
    hostile = Elements("".join(render_page({"texts": [HOSTILE]}, [HOSTILE])))
    assert hostile.tags == Elements("".join(render_page({"texts": []}, []))).tags
    assert [attributes.get("id") for attributes in hostile.named("script")] == ["document", "images", None]


def test_the_policy_admits_this_script_and_this_style_alone() -> None:
    page = "".join(render_page({}, []))
    [policy] = [
        one["content"] for one in Elements(page).named("meta") if one.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == rules["trusted-types"] == "'none'"
    for kind in ("script", "style"):
        [text] = re.findall(f"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[f"{kind}-src"] == f"'sha256-{digest}'"


def test_the_page_names_no_address_and_no_event_in_its_markup() -> None:
    page = "".join(render_page({}, []))
    assert set(re.findall(r"[a-z]+://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}
    assert [name for _, attributes in Elements(page).tags for name in attributes if name.startswith("on")] == []
    assert [attributes for _, attributes in Elements(page).tags if "style" in attributes] == []


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_script_never_makes_markup_or_code_of_text(name: str) -> None:
    text = (ASSETS / name).read_text(encoding="utf-8")
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|</script|<!--"
    code_or_network = r"\beval\b|Function\(|import\(|fetch\(|XMLHttp|WebSocket|sendBeacon"
    forbidden = f"{markup}|{code_or_network}"
    assert re.findall(forbidden, text) == []


def test_every_script_is_part_of_the_page() -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in ASSETS.glob("*.js"))


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"slake-vqa": ANSWERS}, environment={"code": "c"})
    assert "".join(report_of([folder])) == "".join(report_of([folder]))


def test_samples_become_columns_of_numbers_into_texts(run: RunSource) -> None:
    document = document_of([run], task_source("slake-vqa", ANSWERS, None))
    [task] = document["tasks"]
    [said] = task["answers"]
    assert task["ids"] == ["q/1", "q/2", "q/3"]
    assert texts(document, said["text"]) == ["yes", "yes", ""]
    assert said["text"][0] == said["text"][1]
    assert texts(document, said["raw"]) == [" Yes. ", "", ""]
    assert texts(document, said["error"]) == ["", "", "The image is broken."]
    assert [document["states"][state] for state in said["state"]] == ["ok", "ok", "error"]
    assert said["paper"]["bleu1"] == said["strict"]["bleu1"] == [1, 0.1235, None]
    assert texts(document, task["reference"]) == [f"reference of q/{number}" for number in (1, 2, 3)]
    assert (
        texts(document, task["prompt"])
        == ["Based on the image, respond to this question with a short answer: What is it?"] * 3
    )
    assert task["labels"] == [{"key": "organ", "title": "organ", "values": ["liver", "lung"], "of": [0, 1, -1]}]


def test_errors_name_no_folder_of_the_data(tmp_path: Path, picture_folder: Path) -> None:
    failed = [replace(ANSWERS[2], error=f"The image {picture_folder}/0.png is missing.")]
    run = read_run_source(write_run(tmp_path / "run", {"slake-vqa": failed}))
    document = document_of([run], task_source("slake-vqa", failed, picture_folder))
    assert texts(document, document["tasks"][0]["answers"][0]["error"]) == ["The image 0.png is missing."]


def test_runs_stand_side_by_side_by_sample(tmp_path: Path, run: RunSource) -> None:
    other = (Answer(sample_id="q/2", text="no", score=0.0), Answer(sample_id="q/9", text="new", score=0.0))
    second = read_run_source(write_run(tmp_path / "b", {"slake-vqa": other}, title="Model B"))
    document = document_of([run, second], task_source("slake-vqa", ANSWERS, None))
    [task] = document["tasks"]
    assert task["ids"] == ["q/1", "q/2", "q/3", "q/9"]
    assert texts(document, task["answers"][1]["text"]) == ["", "no", "", "new"]
    assert task["answers"][1]["state"][0] == -1
    [pair] = document["pairs"]
    [row] = [row for row in pair["rows"]["paper"] if row["metric"] == "bleu1"]
    assert (row["samples"], row["second"], row["verdict"]) == (1, 0.0, "too few clusters")
    assert row["value"] == pytest.approx(0.123456)


def test_runs_of_other_suites_are_refused(tmp_path: Path, run: RunSource) -> None:
    mini = read_run_source(write_run(tmp_path / "b", {"slake-vqa": ANSWERS}, title="B", suite="mini"))
    with pytest.raises(UsageError, match="different suites"):
        document_of([run, mini], task_source("slake-vqa", ANSWERS, None))


def test_texts_of_credentialed_data_are_left_out_unless_asked_for(tmp_path: Path) -> None:
    secret = replace(ANSWERS[0], sample_id="s1/x", text="SECRET FINDING", labels={"view": "SECRET VIEW"})
    audit = {"findings": [{"task": "mimic-cxr", "verdict": "a leak", "text": "SECRET COPY"}]}
    folder = write_run(tmp_path / "run", {"mimic-cxr": [secret]})
    (folder / "audit").mkdir()
    (folder / "audit" / "audit.json").write_text(json.dumps(audit))
    page = "".join(report_of([folder]))
    assert "SECRET" not in page
    assert '"withheld":true' in page
    assert "a leak" in page
    document = embedded(page)
    assert document["tasks"][0]["answers"][0]["paper"]["bleu1"] == [1]
    revealed = "".join(report_of([folder], reveal=True))
    assert all(text in revealed for text in ("SECRET FINDING", "SECRET VIEW", "SECRET COPY"))
    assert embedded(revealed)["revealed"]


def test_the_phantoms_of_the_mini_suite_are_shown(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"mimic-cxr": ANSWERS}, suite="mini")
    results = read_results(folder)
    bundled = load_prepared(prepare_mini_suite(), "mimic-cxr").manifest.data_fingerprint
    phantoms = replace(results.tasks["mimic-cxr"], data=bundled)
    write_results(folder / "results.json", replace(results, tasks={"mimic-cxr": phantoms}))
    assert not read_task_source("mimic-cxr", [read_run_source(folder)], None, reveal=False).withheld
    write_results(folder / "results.json", results)
    assert read_task_source("mimic-cxr", [read_run_source(folder)], None, reveal=False).withheld


def test_a_task_that_nobody_knows_is_treated_as_credentialed(run: RunSource) -> None:
    results = replace(run.results, tasks={"other": run.results.tasks["slake-vqa"]})
    source = read_task_source("other", [replace(run, results=results)], None, reveal=False)
    assert (source.spec, source.withheld) == (None, True)


def test_what_is_missing_is_said_and_the_rest_is_there(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"slake-vqa": ANSWERS, "dermamnist": ANSWERS})
    (folder / "scores" / "dermamnist.jsonl").unlink()
    (folder / "generations" / "slake-vqa.jsonl").unlink()
    document = embedded("".join(report_of([folder])))
    said = " ".join(document["runs"][0]["missing"])
    assert all(name in said for name in ("run.yaml", "env.json", "scores/dermamnist.jsonl", "slake-vqa.jsonl"))
    assert str(tmp_path) not in said
    assert document["runs"][0]["timing"] is None
    by_name = {task["name"]: task for task in document["tasks"]}
    assert by_name["dermamnist"]["ids"] == []
    assert by_name["slake-vqa"]["ids"] == ["q/1", "q/2", "q/3"]
    assert "does not say where" in by_name["slake-vqa"]["missing"]


def test_data_that_are_not_those_of_the_run_are_not_shown(run: RunSource, small_data: Path) -> None:
    source = read_task_source("slake-vqa", [run], small_data, reveal=False)
    assert source.samples == {}
    assert "not those that the run answered" in source.missing


def test_data_that_are_gone_are_missed_without_their_path(run: RunSource, tmp_path: Path) -> None:
    gone = replace(run, document={"settings": {"data_dir": str(tmp_path / "nowhere")}})
    source = read_task_source("slake-vqa", [gone], None, reveal=False)
    assert source.samples == {}
    assert "no longer where the run found them" in source.missing
    moved = read_task_source("slake-vqa", [gone], tmp_path, reveal=False)
    assert "is not prepared in the folder" in moved.missing


def place_all(folder: Path, task_numbers: dict[str, list[int]]) -> Shelves:
    found = Shelves()
    for task, numbers in task_numbers.items():
        for number in numbers:
            found.image(task, folder, ImageRef(path=f"{number}.png"))
    return found


def test_images_are_embedded_once_and_every_task_has_its_turn(picture_folder: Path) -> None:
    found = place_all(picture_folder, {"a": [0, 1, 2], "b": [1, 3]})
    uris, shown, _ = found.embed(BY_COMMAND)
    assert sorted(shown) == [0, 1, 2, 3]
    assert len(uris) == 4
    assert {(width, height) for _, width, height in shown.values()} == {(16, 16)}
    _, part, _ = found.embed(ImageBudget(size=len(uris[0]) + len(uris[1])))
    assert [found.image_names[number] for number in part] == ["0.png", "1.png"]
    assert len(found.embed(replace(BY_COMMAND, pixels=3 * 256))[1]) == 3


def test_equal_pictures_under_other_names_share_their_bytes(tmp_path: Path) -> None:
    for number in range(3):
        Image.new("RGB", (400, 200), (9, 9, 9)).save(tmp_path / f"{number}.png")
    uris, shown, _ = place_all(tmp_path, {"a": [0, 1, 2]}).embed(BY_COMMAND)
    assert (len(uris), len(shown)) == (1, 3)


def test_a_broken_picture_is_counted_and_the_next_is_shown(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    (tmp_path / "0.png").write_bytes(b"no picture")
    _, shown, broken = place_all(tmp_path, {"a": [0, 1, 5]}).embed(BY_COMMAND)
    assert (list(shown), broken) == ([1], [0, 2])


@pytest.mark.parametrize(("size", "kind", "shown"), [((28, 28), "png", (28, 28)), ((2000, 500), "jpeg", (320, 80))])
def test_thumbnails_are_small(size: tuple[int, int], kind: str, shown: tuple[int, int], tmp_path: Path) -> None:
    uri = thumbnail(Image.new("RGB", size, (1, 2, 3)))
    assert uri.startswith(f"data:image/{kind};base64,")
    file = tmp_path / "small"
    file.write_bytes(base64.b64decode(uri.partition(",")[2]))
    with Image.open(file) as image:
        assert image.size == shown


def test_no_images_are_embedded_where_none_are_asked_for(run: RunSource, picture_folder: Path) -> None:
    document = document_of([run], task_source("slake-vqa", ANSWERS, picture_folder), budget=None)
    assert document["pictures"]["shown"] == [[]] * 3
    assert not document["pictures"]["asked"]


def facts_of(tmp_path: Path, environment: object) -> dict[str, Any]:
    folder = write_run(tmp_path / "run", {"slake-vqa": ANSWERS}, environment=environment)
    found: dict[str, Any] = embedded("".join(report_of([folder])))["runs"][0]
    return found


def test_time_and_engine_are_those_of_the_run(tmp_path: Path) -> None:
    phases = {
        "seconds": {"decode": 2.5, "odd": "text"},
        "counts": {"answers": 3},
        "efficiency": {"useful_row_share": 0.9},
    }
    found = facts_of(tmp_path, {"phases": phases, "engine": {"budget": {"rows": 96}, "compiled": False}})
    assert found["timing"]["seconds"] == {"decode": 2.5}
    assert found["timing"]["counts"] == {"answers": 3}
    assert found["timing"]["engine"] == [["budget.rows", "96"], ["compiled", "no"]]
    assert found["routing"] is None


def test_routing_is_shown_where_it_was_recorded(tmp_path: Path) -> None:
    engine = {"routing": {"vqa": [0.25, 0.75], "cls": [1, 0], "odd": ["a"], "empty": []}}
    found = facts_of(tmp_path, {"engine": engine})
    assert found["routing"] == {"vqa": [0.25, 0.75], "cls": [1, 0]}
    assert found["timing"] is None


@pytest.mark.parametrize(
    "audit",
    [
        [{"task": "slake-vqa", "verdict": "clean", "text": "Nothing.", "matches": 0}],
        {"findings": [{"task": "slake-vqa", "verdict": "clean", "text": "Nothing.", "matches": 0}, "odd"]},
        {"slake-vqa": {"verdict": "clean", "text": "Nothing.", "matches": 0}},
    ],
)
def test_findings_of_an_audit_are_listed(tmp_path: Path, audit: object) -> None:
    folder = write_run(tmp_path / "run", {"slake-vqa": ANSWERS})
    (folder / "audit").mkdir()
    (folder / "audit" / "audit.json").write_text(json.dumps(audit))
    [run] = embedded("".join(report_of([folder])))["runs"]
    assert run["audited"]
    assert run["audit"] == [
        {"task": "slake-vqa", "verdict": "clean", "text": "Nothing.", "rows": [["matches", "0"]], "withheld": False}
    ]


def test_a_real_run_has_a_report_with_its_prompts_images_and_provenance(small_data: Path, tmp_path: Path) -> None:
    words = ["--model", "mock:oracle", "--data-dir", small_data, "--output-dir", tmp_path]
    assert medbench("run", *words, "--tasks", "slake-*,mimic-cxr", "--temperature", "0").returncode == 0
    [folder] = [path for path in tmp_path.iterdir() if path.is_dir()]
    page = (folder / "report.html").read_text(encoding="utf-8")
    document = embedded(page)
    by_name = {task["name"]: task for task in document["tasks"]}
    rec = by_name["slake-rec"]
    assert rec["rightBox"] == rec["answers"][0]["box"]
    assert rec["size"][0] == [33, 77]
    assert texts(document, rec["prompt"])[0].startswith("give me the location of")
    assert any(document["pictures"]["shown"])
    assert by_name["mimic-cxr"]["withheld"]
    assert document["runs"][0]["timing"]["seconds"]
    provenance = {table["title"]: dict(table["rows"]) for table in document["runs"][0]["provenance"]}
    assert provenance["Decoding"]["way"].startswith("greedy")
    assert provenance["Run"]["identity"] == folder.name.rpartition("-")[2]
    assert len(provenance["Code"]["medbench, what answers depend on"]) == 64
    assert str(tmp_path) not in page
    assert str(small_data) not in page


def test_a_report_that_cannot_be_written_is_told_and_keeps_no_page_from_being_made(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"slake-vqa": ANSWERS})
    (folder / "report.html").mkdir()
    with pytest.raises(RunError, match=r"report\.html was not written"):
        publish_run(folder)
    assert (folder / "leaderboard.md").is_file()


def test_the_command_writes_beside_the_run_or_where_it_is_told(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a", {"slake-vqa": ANSWERS})
    second = write_run(tmp_path / "b", {"slake-vqa": ANSWERS}, title="B")
    assert medbench("report", first).returncode == 0
    assert (first / "report.html").is_file()
    both = medbench("report", first, second, "--output", tmp_path / "both.html", "--images", "0")
    assert "both.html" in both.stderr
    assert len(embedded((tmp_path / "both.html").read_text())["runs"]) == 2
    assert medbench("report", tmp_path / "nowhere").returncode == 1
    assert medbench("report", first, first).returncode == EXIT_USAGE
