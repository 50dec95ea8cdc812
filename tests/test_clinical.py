"""The clinical metrics, with stand-ins for the two models; `make test-clinical` compares with the real library."""

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.metrics import clinical
from medbench.tasks.metrics.asked import MetricOptions, read_asked, refuse_useless
from medbench.tasks.metrics.metric import Metric, Scorable

# Predictions and references, in words that the stand-in for CheXbert knows; `?` marks an uncertain finding.
PAIRS = [
    ("Cardiomegaly. Edema.", "Cardiomegaly. ?Edema."),
    ("No Finding.", "No Finding."),
    ("Pleural Effusion. Fracture.", "Pleural Effusion. Atelectasis. ?Pneumonia."),
    ("", "No Finding."),
    ("?Consolidation. Cardiomegaly.", "Consolidation. Support Devices."),
    ("", "Edema. Pleural Effusion."),
]


def scorables(*pairs: tuple[str, str]) -> list[Scorable]:
    return [Scorable(prediction=prediction, reference=reference) for prediction, reference in pairs]


class Reading:
    """Stands for a model: what it reads is a function of a text, and it counts what it was given."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        self.read, self.loaded, self.texts = read, 0, list[str]()

    def load(self, device: str, *_: object) -> "Reading":
        assert device in {"cpu", "cuda"}
        print("Using device: a word of the library's")  # noqa: T201
        self.loaded += 1
        return self

    def __call__(self, texts: Sequence[str]) -> list[Any]:
        self.texts += texts
        return [self.read(text) for text in texts]


def findings(text: str) -> list[int]:
    return [-1 if f"?{label}" in text else int(label in text) for label in clinical.LABELS]


def entities(text: str) -> clinical.Graph | None:
    """Read `word`, an entity, and `word>word`, one that is located at another; nothing where the library failed."""
    if "unreadable" in text:
        return None
    ends = {end for word in text.split() for end in word.split(">")}
    numbers = {end: str(number) for number, end in enumerate(sorted(ends), 1)}
    related = {
        start: [["located_at", numbers[end]]] for start, _, end in (w.partition(">") for w in text.split()) if end
    }
    return clinical.graph_of(
        {
            number: {"tokens": end, "label": "present", "relations": related.get(end, [])}
            for end, number in numbers.items()
        }
    )


@pytest.fixture
def chexbert(monkeypatch: pytest.MonkeyPatch) -> Reading:
    return standing_for("load_chexbert", findings, monkeypatch)


@pytest.fixture
def radgraph(monkeypatch: pytest.MonkeyPatch) -> Reading:
    return standing_for("load_radgraph", entities, monkeypatch)


def standing_for(loader: str, read: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> Reading:
    model = Reading(read)
    monkeypatch.setattr(clinical, "_KNOWN", {})
    monkeypatch.setattr(clinical, "_library", lambda _: "radeval2.2.1")
    monkeypatch.setattr(clinical, loader, model.load)
    return model


def metrics(name: str, **arguments: str) -> dict[str, Metric]:
    (asked,) = read_asked({name: arguments})
    return {metric.metric_id: metric for metric in asked.entry.build(MetricOptions(arguments=arguments))}


def values(name: str, pairs: Sequence[tuple[str, str]], **arguments: str) -> Mapping[str, float]:
    found = metrics(name, **arguments)
    return {one: float(m.compute(m.statistics(scorables(*pairs)).sum(axis=0))) for one, m in found.items()}


# By scikit-learn 1.9.1, classification_report over 14 and over 5 labels. Its macro average counts labels that occur
# nowhere among the references as 0; of 14 labels 8 occur (7 where an uncertain one is none), of 5 all.
SKLEARN = {
    "positive": (0.5555555555555556, 0.26190476190476186, 0.6666666666666666, 0.6),
    "negative": (0.4, 0.14285714285714285, 0.4, 0.26666666666666666),
}


@pytest.mark.parametrize(("uncertain", "occurring"), [("positive", (8, 5)), ("negative", (7, 5))])
def test_findings_are_averaged_as_scikit_learn_does(
    uncertain: str, occurring: tuple[int, int], chexbert: Reading
) -> None:
    found = values("chexbert", PAIRS, uncertain=uncertain)
    micro, macro, micro_5, macro_5 = SKLEARN[uncertain]
    assert found["chexbert_micro_f1"] == pytest.approx(micro)
    assert found["chexbert_micro_f1_5"] == pytest.approx(micro_5)
    assert found["chexbert_macro_f1"] * occurring[0] / 14 == pytest.approx(macro)
    assert found["chexbert_macro_f1_5"] * occurring[1] / 5 == pytest.approx(macro_5)
    assert chexbert.loaded == 1


def test_a_report_without_words_names_nothing_and_is_not_read(chexbert: Reading) -> None:
    found = metrics("chexbert")["chexbert_micro_f1"].statistics(scorables(("", "No Finding."), (" \n", "Edema.")))
    assert found.tolist() == [[0, 0, 1], [0, 0, 1]]
    assert chexbert.texts == ["Edema.", "No Finding."]


def test_five_labels_are_those_of_the_competition(chexbert: Reading) -> None:
    found = metrics("chexbert")["chexbert_macro_f1_5"].statistics(scorables(("Edema. Fracture.", "Edema. Pneumonia.")))
    assert found.tolist() == [[0, 1, 0, 0, 0] + [0] * 10]
    assert chexbert.texts


def test_every_text_is_read_once_whatever_is_asked_of_it(chexbert: Reading, radgraph: Reading) -> None:
    for name, model in (("chexbert", chexbert), ("radgraph", radgraph)):
        for _ in range(2):
            values(name, PAIRS)
        assert model.loaded == 1
        assert len(model.texts) == len(set(model.texts)) == 8
        values(name, [("Atelectasis.", "Edema. Pleural Effusion.")])
        assert (model.loaded, len(model.texts)) == (2, 9)


def test_weights_do_not_share_what_they_read(radgraph: Reading) -> None:
    values("radgraph", [("lung", "lung")])
    values("radgraph", [("lung", "lung")], weights="radgraph")
    assert radgraph.texts == ["lung", "lung"]


def test_the_levels_of_entities(radgraph: Reading) -> None:
    # Said: effusion (at the lung), lung, large. Wanted: effusion (at the pleura), pleura, lung, large.
    found = values("radgraph", [("effusion>lung large", "effusion>pleura lung large"), ("lung", "lung")])
    assert found["radgraph_simple"] == pytest.approx((6 / 7 + 1) / 2)
    assert found["radgraph_partial"] == pytest.approx((6 / 7 + 1) / 2)
    assert found["radgraph_complete"] == pytest.approx((4 / 7 + 1) / 2)
    unrelated = values("radgraph", [("effusion lung", "effusion>lung")])
    assert unrelated == {"radgraph_simple": 1, "radgraph_partial": 0.5, "radgraph_complete": 0.5}
    assert radgraph.loaded == 2


def test_letter_case_moves_nothing(radgraph: Reading) -> None:
    assert set(values("radgraph", [("Effusion>LUNG", "effusion>lung")]).values()) == {1.0}
    assert radgraph.texts == ["effusion>lung"]
    cased = {"1": {"tokens": "Large", "label": "x", "relations": []}}
    assert clinical.graph_of(cased)[0] == {("large", "x")}


def test_silence_scores_nothing_and_is_not_read(radgraph: Reading) -> None:
    assert set(values("radgraph", [("", "lung")]).values()) == {0.0}
    assert radgraph.texts == ["lung"]


def test_a_text_that_the_library_left_out_scores_nothing_and_is_told(radgraph: Reading) -> None:
    for metric in metrics("radgraph").values():
        found = metric.statistics(scorables(("lung", "lung"), ("unreadable", "lung"), ("lung", "unreadable")))
        assert found[0].tolist() == [1, 1]
        assert np.isnan(found[1:]).all()
    assert radgraph.loaded == 1


def test_no_reports_are_no_numbers(chexbert: Reading, radgraph: Reading) -> None:
    assert all(np.isnan(value) for name in ("chexbert", "radgraph") for value in values(name, []).values())
    assert chexbert.loaded == radgraph.loaded == 0


def test_the_library_is_not_heard(chexbert: Reading, capsys: pytest.CaptureFixture[str]) -> None:
    values("chexbert", PAIRS)
    assert chexbert.loaded == 1
    told = capsys.readouterr()
    assert "Using device" not in told.out + told.err


def test_signatures_pin_what_moves_a_number(chexbert: Reading, radgraph: Reading) -> None:
    found = metrics("chexbert", uncertain="negative") | metrics("radgraph", weights="radgraph")
    assert found["chexbert_macro_f1_5"].signature == (
        "chexbert_macro_f1_5|radeval2.2.1|chexbert.pth|5-labels|uncertain=negative|empty=no-label|uncased|plain"
        "|reference-classes|macro_f1|strict"
    )
    assert found["radgraph_partial"].signature == (
        "radgraph_partial|radeval2.2.1|weights=radgraph|f1|sets|empty=0|lower-case|plain|mean|strict"
    )
    everything = {**found, **metrics("chexbert"), **metrics("radgraph")}
    assert all(everything[one].signature != found[one].signature for one in found)
    assert chexbert.loaded == radgraph.loaded == 0
    for metric in found.values():
        pickle.loads(pickle.dumps(metric.statistics))  # noqa: S301 - our own bytes, as a worker gets them


def test_only_reports_on_chest_x_rays_are_read(chexbert: Reading) -> None:
    mimic, mpx = get_task("mimic-cxr"), get_task("mpx-single")
    asked = read_asked({"chexbert": {}})
    assert refuse_useless(asked, [mimic]) == []
    assert refuse_useless(asked, [mimic, mpx]) == [
        "MPx-Single has no chexbert: it reads reports on chest X-rays and nothing else."
    ]
    for task, why in ((mpx, "chest X-rays"), (get_task("slake-vqa"), "of the kind report")):
        with pytest.raises(UsageError, match=why):
            refuse_useless(asked, [task])
    assert chexbert.loaded == 0


def test_the_page_has_every_metric_and_argument(chexbert: Reading, radgraph: Reading) -> None:
    page = (Path(__file__).parent.parent / "docs" / "clinical.md").read_text(encoding="utf-8")
    assert [one for name in ("chexbert", "radgraph") for one in metrics(name) if f"`{one}`" not in page] == []
    for name, entry in (("chexbert", clinical.CHEXBERT), ("radgraph", clinical.RADGRAPH)):
        assert [argument for argument in entry.arguments if f"{name}:{argument}=" not in page] == []
    assert chexbert.loaded == radgraph.loaded == 0


@pytest.mark.parametrize("name", ["chexbert", "radgraph"])
def test_without_the_library_one_is_told_what_to_install(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clinical, "find_spec", lambda _: None)
    with pytest.raises(RunError, match=rf"The metric {name} needs radeval.*\n.*medbench\[clinical\]"):
        read_asked({name: {}})


@pytest.mark.parametrize(
    ("name", "files"),
    [("chexbert", ["chexbert.pth", "bert-base-uncased"]), ("radgraph", ["radgraph-xl.tar.gz", "radgraph/0.1.18"])],
)
def test_without_the_weights_one_is_told_which(name: str, files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(_: str) -> list[int]:
        raise AssertionError("nothing was loaded")

    standing_for(f"load_{name}", offline, monkeypatch)
    monkeypatch.setattr(clinical, f"load_{name}", lambda *_: (_ for _ in ()).throw(OSError("no such host")))
    with pytest.raises(RunError, match="cannot be loaded: OSError: no such host") as error:
        values(name, [("lung", "lung")])
    assert all(file in error.value.hint for file in [*files, "StanfordAIMI/RRG_scorers"])


@pytest.mark.parametrize(
    ("name", "argument", "value", "told"),
    [
        ("chexbert", "uncertain", "maybe", "negative, positive"),
        ("chexbert", "batch_size", "0", "from 1"),
        ("chexbert", "batch_size", "9" * 5000, "from 1"),
        ("chexbert", "weights", "radgraph", "batch_size, device, uncertain"),
        ("radgraph", "weights", "radgraph-x", "Did you mean radgraph-xl"),
        ("radgraph", "device", "tpu", "auto, cpu, cuda"),
    ],
)
def test_arguments_are_refused_before_anything_is_read(
    name: str, argument: str, value: str, told: str, chexbert: Reading, radgraph: Reading
) -> None:
    with pytest.raises(UsageError) as error:
        metrics(name, **{argument: value})
    assert told in str(error.value)
    assert chexbert.loaded == radgraph.loaded == 0


def test_a_device_that_is_not_there(radgraph: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RunError, match="no CUDA device for radgraph-xl"):
        values("radgraph", [("lung", "lung")], device="cuda")
    assert radgraph.loaded == 0
