"""The page of probing: a document made by hand with every case, what is said of it, and what is drawn and written."""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, chromium

from medbench.harness.probing import document as told
from medbench.harness.probing.places import Module
from medbench.leaderboard.probing.figures import depths, spans_of
from medbench.leaderboard.probing.page import publish
from medbench.leaderboard.probing.reading import by_target, distinct, headlines, where_lost
from medbench.leaderboard.probing.summary import PROBED, probing_of, write_summary
from medbench.tasks.foundation.errors import DataError, UsageError

LONG = "hf:an-organisation/a-model-of-a-rather-long-name-7B-instruct-v1.5 <b>"


def score(value: float, reach: float = 0.05) -> told.Score:
    return told.Score(value=value, low=value - reach, high=value + reach)


def place(name: str, value: float, *, last: bool = False) -> told.PlaceScores:
    module: Module = "vision" if "vision" in name else "connector" if "connector" in name else "language"
    return told.PlaceScores(
        name=name, module=module, readout="last" if last else "image", width=64, score=score(value), validation=value,
        permuted=-0.01, random=value / 3, narrow=value - 0.02, strength=0.01,
    )  # fmt: skip


def curve(blocks: int) -> tuple[told.PlaceScores, ...]:
    language = [f"language {one + 1}" for one in range(blocks)]
    return (
        *(place(f"vision {one + 1}", 0.3 + 0.3 * one / blocks) for one in range(blocks)),
        place("vision, handed on", 0.62), place("connector output", 0.6), *(place(one, 0.6) for one in language),
        *(place(one, 0.2 + 0.4 * number / blocks, last=True) for number, one in enumerate(language)),
        place("language, normed", 0.61, last=True),
    )  # fmt: skip


def mode(name: told.ModeName, first: str, second: str, lost: float, *, shown: bool = False) -> told.Mode:
    return told.Mode(
        name=name, verdict="shown" if shown else "not shown", first=first, second=second, difference=score(lost, 0.08),
        p=0.004 if shown else 0.7, would_show=0.12,
    )  # fmt: skip


VISION, CONNECTOR = "vision, handed on", "connector output"
BEST, LAST = "language 2", "language, normed, last token"
NO_NETWORK = told.Mode(name="vision", verdict="cannot be tested", why="there is no reference network: give --reference")
NONE_SHOWN = (
    NO_NETWORK, mode("connector", VISION, CONNECTOR, 0.02), mode("comprehension", CONNECTOR, BEST, 0.0),
    mode("utilisation", BEST, LAST, -0.01), mode("answer", LAST, "answers", 0.03),
)  # fmt: skip
LOST = (
    mode("vision", "small CNN", VISION, 0.12, shown=True), *NONE_SHOWN[1:4],
    mode("answer", LAST, "answers", 0.23, shown=True),
)  # fmt: skip
BETTER = (*NONE_SHOWN[:4], mode("answer", LAST, "answers", -0.2, shown=True))


def target(name: str = "dermamnist", modes: Sequence[told.Mode] = LOST, blocks: int = 3) -> told.TargetFound:
    networks = (told.Named(name="small CNN", score=score(0.74)), told.Named(name="ViT", score=score(0.7)))
    return told.TargetFound(
        name=name, title=name, kind="class", classes=("a", "b"), chance=0.5, train=700, validation=175, test=300,
        clusters=280, left_out={"could not be read": 3}, needs_question=False, majority=0.67, places=curve(blocks),
        references=networks, modes=tuple(modes), answers=told.Named(name="answers", score=score(0.38), failed=12),
    )  # fmt: skip


def model(*targets: told.TargetFound, title: str = "Uni-Med (mini)", label: str = "mini") -> told.Probed:
    return told.Probed(
        label=label, title=title, weights="sha256:" + "f" * 64, dtype="float32", margin=0.02, refits=10, seed=0,
        targets=targets or (target(),), notices=("MINI SUITE: say so",),
    )  # fmt: skip


def write(output: Path, *models: told.Probed) -> Path:
    for one in models:
        told.write_probed(output / one.label, one)
    return publish(output)


def test_a_sentence_says_where_most_is_lost() -> None:
    said = where_lost("M", target())
    begin = "On dermamnist M loses most between its last token (0.61) and its answers (0.38): shown"
    more = "Shown too: the network small CNN over its vision, 0.12 [0.04, 0.20]."
    assert said == f"{begin} (difference 0.23 [0.15, 0.31]). {more}"
    behind = where_lost("M", target(modes=LOST[:4]))
    assert "farthest behind at its vision (0.62), against the network small CNN (0.74): shown" in behind


def test_a_sentence_says_what_is_not_shown_and_what_would_have_been() -> None:
    said = where_lost("M", target(modes=NONE_SHOWN))
    assert said == "On dermamnist no loss of M is shown in 4 of 5 tests; a loss of 0.12 would have been, 8 times of 10."
    weak = where_lost("M", target(modes=[replace(one, would_show=1.4) for one in NONE_SHOWN]))
    assert weak.endswith("so few samples could not have shown any.")
    assert where_lost("M", target(modes=[NO_NETWORK])) == "On dermamnist nothing of M can be tested."
    better = where_lost("M", target(modes=BETTER))
    assert "no loss of M is shown" in better
    assert better.endswith("Its answers tell more than a probe of its last token: 0.20 [0.12, 0.28].")


def test_the_headline_counts_targets() -> None:
    first, second = headlines([model(target(), target("organsmnist", NONE_SHOWN)), model(target(modes=NONE_SHOWN))])
    largest = "the largest on dermamnist between its last token and its answers (0.23)"
    assert first == f"Uni-Med (mini): a loss is shown on 1 of 2 targets, {largest}."
    assert second == "Uni-Med (mini): a loss is shown on none of 1 targets."


def test_models_of_unlike_depth_share_an_axis() -> None:
    few, many = curve(3), curve(33)
    spans = spans_of([*few, *many])
    short, long = depths(few, spans), depths(many, spans)
    assert short["connector", CONNECTOR] == long["connector", CONNECTOR] == pytest.approx(1.2)
    assert [len(short), len(long)] == [3 + 1 + 1 + 3 + 1, 33 + 1 + 1 + 33 + 1]
    for one in (short, long):
        assert list(one.values()) == sorted(one.values())
        assert all(spans[module][0] < at < spans[module][1] for (module, _), at in one.items())
    assert spans_of([place("language 1", 0.5, last=True)]).keys() == {"language"}


def test_a_folder_becomes_figures_tables_and_one_page(tmp_path: Path) -> None:
    health = told.Health(module="vision", score=0.9, gain=0.1, smoothness=0.7, floor=0.76)
    mini = model(target(), target("slake-vqa:modality", NONE_SHOWN))
    other = model(replace(target(blocks=33), train=9, health=(health,)), title=LONG, label="other")
    html = write(tmp_path, mini, other).read_text()
    figures = ["1-dermamnist", "2-slake-vqa-modality"]
    assert sorted(one.name for one in (tmp_path / "figures").iterdir()) == [
        f"{name}.{form}" for name in figures for form in ("pdf", "svg")
    ]
    assert html.count("data:image/svg+xml;base64,") == len(figures)
    assert html.count('class="wide"') == html.count("<table>") + len(figures)
    assert "<b>" not in html
    assert "<script" not in html
    assert "there is no reference network: give --reference" in html
    assert "12 failed answers left out" in html
    assert "unlike samples" in html
    assert html.count("Transcribed from a secondary source") == 1
    rows = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert len(rows) == 2 * len(curve(3)) + len(curve(33))
    assert (rows[0]["target"], rows[0]["model"], float(rows[0]["score"])) == ("dermamnist", "Uni-Med (mini)", 0.3)
    modes = json.loads((tmp_path / "modes.json").read_text())["rows"]
    assert [row["model"] for row in modes] == ["Uni-Med (mini)"] * 5 + [LONG] * 5 + ["Uni-Med (mini)"] * 5
    assert len(list(csv.DictReader((tmp_path / "modes.csv").open()))) == len(modes)
    again = (tmp_path / "figures" / "1-dermamnist.svg").read_bytes()
    assert (publish(tmp_path).read_text(), (tmp_path / "figures" / "1-dermamnist.svg").read_bytes()) == (html, again)


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    bare = replace(place("language 1", 0.2, last=True), random=None, score=told.Score(value=0.2))
    asked = replace(
        target(modes=[NO_NETWORK]), kind="box", places=(bare,), references=(), answers=None, needs_question=True
    )
    html = write(tmp_path, model(asked)).read_text()
    assert "mean IoU" in html
    assert "health" not in html.split("</style>")[1]
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html)


def test_models_of_one_title_are_told_apart() -> None:
    found = distinct([model(), model(label="b")])
    assert [one.title for one in found] == ["Uni-Med (mini) (mini)", "Uni-Med (mini) (b)"]
    assert [len(one) for one in by_target([model(), model(target("x"))])] == [1, 1]


def test_a_folder_without_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"has no folder with a probing\.json"):
        publish(tmp_path)


def test_a_run_that_was_probed_says_so_to_the_leaderboard(tmp_path: Path) -> None:
    assert probing_of(tmp_path) is None
    write_summary(tmp_path / PROBED, [model()])
    rows = probing_of(tmp_path)
    assert rows
    assert [row["verdict"] for row in rows] == [one.verdict for one in LOST]
    assert (rows[4]["difference"], rows[4]["low"], rows[4]["why"]) == (0.23, 0.23 - 0.08, "")
    (tmp_path / PROBED).write_text('{"rows": [{"target": 1}]}')
    with pytest.raises(DataError, match=r"probed\.json"):
        probing_of(tmp_path)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_the_page_fits_a_phone(tmp_path: Path) -> None:
    file = write(tmp_path, model(), model(target(blocks=33), title=LONG, label="other"))
    with chromium() as tab:
        tab.size(390, 844)
        tab.open(file)
        assert tab.run("document.documentElement.scrollWidth") <= 390
        assert ([one for one in tab.requests if not one.startswith("data:")], tab.messages) == ([file.as_uri()], [])
