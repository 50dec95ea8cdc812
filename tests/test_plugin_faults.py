"""What somebody's own adapter raises or returns wrongly is told in a sentence, and costs one sample."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import Terminal, Told

from medbench.adapters.base import Answer, Generation, TextSegment
from medbench.adapters.catalog import ADAPTERS
from medbench.adapters.guarding import understood
from medbench.adapters.mock import RandomMock
from medbench.tasks.catalog import TASKS, get_task
from medbench.tasks.foundation.errors import EXIT_FAILED, SampleError
from medbench.tasks.sample import Sample

HEAD = """
from medbench.adapters.base import AdapterEntry, Answer, DirectAdapter, Generation, ModelCard, plain_answer

CARD = ModelCard(name="odd", title="Odd", kinds=frozenset(("vqa",)), weights="none", licence="Apache-2.0")


class Odd(DirectAdapter):
    card = CARD
    weights_fingerprint = "odd-1"

    def answer(self, sample, spec):
        {answer}


def parse(text, sample, spec):
    {parse}


def load(options):
    {load}


ENTRY = AdapterEntry(card=CARD, load=load, parse=parse)
"""
TASK = '''
from medbench.tasks.spec import TaskSpec


def read(source, options):
    """Read words."""
    return {body}


TASK = TaskSpec(
    name="odd", kind="qa", title="Odd", version=1, prompt="{{question}}", train_prompts=(), group_key="document",
    counts={{}}, source="invented", licence="CC0-1.0", layout="words.txt", reader=read,
)
'''
WHOLE = {"answer": "return Generation(text='MRI')", "parse": "return Answer(text=text)", "load": "return Odd()"}


@pytest.fixture
def terminal(capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(capsys)


def forget_plugins() -> None:
    for registry in (ADAPTERS, TASKS):
        registry.__dict__.pop("_plugins", None)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that installs a module as the distribution `odd-plugin` in this very process."""
    count = 0

    def make(source: str = "", *, entry: str = "ENTRY", group: str = "medbench.adapters", **bodies: str) -> None:
        nonlocal count
        count += 1
        name = f"odd_plugin_{tmp_path.name.replace('-', '_')}_{count}"
        (tmp_path / f"{name}.py").write_text(source or HEAD.format(**{**WHOLE, **bodies}))
        info = tmp_path / "odd_plugin-1.5.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd-plugin\nVersion: 1.5\n")
        (info / "entry_points.txt").write_text(f"[{group}]\nodd = {name}:{entry}\n")
        forget_plugins()

    monkeypatch.syspath_prepend(tmp_path)
    yield make
    monkeypatch.undo()
    forget_plugins()


def run(terminal: Terminal, data: Path, output: Path) -> tuple[Told, dict[str, Any], list[dict[str, Any]]]:
    told = terminal("run", "--model", "odd", "--tasks", "slake-vqa", "--data-dir", data, "--output-dir", output)
    assert "Traceback" not in told.err
    results = [json.loads(file.read_text()) for file in output.glob("*/results.json")]
    records = [
        json.loads(line)
        for file in output.glob("*/generations/slake-vqa.jsonl")
        for line in file.read_text().splitlines()
    ]
    return told, results[0] if results else {}, records


def test_an_exception_in_answer_is_the_error_of_that_sample(
    install: Callable[..., None], terminal: Terminal, vqa_data: Path, tmp_path: Path
) -> None:
    install(answer="return Generation(text='MRI') if sample.sample_id.endswith('0') else {}['words']")
    told, results, records = run(terminal, vqa_data, tmp_path / "runs")
    failed = [record for record in records if record["error"]]
    assert 0 < len(failed) < len(records)
    for record in failed:
        assert re.match(
            r"The model 'odd' of odd-plugin 1\.5 \(odd_plugin_\w+:ENTRY\) failed in answer\(\) for sample "
            rf"'{record['sample_id']}' of slake-vqa: KeyError: 'words' \(odd_plugin_\w+\.py, line 12, in answer\)\.",
            record["error"],
        ), record["error"]
    assert results["tasks"]["slake-vqa"]["states"]["error"] == len(failed)
    assert failed[0]["sample_id"] in told.err
    assert told.code == 0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return 'MRI'", "returned from answer() str 'MRI', which is no Generation"),
        ("return None", "returned from answer() None, which is no Generation"),
        ("return Generation(text=None)", "a Generation whose text is None, which is no text"),
        ("return Generation(text=5)", "a Generation whose text is int '5', which is no text"),
        ("return Generation(text='a', stop='end')", "the stop 'end'"),
        ("return Generation(text='a', output_tokens=-1)", "output_tokens=-1, which is no count"),
        ("return Generation(text='a', thought_tokens='5')", "thought_tokens='5', which is no count"),
        ("return Generation(text='a', reasoning=None)", "a Generation whose reasoning is None, which is no text"),
        ("raise TimeoutError('slow disk')", "failed in answer() for sample"),
        ("return Answer(text='a')", "returned from answer() Answer"),
        ("raise MemoryError", "failed in answer() for sample"),
        ("yield 'MRI'", "returned from answer() generator"),
    ],
)
def test_what_answer_returns_wrongly_names_the_plugin(
    body: str, told: str, install: Callable[..., None], terminal: Terminal, vqa_data: Path, tmp_path: Path
) -> None:
    install(answer=body)
    said, results, records = run(terminal, vqa_data, tmp_path / "runs")
    assert said.code == EXIT_FAILED
    assert all(told in record["error"] and "'odd' of odd-plugin 1.5" in record["error"] for record in records)
    assert results["tasks"]["slake-vqa"]["states"]["error"] == len(records) > 0


def test_a_text_that_no_file_can_hold_is_recorded_without_what_it_cannot(
    install: Callable[..., None], terminal: Terminal, vqa_data: Path, tmp_path: Path
) -> None:
    install(answer="return Generation(text='MRI\\ud800')")
    said, _, records = run(terminal, vqa_data, tmp_path / "runs")
    assert (said.code, {record["text"] for record in records}) == (0, {"MRI?"})


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("return {}[text]", r"KeyError: 'MRI' \(odd_plugin_\w+\.py, line 16, in parse\)"),
        ("return text", r"odd_plugin_\w+\.parse\) returned str 'MRI', which is no Answer"),
        ("return Answer(text=None)", "an Answer whose text is None"),
        (
            "return Answer(text=text, box=[1, 2, 3, 4])",
            r"an Answer whose box is list '\[1, 2, 3, 4\]', which is no Box",
        ),
    ],
)
def test_what_a_parser_does_wrongly_is_the_error_of_that_sample(
    body: str, told: str, install: Callable[..., None], terminal: Terminal, vqa_data: Path, tmp_path: Path
) -> None:
    install(parse=body)
    said, results, records = run(terminal, vqa_data, tmp_path / "runs")
    assert said.code == EXIT_FAILED
    assert {record["text"] for record in records} == {"MRI"}
    assert results["tasks"]["slake-vqa"]["states"]["error"] == len(records) > 0
    [scores] = (tmp_path / "runs").glob("*/scores/slake-vqa.jsonl")
    for line in map(json.loads, scores.read_text().splitlines()):
        assert re.search(told, line["error"]), line
        assert line["sample_id"] in line["error"]
    assert re.search(told, said.err)
    assert f"medbench score {scores.parent.parent}" in said.err
    assert terminal("leaderboard", scores.parent.parent).code == 0


@pytest.mark.parametrize(
    ("load", "told"),
    [
        (
            "return open('weights.bin')",
            r"failed in load\(\): FileNotFoundError: .*'weights\.bin' \(odd_plugin_.*line 20",
        ),
        ("return 5", r"returned from load\(\) a int, which is no Adapter"),
        ("raise RuntimeError('CUDA out of memory. Tried 5 GiB')", "does not fit into the memory that is free"),
        ("del Odd.weights_fingerprint; return Odd()", "failed in what it says of itself: AttributeError"),
    ],
)
def test_a_plugin_that_fails_to_load_is_a_sentence(
    load: str, told: str, install: Callable[..., None], terminal: Terminal, vqa_data: Path, tmp_path: Path
) -> None:
    install(load=load)
    said, _, records = run(terminal, vqa_data, tmp_path / "runs")
    assert (said.code, records) == (EXIT_FAILED, [])
    assert re.search(told, said.err), said.err


@pytest.mark.parametrize(
    ("source", "entry", "told"),
    [
        ("WORDS = open('words.txt').read()", "ENTRY", r"FileNotFoundError.*'words\.txt' \(odd_plugin_\w+\.py, line 1"),
        ("import nowhere_to_be_found", "ENTRY", "ModuleNotFoundError: No module named 'nowhere_to_be_found'"),
        ("def broken(:", "ENTRY", "cannot be imported: SyntaxError"),
        ("ENTRY = 1", "NOTHING", "AttributeError"),
        ("ENTRY = 1", "ENTRY", r"is a int, not a medbench\.adapters\.base\.AdapterEntry"),
    ],
)
def test_a_plugin_that_cannot_be_imported_names_its_distribution(
    source: str, entry: str, told: str, install: Callable[..., None], terminal: Terminal
) -> None:
    install(source, entry=entry)
    said = terminal("run", "--model", "odd")
    assert said.code == EXIT_FAILED
    assert "The model 'odd' of odd-plugin 1.5 (odd_plugin_" in said.err
    assert re.search(told, said.err), said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (
            "(source / 'words.txt').read_text()",
            r"could not read .*FileNotFoundError.*words\.txt.* \(odd_\w+\.py, line 7",
        ),
        ("[]", r"returned a list, not a Reading"),
    ],
)
def test_a_plugins_task_whose_reader_fails_is_a_sentence(
    body: str, told: str, install: Callable[..., None], terminal: Terminal, tmp_path: Path
) -> None:
    install(TASK.format(body=body), entry="TASK", group="medbench.tasks")
    said = terminal("data", "prepare", "odd", "--source", tmp_path, "--data-dir", tmp_path / "data")
    assert said.code == EXIT_FAILED
    assert re.search(told, said.err), said.err
    assert "odd-plugin 1.5" in said.err


@pytest.mark.parametrize("fault", ["raise", "type"])
def test_a_local_model_that_cannot_render_a_sample_loses_that_one(
    fault: str, terminal: Terminal, vqa_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = RandomMock.render

    def render(self: RandomMock, sample: Sample, *others: Any) -> Any:  # noqa: ANN401 - wrong on purpose
        if sample.sample_id.endswith("0"):
            return whole(self, sample, *others)
        if fault == "raise":
            raise IndexError("no such turn")
        return [TextSegment(ids=(1,))]

    monkeypatch.setattr(RandomMock, "render", render)
    told = terminal("run", "-m", "mock", "-t", "slake-vqa", "--data-dir", vqa_data, "--output-dir", tmp_path)
    assert told.code == 0, told.err
    [file] = tmp_path.glob("*/generations/slake-vqa.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for record in records:
        assert bool(record["error"]) != record["sample_id"].endswith("0")
    errors = [record["error"] for record in records if record["error"]]
    said = "IndexError: no such turn (test_plugin_faults.py" if fault == "raise" else "list '[TextSegment"
    assert errors
    assert all("render()" in error and said in error for error in errors), errors


def test_pixels_that_fail_cost_the_samples_of_that_picture(
    terminal: Terminal, small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pixels(*_: object) -> torch.Tensor:
        raise ZeroDivisionError("no width")

    monkeypatch.setattr(RandomMock, "pixels", pixels)
    told = terminal("run", "-m", "mock", "-t", "slake-vqa", "--data-dir", small_data, "--output-dir", tmp_path)
    assert told.code == EXIT_FAILED
    assert "failed in pixels() of imgs/" in told.err
    assert "ZeroDivisionError: no width" in told.err


def test_a_fault_of_our_own_parser_is_told_too() -> None:
    sample = Sample(sample_id="s1", task="slake-vqa", split="test", reference="x")

    def parse(text: str, *_: object) -> Answer:
        return Answer(text=str(1 // len(text)))

    with pytest.raises(SampleError, match=r"Sample 's1' of slake-vqa: .*ZeroDivisionError.*in parse"):
        understood(parse, "", sample, get_task("slake-vqa"))
    assert Generation(text="a").stop == "eos"


@pytest.fixture(scope="module")
def vqa_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slake-VQA with three test questions, one of which has an id that ends with 0."""
    from native_data import slake

    from medbench.tasks.prepare import prepare_task

    root = tmp_path_factory.mktemp("vqa")
    source = slake(root / "native", train=("xmlab1",), test=("xmlab2", "xmlab3", "xmlab4"))
    for folder in ("xmlab3", "xmlab4"):
        file = source / "imgs" / folder / "question.json"
        rows = json.loads(file.read_text())
        file.write_text(json.dumps([{**row, "qid": row["qid"] + 5} for row in rows]))
    prepare_task(get_task("slake-vqa"), source, root / "data", {})
    return root / "data"
