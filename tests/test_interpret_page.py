"""Maps of features, figures and the page of an interpretation: planted clusters, one cloud, what is said of them."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browser import CHROMIUM, chromium
from pydantic import ValidationError

from medbench.harness.interpreted import read
from medbench.leaderboard.interpretation.figures import draw_direction, draw_routing
from medbench.leaderboard.interpretation.page import page, publish
from medbench.leaderboard.interpretation.reading import headline, how_measured, pulls, summary_table
from medbench.leaderboard.interpretation.spectra import shown, spectra_as_markdown
from medbench.leaderboard.interpretation.turning import in_cube, seen, turning
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.tasks.sample import ImageRef, Sample
from medbench.unimed.interpret import document as told
from medbench.unimed.interpret import fisher
from medbench.unimed.interpret.maps import Maps, apart, embedded, map_of, read_maps, spread, write_maps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
        magnitude=bounds(direction, 0.1), index=index, normalised=index, flipped=((0.3,) * 3,) * 3,
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


def spectra(*labels: str, fingerprint: str = "f", other: str = "narrow") -> fisher.FisherDocument:
    """Return spectra of wide gradients, and of models after the first those of `narrow` ones or `others`."""
    dice = np.random.default_rng(0)
    wide = dice.normal(size=(30, 40))
    rows = {"wide": wide, "alike": dice.normal(size=(30, 40)), "narrow": wide[:, :2] @ dice.normal(size=(2, 40))}
    weights = fisher.resampled(3, 10, seed=0)
    models, pairs = [], []
    for label in labels:
        own = rows["wide" if label == labels[0] else other]
        groups = {"all": fisher.part_of(own @ own.T, weights, parameters=40)}
        models.append(fisher.FisherModel(
            label=label, connector="moe", fingerprint=fingerprint * 64, tasks=TASKS, data={}, samples=10, seed=0,
            precision="fp32", draws="image_centric", groups=groups,
        ))  # fmt: skip
        if label != labels[0]:
            one, two, cross = ({"all": gram} for gram in (wide @ wide.T, own @ own.T, wide @ own.T))
            pairs.append(fisher.compare((labels[0], label), one, two, cross, weights, seed=0))
    return fisher.FisherDocument(models=tuple(models), comparisons=tuple(pairs))


def test_a_spectrum_that_differs_is_told_and_one_that_does_not_is_not() -> None:
    found = spectra("official", "<b>one|two")
    text = spectra_as_markdown(found)
    rows = [line.split(" | ") for line in text.splitlines() if "directions |" in line or "gradients |" in line]
    changed = found.comparisons[0].groups["all"]["directions"].entropy
    assert changed.difference.value is not None
    told = next(row for row in rows if row[1:3] == ["directions", "SE"])
    assert told[3].startswith(f"{changed.difference.value:.3f} [")
    assert (told[-1], shown(changed)) == ("lower |", "lower")
    assert "3.401" in text  # ln 30
    assert "<b>" not in text
    alike = spectra("official", "seed 2", other="alike").comparisons[0].groups["all"]["directions"]
    assert [shown(alike.entropy), shown(alike.ratio)] == ["no difference", "no difference"]
    untested = changed.model_copy(update={"p": None})
    assert shown(untested) == "cannot be tested: other parameters"
    # Chance gives it seldom, but other samples might give the opposite.
    unsure = changed.model_copy(update={"difference": fisher.Estimate(value=-1.0, low=-2.0, high=0.1)})
    assert shown(unsure) == "no difference"
    assert "One model was measured" in spectra_as_markdown(spectra("alone"))


def test_spectra_of_other_weights_are_not_of_this_page(tmp_path: Path) -> None:
    write_atomically(tmp_path / told.FILE, told.Document(models=(model("cmoe"), model("mlp"))).model_dump_json())
    for fingerprint, there in (("f", True), ("e", False)):
        kept = spectra("cmoe", "mlp", fingerprint=fingerprint)
        write_atomically(tmp_path / fisher.FILE, kept.model_dump_json())
        assert read(tmp_path)[2] == (kept if there else None)


def test_spectra_that_do_not_fit_together_are_refused() -> None:
    good = spectra("one", "two").model_dump()
    for broken in (
        {**good, "models": good["models"][:1]},
        {**good, "models": (), "comparisons": ()},
        {"models": [{**good["models"][0], "samples": 0}], "comparisons": ()},
        {
            "models": [{**good["models"][0], "groups": {"experts": good["models"][0]["groups"]["all"]}}],
            "comparisons": (),
        },
    ):
        with pytest.raises(ValidationError):
            fisher.FisherDocument(**broken)


def test_points_fill_a_cube_and_are_seen_from_where_it_says() -> None:
    assert in_cube([(0, 0, 0), (10, 5, 0)]) == [(-1, -0.5, 0), (1, 0.5, 0)]
    assert in_cube([(3, 3, 3)]) == [(0, 0, 0)]
    # From the front: x goes right, z goes up, and what has the smaller y is nearer.
    assert seen((1, 0, 0), 0, 0) == pytest.approx((110, 0, 1))
    assert seen((0, 0, 1), 0, 0) == pytest.approx((0, -110, 1))
    assert seen((0, -1, 0), 0, 0)[2] > 1 > seen((0, 1, 0), 0, 0)[2]
    # From above what is high is near, and what lies at the back is up in the picture.
    assert seen((0, 0, 1), 0, np.pi / 2)[2] > 1
    assert seen((0, 1, 0), 0, np.pi / 2) == pytest.approx((0, -110, 1))
    # A quarter turn brings what was at the front to the right.
    assert seen((0, -1, 0), np.pi / 2, 0) == pytest.approx((110, 0, 1))


def test_a_map_in_the_page_has_every_point_from_back_to_front_with_its_mark() -> None:
    one = maps("a <b> & c")
    html = turning([one])
    assert "<b>" not in html
    [before, _] = re.findall(r'<svg class="room".*?</svg>', html, flags=re.DOTALL)
    nearness = [float(scale) for scale in re.findall(r"scale\((.*?)\)", before)]
    assert len(nearness) == len(one.tasks) == html.count("data-at") // 2 - 12
    assert nearness == sorted(nearness)
    assert nearness[0] < nearness[-1]
    assert [before.count(f'"#mark-{mark}"') for mark in range(3)] == [12, 12, 12]
    assert all(f"</svg> {task}</li>" in html for task in TASKS)
    assert f"{100 * (one.before.apart.purity or 0):.0f} % of ten nearest neighbours" in html


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.xdist_group("chromium")
@pytest.mark.slow
def test_a_map_turns_by_keys_and_by_dragging_and_never_by_itself(tmp_path: Path) -> None:
    write_atomically(tmp_path / told.FILE, told.Document(models=(model("a"),)).model_dump_json())
    write_maps([maps("a")], tmp_path)
    file = publish(tmp_path)
    bare = tmp_path / "without-script.html"
    bare.write_text(re.sub(r"<script>.*?</script>", "", file.read_text(), flags=re.DOTALL))
    first = "document.querySelector('.room')"
    drawn = (
        f"[...{first}.querySelectorAll('[data-at]')].map(one => [one.dataset.at, one.getAttribute('transform')"
        " || one.getAttribute('d')].join()).sort().join()"
    )
    with chromium() as page:
        page.size(390, 800)
        page.open(bare)
        still = page.run(drawn)
        assert page.run("document.querySelector('.turns').hidden")
        page.open(file)
        assert page.run("document.documentElement.scrollWidth") == 390
        assert page.run(f"new Promise(done => setTimeout(() => done({drawn}), 200))") == still
        page.run(f"{first}.focus()")
        for key in ("ArrowRight", "ArrowUp"):
            page.press(key)
        turned = page.run(drawn)
        assert turned != still
        page.press("Home")
        again = page.run(drawn)
        before, after = (list(map(float, re.findall(r"-?\d+\.?\d*", text))) for text in (still, again))
        # Python and the script draw the same view.
        np.testing.assert_allclose(after, before, atol=0.011)
        page.run(f"{first}.scrollIntoView()")
        x, y = page.run(f"(() => {{const b = {first}.getBoundingClientRect(); return [b.x + 50, b.y + 50]}})()")
        for kind, there in (("mousePressed", x), ("mouseMoved", x + 60), ("mouseReleased", x + 60), ("mouseMoved", x)):
            page.call("Input.dispatchMouseEvent", type=kind, x=there, y=y, button="left", buttons=1)
        dragged = page.run(drawn)
        assert dragged not in (still, again)
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + 90, y=y, button="none")
        assert page.run(drawn) == dragged
        nearness = page.run(
            f"[...{first}.querySelectorAll('use')].map(one => +one.getAttribute('transform').match(/scale.(.*).$/)[1])"
        )
        assert nearness == sorted(nearness)
        assert page.messages == []
        assert [one for one in page.requests if not one.startswith("data:")] == [file.as_uri()]


def test_experts_have_one_colour_and_one_legend_however_many_a_model_has() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    three = model("three").model_copy(update={"routing": dict.fromkeys(TASKS, (0.5, 0.3, 0.2))})
    figure = Figure(layout="constrained")
    draw_routing(figure, [three, model("two")])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["expert 1", "expert 2", "expert 3"]
    colours = [[bars[0].get_facecolor() for bars in axes.containers] for axes in figure.axes]
    assert colours[1] == colours[0][:2]


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
    assert headline(found).endswith(
        "In every model a step of slake-vqa takes from mimic-cxr. In every model a step of mimic-cxr adds to slake-vqa."
    )


def marked(figure: "Figure", place: int) -> tuple[list[tuple[float, float]], list[str], int]:
    """Return where the frames of a panel are, its bold numbers, and how many cells have their full colour."""
    axes: Any = figure.axes[place]
    bold = [text.get_text() for text in axes.texts if text.get_fontweight() == "bold"]
    return [patch.get_xy() for patch in axes.patches], bold, int((axes.images[0].get_alpha() == 1).sum())


def test_the_figure_frames_what_is_told_and_prints_bold_what_is_beyond_random_signs() -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    unsure = model("b").groups["all"].model_copy(update={"direction": bounds([[1.0, 0.5, 0.0]] * 3, 1.1)})
    figure = Figure(layout="constrained")
    draw_direction(figure, [model("a"), model("b", experts=0).model_copy(update={"groups": {"all": unsure}})])
    assert [axes.get_title() for axes in figure.axes] == ["a\nmoe", "b\nmlp2x_gelu"]
    assert marked(figure, 0) == ([(0.5, -0.5), (-0.5, 0.5)], ["0.50", "-0.50"], 2)
    # Larger than random signs give, and no interval leaves 0 out.
    assert marked(figure, 1) == ([], ["0.50", "1.00", "1.00", "0.50"], 0)


def test_a_table_says_what_each_model_is_and_what_chance_gives() -> None:
    found = told.Document(models=(model("a").model_copy(update={"seed": 7}), model("b", experts=0)))
    rows = [line.strip("| ").split(" | ") for line in summary_table(found).splitlines()]
    assert rows[0][:6] == [
        "model", "connector", "seed of batches", "parameters", "against / together / open",
        "beyond random signs (5 % of pairs)",
    ]  # fmt: skip
    assert rows[2][:6] == ["a", "moe", "7", "10", "1 / 1 / 4", "2 (0.3)"]
    assert rows[3][:2] == ["b", "mlp2x_gelu"]
    assert "- a (moe): 4 batches of 2" in how_measured(found)


def test_data_of_the_mini_suite_are_said_so_and_older_files_are_read(tmp_path: Path) -> None:
    mini = model("a").model_copy(update={"suite": "mini"})
    for suite, of in ((True, mini), (False, model("a"))):
        html = page(told.Document(models=(of,)), (), None, {})
        assert ("MINI SUITE" in html) == suite
    older = told.Document(models=(mini,)).model_dump(mode="json")
    del older["models"][0]["suite"]
    write_atomically(tmp_path / told.FILE, canonical_json(older))
    assert told.read_document(tmp_path / told.FILE).models[0].suite is None


def test_of_many_models_one_sentence_tells_all_and_names_what_all_share() -> None:
    one = model("seed 1")
    group = one.groups["all"]
    # The same but for the pair that pulls together, which is not told here.
    unsure = group.model_copy(update={"direction": bounds([[1.0, 0.0, 0.0], [-0.5, 1.0, 0.0], [0.0, 0.02, 1.0]], 0.1)})
    other = one.model_copy(update={"label": "seed 2", "groups": {"all": unsure}})
    assert headline(told.Document(models=(one, one.model_copy(update={"label": "seed 3"}), other))) == (
        "In each of 3 models 1 of 6 ordered pairs of tasks pull against each other, 0 to 1 together; the others cannot "
        "be told. In every model a step of slake-vqa takes from mimic-cxr."
    )

    along = group.model_copy(update={"direction": bounds([[1.0] * 3] * 3, 0.1)})
    all_along = one.model_copy(update={"groups": {"all": along}})
    said = headline(told.Document(models=(all_along, all_along.model_copy(update={"label": "seed 2"}))))
    assert said.count("adds to") == 4
    assert said.endswith(", and so in 2 more pairs.")


def test_a_folder_becomes_figures_and_one_page(tmp_path: Path) -> None:
    found = told.Document(models=(model("cmoe"), model("mlp", experts=0)))
    write_atomically(tmp_path / told.FILE, canonical_json(found.model_dump(mode="json")))
    write_maps([maps("cmoe")], tmp_path)
    write_atomically(tmp_path / fisher.FILE, spectra("cmoe", "mlp").model_dump_json())
    html = publish(tmp_path).read_text()
    drawn = {file.name for file in (tmp_path / "figures").iterdir()}
    names = {
        "direction",
        "tug-of-war",
        "statistics-scores",
        "routing",
        "routing-over-training",
        "maps",
        "maps-in-room",
        "spectra",
    }
    assert drawn == {f"{name}.{form}" for name in names for form in ("svg", "pdf")}
    # The map in three dimensions is the page's own, which turns.
    assert html.count("data:image/svg+xml;base64,") == len(names) - 1
    assert "<b>" not in html
    assert "no &lt;b&gt;image" in html
    assert html.count("<script") == 1
    assert html.count('<div class="wide"') == html.count("<table>") + len(names) - 1
    assert "http" not in html.split("</head>")[1].replace("data:image", "")
    assert "<h2>Spectra of the Fisher information" in html
    again = {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}
    publish(tmp_path)
    assert again == {file.name: file.read_bytes() for file in (tmp_path / "figures").iterdir()}


def test_what_was_not_measured_has_no_section() -> None:
    html = page(told.Document(models=(model("mlp", experts=0),)), (), None, {"direction": "PHN2Zz4="})
    assert "Who pulls whom" in html
    assert "<h2>Routing" not in html
    assert "three dimensions" not in html
    assert "Fisher" not in html
    assert "<script" not in html


def test_maps_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert read_maps(tmp_path) == ()
    write_maps([maps("a")], tmp_path)
    assert read_maps(tmp_path) == (maps("a"),)
