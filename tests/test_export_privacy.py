"""What must not leave the machine does not: gated texts, names of patients, paths, servers, secrets."""

import json
import re
import string
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from export_runs import GATED, TOKEN, Planted, as_lines, invented, strings, write_run
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.leaderboard.export.formats import (
    EvalResultsOptions,
    EveryEvalOptions,
    eval_result_files,
    write_every_eval,
)
from medbench.leaderboard.export.public import (
    PATH,
    SERVER,
    Scrubber,
    machine_scrubber,
    public_copy,
    read_public,
    write_parquet,
)
from medbench.leaderboard.site import collect, site_files
from medbench.tasks.foundation.confidential import SECRET
from medbench.tasks.foundation.errors import RunError

ABSOLUTE = re.compile(r"(?:^|[\s:='\"(])(?:/|~/|[A-Za-z]:\\|\\\\)[\w.~-]")
WORD = st.text(string.ascii_letters + string.digits + "_-. é", min_size=3, max_size=12).filter(
    lambda word: word.strip(". ") == word and len(word) >= 3
)
FOLDER = st.lists(WORD.map(lambda word: f"q{word}q"), min_size=2, max_size=4).map(lambda parts: "/" + "/".join(parts))


@st.composite
def planted_runs(draw: st.DrawFn) -> Planted:
    data, output, model = (draw(FOLDER) for _ in range(3))
    text = draw(st.text(min_size=8, max_size=40).filter(lambda text: len(text.strip()) > 7 and "\0" not in text))
    return Planted(
        model=f"hf:{model}",
        data_dir=data,
        output_dir=output,
        notice=f"made from {data}",
        server=draw(st.sampled_from(["node17.cluster.example", "10.20.30.40", "gpu-box"])),
        text=f"GATED[{text.encode('utf-8', 'replace').decode()}]",
        sample=f"s{draw(st.integers(10**7, 10**8 - 1))}/x",
        patient=f"p{draw(st.integers(10**7, 10**8 - 1))}",
    )


def everything_that_leaves(folder: Path, planted: Planted) -> dict[str, str]:
    """Return the text of every file of every way out of a run of closed tasks."""
    from pyarrow import parquet

    results = invented(
        {"mimic-cxr": 0.5}, title=planted.model.removeprefix("hf:"), model=planted.model,
        notices=[planted.notice, f"served by http://{planted.server}:8000/v1?key={planted.token}"],
    )  # fmt: skip
    judge = {
        f"judge:m@http://{planted.server}:8000/v1": {"ca_file": f"{planted.data_dir}/x.pem", "key_env": "MY_TOKEN"}
    }
    path = write_run(folder / "runs", replace(results, metrics=judge), planted)
    run = read_public(path, {"MY_TOKEN": planted.token})
    left = {f"push/{name}": text for name, text in public_copy(run).files.items()}
    options = EvalResultsOptions(datasets={"*": "me/data"})
    left |= {f"hub/{name}": text for name, text in eval_result_files(run.results, options).items()}
    every = EveryEvalOptions(timestamp=1)
    for file in write_every_eval(folder / "every", run, every, data_dir=None, with_inputs=True):
        left[f"every/{file.name}"] = file.read_text(encoding="utf-8")
    write_parquet(folder / "s.parquet", run)
    table = parquet.read_table(folder / "s.parquet")
    left["parquet"] = json.dumps(table.to_pylist(), ensure_ascii=False) + table.schema.metadata[b"medbench"].decode()
    site = site_files(collect(folder / "runs", all_reports=False), "A board")
    return left | {f"site/{name}": text for name, text in site.items()}


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(planted_runs())
def test_nothing_of_a_closed_task_and_no_path_gets_out(planted: Planted) -> None:
    with tempfile.TemporaryDirectory() as folder:
        left = everything_that_leaves(Path(folder), planted)
        parents = [str(Path(place).parent) for place in (planted.model.removeprefix("hf:"), planted.output_dir)]
        forbidden = [planted.text, "GATED", planted.sample, planted.patient, planted.token, folder]
        forbidden += [planted.data_dir, planted.output_dir, f"{planted.server}", *parents]
        for name, text in left.items():
            assert [one for one in forbidden if one in text] == [], name


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(planted_runs())
def test_no_value_that_leaves_looks_like_an_absolute_path(planted: Planted) -> None:
    with tempfile.TemporaryDirectory() as folder:
        left = everything_that_leaves(Path(folder), planted)
        for name, text in left.items():
            if name.endswith(".json"):
                assert [one for one in strings(json.loads(text)) if ABSOLUTE.search(one)] == [], name
            elif name.endswith((".yaml", ".md")):
                assert ABSOLUTE.search(text) is None, name


def test_the_same_texts_do_get_out_where_they_may(tmp_path: Path) -> None:
    path = write_run(tmp_path, invented({"slake-vqa": 0.5}, title="A"), Planted())
    left = public_copy(read_public(path, {})).files
    lines = as_lines(next(text for name, text in left.items() if name.endswith("slake-vqa.jsonl")))
    assert lines[0]["prediction"] == f"{GATED} 0"
    assert lines[0]["labels"] == {"organ": GATED}
    assert lines[0]["sample_id"] == Planted().sample


def test_without_a_licence_that_allows_it_scores_go_and_texts_stay(tmp_path: Path) -> None:
    path = write_run(tmp_path, invented({"mpx-single": 0.5}, title="A"), Planted())
    left = public_copy(read_public(path, {})).files
    assert not [name for name, text in left.items() if GATED in text]
    line = as_lines(next(text for name, text in left.items() if name.endswith("mpx-single.jsonl")))[0]
    assert line["sample_id"] == Planted().sample
    assert line["paper"] == {"bleu1": {"statistics": [1.0, 2.0], "value": 0.5}}


@pytest.mark.parametrize(("text", "shown"), [
    ("/etc/passwd", PATH),
    ("hf:/home/me/My VLM", f"hf:{PATH}"),
    ("see /etc/passwd, please", f"see {PATH}, please"),
    ("~/models/x", PATH),
    ("C:\\Users\\me\\x y", PATH),
    ("\\\\server\\share\\x", PATH),
    ("file:///home/me/x", PATH),
    ("--data-dir=/data/x", f"--data-dir={PATH}"),
    ("http://10.0.0.1:8000/v1", SERVER),
    ("HTTPS://me:pw@api.openai.com/v1", SERVER),
    ("openai:m@https://api.openai.com/v1", "openai:m@https://api.openai.com/v1"),
    ("https://huggingface.co/x/y?token=abc", "https://huggingface.co/x/y"),
    (f"it is {TOKEN}.", f"it is {SECRET}."),
    ("sk-proj_abcdefghijklmnop", SECRET),
    ("and/or, 12 tokens/s, 1/2, 3 / 4, a // b", "and/or, 12 tokens/s, 1/2, 3 / 4, a // b"),
    ("hf:org/name, bleu1|paper|n=50", "hf:org/name, bleu1|paper|n=50"),
])  # fmt: skip
def test_paths_servers_and_secrets_are_told_from_other_texts(text: str, shown: str) -> None:
    assert Scrubber(roots=(), secrets=()).text(text) == shown


@pytest.mark.parametrize(("name", "shown"), [
    ("hf:/home/me/My-VLM", "hf:My-VLM"),
    ("hf:~/My-VLM/", "hf:My-VLM"),
    ("hf:C:\\models\\My-VLM", "hf:My-VLM"),
    ("openai:/srv/models/x@http://box:8000/v1", f"openai:x@{SERVER}"),
    ("openai:gpt-x@https://api.openai.com/v1", "openai:gpt-x@https://api.openai.com/v1"),
    ("hf:org/name", "hf:org/name"),
    ("uni-med", "uni-med"),
])  # fmt: skip
def test_a_model_from_disk_keeps_the_last_part_of_its_name(name: str, shown: str) -> None:
    assert Scrubber(roots=(), secrets=()).model(name) == shown


def test_a_model_answers_keep_their_slashes_but_not_this_machines_folders() -> None:
    scrubber = machine_scrubber([Path("/scratch/somebody/runs")], {"HF_TOKEN": "open-sesame", "PATH": "/bin:/usr/bin"})
    assert scrubber.known("AP /lateral view, 5/6") == "AP /lateral view, 5/6"
    assert scrubber.known("in /scratch/somebody/runs/x and on") == f"in {PATH} and on"
    assert scrubber.known("in /scratch/somebody/runs-of-others") == "in /scratch/somebody/runs-of-others"
    assert scrubber.known("it is open-sesame") == f"it is {SECRET}"


def test_what_a_secrets_name_stands_for_goes_whatever_it_looks_like() -> None:
    tree = {"api_key": "plain", "hf_token": "x", "output tokens": 3, "key_env": "OPENAI_API_KEY", "password": ["a"]}
    cleaned = Scrubber(roots=(), secrets=()).tree(tree)
    assert cleaned == {
        "api_key": SECRET, "hf_token": SECRET, "output tokens": 3, "key_env": "OPENAI_API_KEY", "password": SECRET,
    }  # fmt: skip


def test_the_last_look_stops_what_slipped_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_public(write_run(tmp_path, invented({"slake-vqa": 0.5}, title="A")), {})
    monkeypatch.setattr(
        "medbench.leaderboard.export.public.board_as_markdown", lambda board: f"{tmp_path} and {len(board.runs)}"
    )
    with pytest.raises(RunError, match=r"leaderboard\.md would carry"):
        public_copy(run)
