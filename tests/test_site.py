"""`medbench site`: which runs share a table, what of them is shown, and that nothing of them becomes markup."""

import base64
import hashlib
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench
from export_runs import Planted, invented, metric, write_run

from medbench.leaderboard import site
from medbench.leaderboard.paper import read_publication
from medbench.leaderboard.site import MARK, Collection, collect, group, reports_of, site_files, write_site
from medbench.tasks.foundation.confidential import KEYS, holds_key
from medbench.tasks.foundation.errors import DataError, RunError, UsageError
from medbench.tasks.foundation.files import write_atomically

GOLDEN = Path(__file__).with_name("golden") / "export" / "site_index.html"
HOSTILE = "</style><script>alert('x')</script><img src=x onerror=alert(1)>"
VALUES = {"slake-vqa": 0.4333, "dermamnist": 0.8}


class Tags(HTMLParser):
    """Collects elements and attributes, and complains of elements that are never closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(page: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.tags


def without_assets(page: str) -> str:
    """Return a page without its style, script and policy, which are tested by what they do."""
    page = re.sub(r"(<style>).*?(</style>)|(<script>).*?(</script>)", r"\1\2\3\4", page, flags=re.DOTALL)
    return re.sub(r"<", "\n<", re.sub(r'content="default-src[^"]*"', "", page)).strip() + "\n"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_run(folder, invented(VALUES, title="Model A"))
    write_run(folder / "deeper", invented({"slake-vqa": 0.5}, title="Model B"))
    write_run(folder, invented({"slake-vqa": 0.9}, title="Mini", suite="mini", notices=["MINI: say so"]))
    return folder


def document(page: str) -> dict[str, Any]:
    """Return what the first page shows."""
    [text] = re.findall(r'<script type="application/json" id="document">(.*?)</script>', page, flags=re.DOTALL)
    found: dict[str, Any] = json.loads(text)
    return found


def cells(board: dict[str, Any], task: str, protocol: str = "paper") -> dict[str, Any]:
    """Return the primary numbers of a task by run's name."""
    row = next(row for row in board["tables"][protocol]["rows"] if row["primary"] and row["task"] == task)
    return {run["name"]: cell for run, cell in zip(board["runs"], row["cells"], strict=False)}


def found(folder: Path) -> Collection:
    return collect(folder, all_reports=False)


def test_runs_of_other_suites_data_or_definitions_never_share_a_table() -> None:
    same = [invented(VALUES, title=title) for title in ("A", "B")]
    other_data = invented(VALUES, title="C", data="other")
    task = same[0].tasks["slake-vqa"]
    redefined = replace(task, paper={"bleu1": replace(metric(0.5, 2), signature="bleu1|new|n=2")})
    runs = [
        *same,
        other_data,
        replace(same[0], tasks={"slake-vqa": redefined}),
        invented(VALUES, title="D", suite="mini"),
        invented({"mimic-cxr": 0.5}, title="E"),
    ]
    named = [replace(run, run=f"{place:012x}") for place, run in enumerate(runs)]
    boards = group(named)
    assert sorted([sorted(run.run[-1] for run in board.runs) for board in boards]) == [
        ["0", "1", "5"],
        ["2"],
        ["3"],
        ["4"],
    ]
    assert [board.runs for board in group(list(reversed(named)))] == [board.runs for board in boards]


def test_the_first_page_is_the_golden_file(runs: Path) -> None:
    page = without_assets(site_files(found(runs), "A board")["index.html"]).replace(',"', ',\n"')
    if os.environ.get("MEDBENCH_WRITE_GOLDEN"):
        GOLDEN.write_text(page, encoding="utf-8")
    assert page == GOLDEN.read_text(encoding="utf-8")


def test_the_same_runs_give_the_same_bytes_wherever_they_lie(runs: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    runs.rename(moved / "runs-2")
    before = site_files(found(moved), "A board")
    assert site_files(found(moved / "runs-2"), "A board") == before


def test_every_run_has_a_page_and_its_numbers_as_json(runs: Path) -> None:
    collection = found(runs)
    files = site_files(collection, "A board")
    for identity in collection.runs:
        page = files[f"runs/{identity}.html"]
        assert f"../data/{identity}.json" in page
        assert json.loads(files[f"data/{identity}.json"])["run"] == identity
    boards = json.loads(files["data/boards.json"])
    assert [(board["suite"], len(board["runs"])) for board in boards] == [("paper", 2), ("mini", 1)]
    assert boards[1]["notices"] == [{"text": "MINI: say so", "runs": []}]
    assert boards[0]["tables"]["paper"]["rows"][0]["cells"][0]["ci"] == [0.3333, 0.5333]


def test_links_stay_in_the_site(runs: Path) -> None:
    files = site_files(found(runs), "A board")
    for name, page in files.items():
        if not name.endswith(".html"):
            continue
        for _, attributes in tags(page):
            target = attributes.get("href")
            if target and not target.startswith("#"):
                path = (Path("/site") / name).parent / target
                assert str(Path(str(path.resolve())).relative_to("/site")) in files, (name, target)


@pytest.mark.parametrize("page", ["index.html", "run"])
def test_hostile_names_notices_and_titles_stay_text(tmp_path: Path, page: str) -> None:
    results = invented(VALUES, title=HOSTILE, notices=[HOSTILE], model=HOSTILE)
    task = results.tasks["slake-vqa"]
    odd = replace(task, title=HOSTILE, paper={f"m{HOSTILE}": replace(metric(0.5, 2), signature=HOSTILE)})
    path = write_run(tmp_path / "runs", replace(results, tasks={"slake-vqa": odd}))
    files = site_files(found(tmp_path / "runs"), HOSTILE)
    text = files["index.html" if page == "index.html" else f"runs/{path.name[-12:]}.html"]
    kinds = [tag for tag, _ in tags(text)]
    assert len([1 for tag, attributes in tags(text) if tag == "script" and "type" not in attributes]) == 1
    assert kinds.count("style") == 1
    assert "img" not in kinds
    assert not [name for _, attributes in tags(text) for name in attributes if name.startswith("on") or name == "style"]
    assert "&lt;script&gt;" in text


def test_the_policy_admits_the_pages_own_style_and_script_only(runs: Path) -> None:
    page = site_files(found(runs), "A board")["index.html"]
    policy = next(str(a["content"]) for tag, a in tags(page) if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def test_a_report_is_copied_unless_it_may_show_what_may_not_be_passed_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    values = {"open": {"slake-vqa": 0.5}, "closed": {"mimic-cxr": 0.5}, "telling": {"slake-vqa": 0.6}}
    paths = {title: write_run(folder, invented(tasks, title=title)) for title, tasks in values.items()}
    for path in paths.values():
        (path / "report.html").write_text("<!doctype html>the report", encoding="utf-8")
    (paths["telling"] / "report.html").write_text(f"read from {folder}", encoding="utf-8")
    linked = write_run(folder, invented({"slake-vqa": 0.7}, title="linked"))
    (linked / "report.html").symlink_to(paths["open"] / "run.yaml")
    ids = {title: path.name[-12:] for title, path in {**paths, "linked": linked}.items()}
    files = site_files(found(folder), "A board")
    assert list(reports_of(found(folder))) == [f"runs/{ids['open']}/report.html"]
    assert f"./{ids['open']}/report.html" in files[f"runs/{ids['open']}.html"]
    assert "it may show texts of mimic-cxr" in files[f"runs/{ids['closed']}.html"]
    assert "names a folder" in files[f"runs/{ids['telling']}.html"]
    everything = reports_of(collect(folder, all_reports=True))
    assert f"runs/{ids['closed']}/report.html" in everything
    assert f"runs/{ids['telling']}/report.html" not in everything


def test_what_is_no_finished_run_is_listed_and_one_run_twice_counts_once(runs: Path) -> None:
    first = next(path for path in sorted(runs.iterdir()) if (path / "run.yaml").exists())
    copy = runs / "zz-copy"
    copy.mkdir()
    for name in ("run.yaml", "results.json"):
        (copy / name).write_bytes((first / name).read_bytes())
    (runs / "broken").mkdir()
    (runs / "broken" / "run.yaml").write_text("identity: x\n", encoding="utf-8")
    collection = found(runs)
    assert len(collection.runs) == 3
    reasons = {run.what: run.why for run in collection.skipped}
    assert "is there already" in reasons["zz-copy"]
    assert "broken" in reasons
    page = site_files(collection, "A board")["index.html"]
    assert "Not shown" in page
    assert str(runs) not in page


def test_an_older_site_is_replaced_and_other_folders_are_left_alone(runs: Path, tmp_path: Path) -> None:
    output = tmp_path / "site"
    write_site(output, site_files(found(runs), "A board"))
    write_site(output, {"index.html": "new"})
    left = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    assert left == ["index.html", MARK]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(UsageError, match="holds other things"):
        write_site(tmp_path / "mine", {"index.html": "new"})
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_list_of_files_that_leads_out_of_the_site_deletes_nothing(tmp_path: Path) -> None:
    (tmp_path / "dear.txt").write_text("dear", encoding="utf-8")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / MARK).write_text('{"files": ["../dear.txt"]}', encoding="utf-8")
    with pytest.raises(DataError, match="leads out"):
        write_site(tmp_path / "site", {"index.html": "new"})
    assert (tmp_path / "dear.txt").exists()


def test_the_command_writes_a_site_and_refuses_empty_folders(runs: Path, tmp_path: Path) -> None:
    done = medbench("site", runs, "--output", tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert "3 runs in 2 tables" in done.stderr
    assert (tmp_path / "site" / "index.html").is_file()
    (tmp_path / "empty").mkdir()
    done = medbench("site", tmp_path / "empty", "--output", tmp_path / "other")
    assert (done.returncode, "holds no finished run" in done.stderr) == (2, True)
    assert not (tmp_path / "other").exists()


def test_paths_of_the_machine_are_on_no_page(tmp_path: Path) -> None:
    planted = Planted()
    write_run(tmp_path / "runs", invented(VALUES, title="/home/somebody/models/My-VLM", model=planted.model), planted)
    files = site_files(found(tmp_path / "runs"), "A board")
    assert "My-VLM" in files["index.html"]
    for name, text in files.items():
        assert "somebody" not in text, name
        assert str(tmp_path) not in text, name


def test_what_no_page_can_hold_is_replaced(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", invented(VALUES, title="a\x00b"))
    page = site_files(found(tmp_path / "runs"), "half a character \ud800")["index.html"]
    assert r"half a character \ud800" in page
    assert r"a\x00b" in page


def test_the_line_under_a_number_is_where_its_interval_is(tmp_path: Path) -> None:
    results = invented({"slake-vqa": 0.5}, title="A")
    numbers = {"bleu1": replace(metric(0.5, 2), ci=(0.25, 0.75)), "f1": metric(None, 0)}
    task = replace(results.tasks["slake-vqa"], paper=numbers, strict={})
    path = write_run(tmp_path / "runs", replace(results, tasks={"slake-vqa": task}))
    page = site_files(found(tmp_path / "runs"), "A board")[f"runs/{path.name[-12:]}.html"]
    assert [a for tag, a in tags(page) if tag == "line"][1] == {
        "class": "ci", "x1": "25.00", "x2": "75.00", "y1": "4", "y2": "4"
    }  # fmt: skip
    assert [a["x"] for tag, a in tags(page) if tag == "rect"] == ["49.00"]


def test_zero_shot_is_marked_only_where_it_is_known(tmp_path: Path) -> None:
    known = invented(VALUES, title="Known")
    model = replace(known.model, trained_on=("dermamnist",), declared=True)
    write_run(tmp_path / "runs", replace(known, model=model))
    [board] = document(site_files(found(tmp_path / "runs"), "A board")["index.html"])["boards"]
    zero_shot = {task: cells(board, task)["Known"].get("zeroShot", False) for task in VALUES}
    assert zero_shot == {"slake-vqa": True, "dermamnist": False}
    assert board["runs"][0]["zeroShot"] == ["slake-vqa"]


def test_a_number_with_evidence_of_a_leak_is_starred_and_leads_nobody(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write_run(folder, invented({"slake-vqa": 0.9}, title="Leaky"))
    write_run(folder, invented({"slake-vqa": 0.5}, title="Clean"))
    write_run(folder, invented({"slake-vqa": 0.4}, title="Other"))
    [board] = document(site_files(found(folder), "Title")["index.html"])["boards"]
    assert cells(board, "slake-vqa")["Leaky"]["standing"] == "best"
    written = {path.parent: json.loads(path.read_text(encoding="utf-8")) for path in folder.rglob("results.json")}
    [(path, identity)] = [(path, one["run"]) for path, one in written.items() if one["model"]["title"] == "Leaky"]
    (path / "audit").mkdir()
    verdict = {"run": identity, "verdicts": {"slake-vqa": "strong"}}
    (path / "audit" / "audit.json").write_text(json.dumps(verdict), encoding="utf-8")
    [board] = document(site_files(found(folder), "Title")["index.html"])["boards"]
    of = cells(board, "slake-vqa")
    assert "standing" not in of["Leaky"]
    assert of["Leaky"]["leaked"]
    assert of["Clean"]["standing"] == "best"
    assert board["runs"][[run["name"] for run in board["runs"]].index("Leaky")]["leaked"] == ["slake-vqa"]


def test_a_task_that_a_run_did_not_answer_has_no_number_and_the_run_no_rank(runs: Path) -> None:
    [board, _] = document(site_files(found(runs), "A board")["index.html"])["boards"]
    assert cells(board, "dermamnist")["Model B"] is None
    assert board["runs"][1]["tasks"] == ["slake-vqa"]


def test_a_run_without_a_task_takes_no_rank_from_the_others(tmp_path: Path) -> None:
    values = {"A": VALUES, "B": {"slake-vqa": 0.5, "dermamnist": 0.4}, "C": {"slake-vqa": 0.9}}
    for title, of in values.items():
        write_run(tmp_path, invented(of, title=title))
    [board] = document(site_files(found(tmp_path), "A board")["index.html"])["boards"]
    ranks = board["ranks"]["paper"]
    assert [None if rank is None else rank[0] for rank in ranks["overall"]] == [1.5, 1.5, None]
    assert ranks["why"] == ["", "", "it has no number of DermaMNIST"]
    assert [pair[:2] for pair in board["pairs"]["paper"]] == [[0, 1]]


def test_numbers_of_a_paper_stand_beside_runs_of_its_suite_alone(runs: Path, tmp_path: Path) -> None:
    published = [read_publication("table3")]
    [board, mini] = document(site_files(found(runs), "A board", published)["index.html"])["boards"]
    names = [one["name"] for one in board["tables"]["paper"]["reported"]]
    assert "Uni-Med" in names
    row = next(row for row in board["tables"]["paper"]["rows"] if row["task"] == "slake-vqa" and row["primary"])
    assert len(row["cells"]) == len(board["runs"]) + len(names)
    assert board["tables"]["strict"]["reported"] == mini["tables"]["paper"]["reported"] == []
    write_run(tmp_path / "minis", invented(VALUES, title="Mini", suite="mini"))
    with pytest.raises(UsageError, match="runs of the suite 'paper' only"):
        site_files(found(tmp_path / "minis"), "A board", published)


def test_runs_of_one_model_are_a_history_by_the_day_on_which_they_ended(tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    paths = [write_run(folder / str(n), invented({task: 0.5}, title="Same")) for n, task in enumerate(VALUES)]
    for path, day in zip(paths, ("2026-05-02", "2026-03-01"), strict=True):
        environment = json.loads((path / "env.json").read_text(encoding="utf-8"))
        (path / "env.json").write_text(json.dumps(environment | {"date": day}), encoding="utf-8")
    files = site_files(found(folder), "A board")
    [board] = document(files["index.html"])["boards"]
    assert board["history"] == {"Same": [path.name[-12:] for path in reversed(paths)]}
    assert [line["date"] for line in json.loads(files["data/history.json"])] == ["2026-03-01", "2026-05-02"]
    assert "2026-05-02" in files[f"runs/{paths[0].name[-12:]}.html"]


def test_a_site_that_was_cut_short_is_made_whole_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = {"index.html": "old", "runs/a/report.html": "old"}
    newer = {"index.html": "new", "data/b.json": "new", "runs/b.html": "new"}
    expected = {**newer, MARK: json.dumps({"files": sorted(newer)}, indent=2) + "\n"}
    for before in ({}, older):
        for calls in range(5):
            folder = tmp_path / f"{len(before)}-{calls}"
            if before:
                write_site(folder, before)
            left = [*range(calls)]

            def cut_short(path: Path, text: str, left: list[int] = left) -> None:
                if not left:
                    raise RunError("The disk is full.")
                left.pop()
                write_atomically(path, text)

            with monkeypatch.context() as patch:
                patch.setattr(site, "write_atomically", cut_short)
                with pytest.raises(RunError):
                    write_site(folder, newer)
            write_site(folder, newer)
            files = (path for path in folder.rglob("*") if path.is_file())
            assert {path.relative_to(folder).as_posix(): path.read_text() for path in files} == expected


@pytest.mark.parametrize("text", [
    "hf_" + "a1" * 12, "x sk-" + "A_-9" * 5, "gho_" + "b2" * 11, "AKIA" + "Z9" * 8, "xhf_" + "a1" * 12, "task-force",
    "AKIAshort", "hf_ hf_" + "c" * 20, "",
])  # fmt: skip
def test_a_key_is_found_as_its_pattern_finds_it(text: str) -> None:
    assert holds_key(f"a {text} b") == bool(KEYS.search(f"a {text} b"))
