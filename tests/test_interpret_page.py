"""Maps of features, figures and the page of an interpretation: planted clusters, one cloud, what is said of them."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from medbench.leaderboard.interpretation.page import page, publish
from medbench.leaderboard.interpretation.reading import headline, pulls
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.sample import ImageRef, Sample
from medbench.unimed.interpret import document as told
from medbench.unimed.interpret.maps import Maps, apart, embedded, map_of, read_maps, spread, write_maps

TASKS = ("slake-vqa", "mimic-cxr", "dermamnist")
NAN = None


def clouds(distance: float, each: int = 30) -> tuple[np.ndarray, list[str]]:
    """Return points of three tasks around centres that lie so far apart."""
    draw = np.random.default_rng(5)
    points = [draw.normal(size=(each, 12)) + distance * np.eye(3, 12)[place] for place in range(3)]
    return np.concatenate(points), [task for task in TASKS for _ in range(each)]


def bounds(rows: Sequence[Sequence[float]], reach: float) -> told.MatrixBounds:
    values = np.asarray(rows)
    low, high = values - reach, values + reach
    return told.MatrixBounds(**{name: tuple(map(tuple, one.tolist())) for name, one in
                                {"value": values, "low": low, "high": high}.items()})  # fmt: skip


def model(label: str, *, experts: int = 2) -> told.Measured:
    direction = [[1.0, 0.5, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.02, 1.0]]
    index = told.VectorBounds(value=(1.0, 0.5, 0.25), low=(0.9, 0.4, 0.2), high=(1.1, 0.6, 0.3))
    group = told.Interference(
        parameters=10, paper_direction=bounds(direction, 0).value, paper_index=(1.0, 0.5, 0.2),
        paper_normalised=(1.0, 0.5, 0.2), non_positive=(0.0, 0.1, 0.2), direction=bounds(direction, 0.1),
        magnitude=bounds(direction, 0.1), index=index, normalised=index, flipped=bounds(direction, 0).value,
        halves=(0.9, 0.9, NAN),
    )  # fmt: skip
    scored = told.Scored(shared=(1,) * 10, single=3, silent=0, mean=0.5, paper=(1,) * 9 + (4,), paper_mean=0.6)
    scores = told.Scores(tasks=scored, flipped=scored, copies=scored, halves={})
    weights: dict[str, told.Vector] = dict.fromkeys(TASKS, (0.75, 0.25)[:experts]) if experts else {}
    moments = tuple(told.Moment(step=step, source="log", weights=weights) for step in (10, 20)) if experts else ()
    return told.Measured(
        label=label, connector="moe" if experts else "mlp2x_gelu", fingerprint="f" * 64, tasks=TASKS,
        left_out={"medqa": "no <b>image"}, data=dict.fromkeys(TASKS, "d"), batches=4, batch_size=2, seed=0,
        precision="fp32", stored="float32", copied=TASKS[0], losses=dict.fromkeys(TASKS, 1.5), groups={"all": group},
        scores={"all": scores}, routing=weights, over_training=moments,
    )  # fmt: skip


def maps(label: str) -> Maps:
    points, tasks = clouds(6.0, each=12)
    made = map_of(points, tasks, seed=0)
    return Maps(label=label, tasks=tuple(tasks), pictures=30, seed=0, before=made, after=made)


def test_planted_clusters_lie_apart_and_one_cloud_does_not() -> None:
    far, one = (apart(*clouds(distance)) for distance in (40.0, 0.0))
    assert (far.purity, far.by_task) == (1.0, dict.fromkeys(TASKS, 1.0))
    assert far.silhouette is not None
    assert one.silhouette is not None
    assert far.silhouette > 0.7
    assert abs(one.silhouette) < 0.05
    assert one.purity == pytest.approx(one.chance, abs=0.06)
    assert one.chance == pytest.approx(29 / 89)


def test_the_same_points_give_the_same_map() -> None:
    points, _ = clouds(6.0)
    first, again = (embedded(points, dimensions=2, seed=3) for _ in range(2))
    assert first.shape == (90, 2)
    assert (first == again).all()
    assert embedded(points, dimensions=3, seed=3).shape == (90, 3)


def test_a_wide_space_counts_no_more_than_a_narrow_one() -> None:
    points, tasks = clouds(6.0)
    one, other = (map_of(some, tasks, seed=0).apart for some in (points, 1000 * points + 5))
    assert one.purity == other.purity
    assert one.silhouette == pytest.approx(other.silhouette)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(UsageError, match="Maps take scikit-learn"):
        embedded(np.zeros((40, 3)), dimensions=2, seed=0)


def test_samples_are_taken_from_all_over_a_split() -> None:
    pictures = [(ImageRef(path=f"{place}.png"),) if place % 2 else () for place in range(20)]
    samples = [
        Sample(sample_id=str(place), task="slake-vqa", split="test", images=images, inputs={}, reference="")
        for place, images in enumerate(pictures)
    ]
    assert [one.sample_id for one in spread(samples, 4)] == ["1", "7", "13", "19"]
    assert len(list(spread(samples, 100))) == 10


def test_pairs_are_told_where_their_interval_leaves_nothing_open() -> None:
    assert pulls(model("cmoe").groups["all"]) == {"against": 1, "together": 1, "open": 4}
    found = told.Document(models=(model("cmoe"), model("mlp", experts=0)))
    assert headline(found).startswith("In cmoe (moe) 1 of 6 ordered pairs of tasks pull against each other, 1 together")


def test_a_folder_becomes_figures_and_one_page(tmp_path: Path) -> None:
    found = told.Document(models=(model("cmoe"), model("mlp", experts=0)))
    write_atomically(tmp_path / told.FILE, canonical_json(found.model_dump(mode="json")))
    write_maps([maps("cmoe")], tmp_path)
    html = publish(tmp_path).read_text()
    drawn = {file.name for file in (tmp_path / "figures").iterdir()}
    names = {"direction", "tug-of-war", "statistics-scores", "routing", "routing-over-training", "maps", "maps-in-room"}
    assert drawn == {f"{name}.{form}" for name in names for form in ("svg", "pdf")}
    assert html.count("data:image/svg+xml;base64,") == len(names)
    assert "<b>" not in html
    assert "no &lt;b&gt;image" in html
    assert "<script" not in html
    assert html.count('<div class="wide"') == html.count("<table>") > 0
    assert "http" not in html.split("</head>")[1].replace("data:image", "")
    again = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    publish(tmp_path)
    assert again == {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}


def test_what_was_not_measured_has_no_section() -> None:
    html = page(told.Document(models=(model("mlp", experts=0),)), (), {"direction": "PHN2Zz4="})
    assert "Who pulls whom" in html
    assert "<h2>Routing" not in html
    assert "three dimensions" not in html


def test_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_maps(tmp_path) == ()
    write_maps([maps("a")], tmp_path)
    assert read_maps(tmp_path) == (maps("a"),)
