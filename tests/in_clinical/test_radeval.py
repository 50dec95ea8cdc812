"""The real radeval gives our numbers, from random weights in the layouts of the real ones.

`make test-clinical` runs this in an environment with radeval.
"""

import json
import random
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_caches import CACHES, HUB, PLACE
from planted import TINY, plant

from medbench.tasks.foundation.errors import RunError
from medbench.tasks.metrics import clinical
from medbench.tasks.metrics.asked import MetricOptions
from medbench.tasks.metrics.metric import FloatArray, Metric, Scorable

_STARTS = ("there is", "no", "mild", "small left", "stable", "possible", "large right")
_THINGS = ("pleural effusion", "cardiomegaly", "edema", "pneumothorax", "atelectasis", "consolidation", "tube in place")
_ENDS = (".", ", unchanged .", "at the base .", "; lungs are clear .")
WORDS = sorted({word for part in (*_STARTS, *_THINGS, *_ENDS) for word in part.split()})


def report(dice: random.Random) -> str:
    sentences = dice.randint(1, 4)
    return " ".join(f"{dice.choice(_STARTS)} {dice.choice(_THINGS)} {dice.choice(_ENDS)}" for _ in range(sentences))


def pairs_of_reports() -> tuple[list[str], list[str]]:
    dice = random.Random(5)
    said, wanted = ([report(dice) for _ in range(30)] for _ in range(2))
    return [*said, wanted[0], "normal"], [*wanted, wanted[0], wanted[1]]


SAID, WANTED = pairs_of_reports()


@pytest.fixture(scope="module", autouse=True)
def planted() -> Iterator[None]:
    plant(HUB, CACHES, WORDS, **TINY)
    yield
    shutil.rmtree(PLACE)


def metrics(build: Any, **arguments: str) -> dict[str, Metric]:  # noqa: ANN401 - of either entry
    return {one.metric_id: one for one in build.build(MetricOptions(arguments={"device": "cpu", **arguments}))}


def statistics(metric: Metric, said: Sequence[str], wanted: Sequence[str]) -> FloatArray:
    pairs = zip(said, wanted, strict=True)
    return metric.statistics([Scorable(prediction=one, reference=other) for one, other in pairs])


def value(metric: Metric, said: Sequence[str] = SAID, wanted: Sequence[str] = WANTED) -> float:
    return float(metric.compute(statistics(metric, said, wanted).sum(axis=0)))


def test_findings_are_scored_as_the_library_scores_them() -> None:
    labeller = import_module("radeval.metrics.f1chexbert").F1CheXbert(device="cpu")
    found = metrics(clinical.CHEXBERT)
    _, _, all_labels, five, _, _ = labeller.forward(SAID, WANTED)
    for suffix, theirs in (("", all_labels), ("_5", five)):
        averages = ("micro avg", "macro avg", "weighted avg", "samples avg")
        by_label = [scores for name, scores in theirs.items() if name not in averages]
        occurring = sum(scores["support"] > 0 for scores in by_label) / len(by_label)
        assert 0.05 < theirs["micro avg"]["f1-score"] < 0.99
        assert value(found[f"chexbert_micro_f1{suffix}"]) == pytest.approx(theirs["micro avg"]["f1-score"])
        # Ours is over the labels that occur among the references; the library counts the others as 0.
        assert value(found[f"chexbert_macro_f1{suffix}"]) * occurring == pytest.approx(theirs["macro avg"]["f1-score"])


def test_labels_are_named_in_the_order_of_the_library() -> None:
    library = import_module("radeval.metrics.f1chexbert").F1CheXbert
    assert [*library.CONDITION_NAMES, library.NO_FINDING] == list(clinical.LABELS)
    assert list(clinical.FIVE) == library.TOP5


def test_uncertain_findings_count_as_asked() -> None:
    sure = metrics(clinical.CHEXBERT, uncertain="negative")["chexbert_micro_f1"]
    hits = statistics(sure, SAID, WANTED)[:, 0]
    said, wanted = (np.asarray([clinical._KNOWN["chexbert"][text] for text in texts]) for texts in (SAID, WANTED))
    assert set(said.ravel()) == {-1, 0, 1}
    assert hits.tolist() == ((said == 1) & (wanted == 1)).sum(axis=1).tolist()


def test_entities_are_scored_as_the_library_scores_them() -> None:
    found = metrics(clinical.RADGRAPH)
    ours = np.stack([statistics(metric, SAID, WANTED)[:, 0] for metric in found.values()])
    # Our loader makes the library importable under its other name.
    with redirect_stdout(StringIO()):
        scorer = import_module("RadEval.metrics.radgraph").F1RadGraph(reward_level="all", model_type="radgraph-xl")
    means, rewards, *_ = scorer(refs=WANTED, hyps=SAID)
    np.testing.assert_allclose(ours, rewards, rtol=0, atol=1e-12)
    np.testing.assert_allclose([value(metric) for metric in found.values()], means, rtol=0, atol=1e-12)
    assert ours.min() == 0
    assert ours[:, -2].tolist() == [1, 1, 1]
    assert len({tuple(row) for row in np.round(ours, 6)}) == 3


def test_letter_case_moves_their_numbers_and_not_ours() -> None:
    capitals = [text.upper() for text in SAID]
    found = metrics(clinical.RADGRAPH)
    assert [value(metric, capitals) for metric in found.values()] == [value(metric) for metric in found.values()]
    with redirect_stdout(StringIO()):
        scorer = import_module("RadEval.metrics.radgraph").F1RadGraph(reward_level="all", model_type="radgraph-xl")
    assert scorer(refs=WANTED, hyps=capitals)[0][0] < value(found["radgraph_simple"]) / 10


def test_a_text_that_the_library_leaves_out_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    model = clinical._Model(name="radgraph-xl", device="cpu", batch_size=1)
    reader = clinical._loaded(model, "cpu")
    utils = sys.modules["RadEval.metrics.radgraph._vendor.utils"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "get_entity", len)  # Which fails, of three arguments.
        assert reader([SAID[0]]) == [None]
    assert reader([SAID[0]]) != [None]
    assert capsys.readouterr() == ("", "")


def test_nothing_of_the_library_is_heard(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinical, "_KNOWN", {})
    for entry in (clinical.CHEXBERT, clinical.RADGRAPH):
        value(next(iter(metrics(entry).values())), ["normal"], ["edema"])
    told = capfd.readouterr()
    assert told.out == ""
    assert {line.split(" ", 2)[2].partition(":")[0] for line in told.err.splitlines()} == {
        "chexbert reads reports", "radgraph-xl reads reports",
    }  # fmt: skip


def test_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinical, "_KNOWN", {})
    with pytest.raises(RunError, match="modern-radgraph-xl cannot be loaded") as error:
        value(metrics(clinical.RADGRAPH, weights="modern-radgraph-xl")["radgraph_simple"])
    assert "modern-radgraph-xl.tar.gz of StanfordAIMI/RRG_scorers" in error.value.hint


def test_a_run_says_how_its_reports_compare(small_data: Path, tmp_path: Path) -> None:
    from command_line import medbench_process

    run = [
        "run",
        "--model",
        "blind",
        "--tasks",
        "mimic-cxr",
        "--data-dir",
        small_data,
        "--output-dir",
        tmp_path / "run",
    ]
    done = medbench_process(*run, "--metric", "chexbert", "--metric", "radgraph")
    assert done.returncode == 0, done.stderr
    assert "Using device" not in done.stdout + done.stderr
    assert "nltk" not in done.stdout + done.stderr, done.stdout + done.stderr
    (results,) = tmp_path.rglob("results.json")
    numbers = json.loads(results.read_text(encoding="utf-8"))["tasks"]["mimic-cxr"]["strict"]
    told = {name for name in numbers if name.startswith(("chexbert_", "radgraph_"))}
    assert told == {*metrics(clinical.CHEXBERT), *metrics(clinical.RADGRAPH)}
    # The blind baseline says the only report that there is.
    assert numbers["radgraph_partial"]["value"] in {0.0, 1.0}
