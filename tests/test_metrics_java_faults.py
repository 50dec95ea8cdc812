"""Java that ends, hangs, or is ended by others: what that costs METEOR, and what it does not."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from command_line import medbench

from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.metrics import java, meteor
from medbench.tasks.metrics.java import JavaError, tokenise
from medbench.tasks.metrics.meteor import close_meteor, meteor_statistics
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.protocols import Item, evaluate

pytestmark = pytest.mark.xdist_group("java")


def forget() -> None:
    close_meteor()
    meteor._deadly.clear()
    java._known.clear()


@pytest.fixture(autouse=True)
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put a program of ours in the place of Java."""
    program = tmp_path / "java"
    program.write_text(f"#!{sys.executable} -S\n{Path(__file__).with_name('fake_java.py').read_text()}")
    program.chmod(0o755)
    monkeypatch.setattr(java, "java_executable", lambda: program)
    forget()
    yield program
    forget()


@pytest.mark.parametrize("word", ["die", "kill", "memory", pytest.param("hang", marks=pytest.mark.slow)])
def test_a_pair_that_ends_the_program_has_no_score_and_takes_none(
    word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(java, "_MOST_SECONDS", 1.0)
    predictions = ["the lungs are clear", f"please {word} now", "no finding", f"please {word} now", "a nodule"]
    rows = meteor_statistics(predictions, ["the lungs are clear"] * 5)
    assert np.isnan(rows).all(axis=1).tolist() == [False, True, False, True, False]
    assert "METEOR's program ended on 2 of 5 answers" in " ".join(capsys.readouterr().err.split())
    # Both protocols ask for it; it is not tried again.
    started = meteor._program()
    meteor_statistics(predictions, ["the lungs are clear"] * 5)
    assert meteor._program() is started


def test_a_number_says_over_how_many_it_is_and_what_it_would_be_with_the_others() -> None:
    reference = "the lungs are clear"
    predictions = [reference, "please die", reference, "nothing else"]
    items = [Item(state="ok", scorable=Scorable(prediction=one, reference=reference)) for one in predictions]
    found = {one.metric.metric_id: one for one in evaluate("mimic-cxr", "report", "strict", items)}
    of_meteor = found["meteor"]
    assert (of_meteor.indices.tolist(), of_meteor.unscored) == ([0, 2, 3], 1)
    assert found["bleu1"].indices.tolist() == [0, 1, 2, 3]
    assert found["bleu1"].unscored == 0
    assert of_meteor.bounds is not None
    low, high = of_meteor.bounds
    assert low < of_meteor.value < high


def test_what_ends_the_program_once_was_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_JAVA_ONCE", str(tmp_path / "once"))
    rows = meteor_statistics(["the lungs", "please kill", "no finding"], ["the lungs"] * 3)
    assert (tmp_path / "once").exists()
    assert not np.isnan(rows).any()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "words", ["UnsupportedClassVersionError: Meteor needs Java 17", "Error: no space for the heap"]
)
def test_a_program_that_ends_on_every_pair_ends_meteor_with_its_words(
    words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_JAVA_BROKEN", words)
    with pytest.raises(JavaError, match=rf"failed \(exit status 1\): {words}"):
        meteor_statistics(["the lungs"] * 1000, ["the lungs"] * 1000)


def test_too_many_deadly_pairs_end_meteor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "_MOST_DEADLY", 3)
    predictions = [f"die {number}" for number in range(9)]
    with pytest.raises(MedbenchError, match=r"ended on 3 pairs. The last: .*it died"):
        meteor_statistics(predictions, ["the lungs"] * 9)


def test_a_signal_is_named() -> None:
    with pytest.raises(JavaError, match=r"exit status -9, killed by SIGKILL"):
        meteor._asked([("kill", "the lungs")])


def test_a_tokenizer_that_somebody_ended_is_started_again(fake: Path, tmp_path: Path) -> None:
    once = tmp_path / "ended"
    script = fake.read_text().replace("def main() -> None:\n", f"def main() -> None:\n    end_once({str(once)!r})\n")
    ending = "def end_once(name: str) -> None:\n    if not Path(name).exists():\n        Path(name).touch()\n"
    fake.write_text(script.replace("def scored", f"{ending}        os.kill(os.getpid(), 9)\n\n\ndef scored"))
    assert tokenise(["The LUNGS"]) == ("the lungs",)
    assert once.exists()


def test_a_tokenizer_that_hangs_is_a_sentence(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.write_text(f"#!{sys.executable} -S\nimport time\ntime.sleep(600)\n")
    monkeypatch.setattr(java, "_MOST_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(JavaError, match="gave no answer in 0 s"):
        tokenise(["the lungs"])
    assert time.monotonic() - began < 30


@pytest.mark.slow
def test_a_run_tells_which_answers_have_no_meteor(tmp_path: Path) -> None:
    """Through the command line: the other numbers are there, the run is done, and a notice says what is left out."""
    result = medbench("run", "--model", "mock:oracle", "--tasks", "mimic-cxr", "--limit", 4, "--output-dir", tmp_path)
    assert result.returncode == 0, result.stderr
    [folder] = [path for path in tmp_path.iterdir() if (path / "results.json").exists()]
    records = (folder / "generations" / "mimic-cxr.jsonl").read_text().splitlines()
    first = json.loads(records[0])
    records[0] = json.dumps({**first, "text": "please die"})
    (folder / "generations" / "mimic-cxr.jsonl").write_text("\n".join(records) + "\n")
    again = medbench("score", folder)
    assert again.returncode == 0, again.stderr
    document = json.loads((folder / "results.json").read_text())
    numbers = document["tasks"]["mimic-cxr"]["strict"]
    assert (numbers["meteor"]["n"], numbers["meteor"]["errors"], numbers["bleu1"]["n"]) == (3, 1, 4)
    assert numbers["meteor"]["bounds"] is not None
    assert numbers["meteor"]["value"] == pytest.approx(1)
    assert any("could not be scored on 1 answers" in notice for notice in document["notices"])
    assert "could not be scored on 1 answers" in (folder / "leaderboard.md").read_text()
