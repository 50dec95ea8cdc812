"""The Fisher spectrum: known cases, numpy's eigenvalues of F itself, naive resampling, and the command."""

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import medbench
from test_interference import Given, connector_gradients, given, noisy
from test_interpret import FEW, TASKS, mlp, moe

from medbench.tasks.foundation.console import Silent
from medbench.tasks.foundation.errors import RunError
from medbench.unimed.interpret import fisher, fisher_rows
from medbench.unimed.interpret.fisher import measures, readings
from medbench.unimed.interpret.fisher_rows import Rows, products
from medbench.unimed.interpret.interference import Array

__all__ = ["connector_gradients", "mlp", "moe"]
EXACT = 1e-9


def gathered(source: Given, folder: Path, samples: int) -> Rows:
    rows = Rows(folder=folder, layout=source.layout, tasks=source.tasks, samples=samples)
    rows.gather(source, Silent())
    return rows


def whole(source: Given) -> Array:
    return np.concatenate([one.numpy() for one in source.gradients.values()])


def of_matrix(gradients: Array) -> tuple[float, float]:
    """Return SE and the largest share of the eigenvalues of F [P, P]."""
    values = np.linalg.eigvalsh(gradients.T @ gradients / len(gradients))
    shares = values[values > values.max() * 1e-12] / values.sum()
    return float(-(shares * np.log(shares)).sum()), float(shares.max())


def test_known_spectra() -> None:
    apart = np.eye(8)
    assert measures(apart) == pytest.approx((np.log(8), 1 / 8))
    assert measures(5.0 * np.ones((8, 8))) == pytest.approx((0, 1), abs=1e-9)
    lengths = np.diag([3.0, 1.0, 1.0]) ** 2
    assert measures(readings(lengths)["directions"]) == pytest.approx((np.log(3), 1 / 3))
    assert measures(readings(lengths)["gradients"]).ratio == pytest.approx(9 / 11)
    silent = np.diag([1.0, 1.0, 0.0])
    assert measures(readings(silent)["directions"]) == pytest.approx((np.log(2), 1 / 2))
    assert np.isnan(measures(np.zeros((3, 3)))).all()


def test_the_gram_matrix_has_the_eigenvalues_of_f(tmp_path: Path, connector_gradients: Given) -> None:
    rows = gathered(connector_gradients, tmp_path, 6)
    found, gradients = products(rows, rows), whole(connector_gradients)
    spectra = fisher.part_of(found["all"], fisher.resampled(len(rows.tasks), 6, seed=0), parameters=1).spectra
    turned = gradients / np.linalg.norm(gradients, axis=1)[:, None]
    for shares, matrix in ((spectra["gradients"].shares, gradients), (spectra["directions"].shares, turned)):
        values = np.linalg.svd(matrix, compute_uv=False) ** 2
        np.testing.assert_allclose(np.asarray(shares), values / values.sum(), atol=EXACT)
    for group, of in {"all": slice(0, rows.layout.size), **rows.layout.groups}.items():
        part = gradients[:, of]
        # F of a few thousand parameters takes a while; its eigenvalues are the squared singular values, too.
        values = np.linalg.svd(part, compute_uv=False) ** 2 / len(part)
        shares = values[values > 0] / values.sum()
        exact = (-(shares * np.log(shares)).sum(), shares.max())
        np.testing.assert_allclose(measures(found[group]), exact, atol=EXACT)
        if part.shape[1] < 1500:
            np.testing.assert_allclose(measures(found[group]), of_matrix(part), atol=EXACT)
    sizes = [of.stop - of.start for of in rows.layout.groups.values()]
    assert min(sizes) < 1500


def test_products_in_small_pieces_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = given(noisy(3, 5, 41)), given(noisy(3, 5, 41, seed=1))
    rows, others = gathered(one, tmp_path / "a", 5), gathered(other, tmp_path / "b", 5)
    monkeypatch.setattr(fisher_rows, "_NUMBERS", 40)
    found = products(rows, others)
    np.testing.assert_allclose(found["all"], whole(one) @ whole(other).T, atol=EXACT)
    np.testing.assert_allclose(found["a"] + found["b"], found["all"], atol=EXACT)


def test_a_bootstrap_is_that_of_rows_drawn_again() -> None:
    gradients = whole(given(noisy(2, 6, 30)))
    weights = fisher.resampled(2, 6, seed=1, draws=20)
    counts = np.rint(weights * 12).astype(int)
    assert (counts.reshape(20, 2, 6).sum(axis=2) == 6).all()
    naive = [of_matrix(np.repeat(gradients, one, axis=0)) for one in counts]
    found = fisher.bootstrapped(gradients @ gradients.T, weights)
    np.testing.assert_allclose(found, naive, atol=1e-7)
    around = fisher.spectrum(gradients @ gradients.T, weights).entropy
    assert around.low is not None
    assert around.value is not None
    assert around.high is not None
    # Samples that come twice make every draw narrower; the interval lies about the value all the same.
    assert found[:, 0].max() < around.value
    assert around.low < around.value < around.high


def test_chance_is_a_random_swap_of_two_gradients_of_a_sample() -> None:
    one, other = (whole(given(noisy(2, 6, 30, seed=seed))) for seed in (0, 1))
    found = fisher.by_chance(one @ one.T, one @ other.T, other @ other.T, seed=4, draws=15)
    swaps = np.random.default_rng(4).integers(0, 2, size=(15, 12)).astype(bool)
    for swap, drawn in zip(swaps, found, strict=True):
        first, second = np.where(swap[:, None], other, one), np.where(swap[:, None], one, other)
        np.testing.assert_allclose(drawn, np.subtract(of_matrix(second), of_matrix(first)), atol=1e-7)


def changed(one: Array, other: Array) -> fisher.Change:
    grams = [{"all": one @ one.T}, {"all": other @ other.T}]
    weights = fisher.resampled(2, len(one) // 2, seed=0)
    pair = fisher.compare(("a", "b"), grams[0], grams[1], {"all": one @ other.T}, weights, seed=0)
    return pair.groups["all"]["directions"].entropy


def test_chance_finds_what_differs_and_nothing_else() -> None:
    dice = np.random.default_rng(0)
    one, alike = dice.normal(size=(2, 24, 60))
    narrow = dice.normal(size=(24, 3)) @ dice.normal(size=(3, 60))
    assert changed(one, one).difference.value == pytest.approx(0)
    assert changed(one, one).p == 1
    same, less = changed(one, alike), changed(one, narrow)
    assert same.p is not None
    assert same.p > 0.05
    assert less.p == pytest.approx(1 / (1 + fisher.DRAWS))
    assert less.difference.high is not None
    assert less.difference.high < 0
    assert less.chance_low is not None
    assert less.difference.value is not None
    assert less.difference.value < less.chance_low


def test_a_killed_gathering_goes_on_at_the_task(tmp_path: Path) -> None:
    source = given(noisy(3, 4, 20))
    with pytest.raises(KeyboardInterrupt):
        gathered(replace(source, stop=6), tmp_path, 4)
    rest = replace(source, seen=[])
    rows = gathered(rest, tmp_path, 4)
    assert (rest.seen, rows.done()) == (["task1"] * 4 + ["task2"] * 4, 12)
    np.testing.assert_array_equal(np.concatenate(rows.read()), whole(source))
    rows.remove()
    assert not tmp_path.exists()


def test_a_gradient_that_is_no_number_ends_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no number"):
        gathered(given({"one": torch.full((3, 4), torch.nan)}), tmp_path, 3)
    assert not list(tmp_path.glob("*.npy"))


def test_more_samples_than_a_task_has_are_refused_with_the_plan(small_data: Path, moe: Path) -> None:
    words = ("interpret", moe, "--data-dir", small_data, *FEW, "--dry-run", "--fisher")
    told, fits = medbench(*words, 5000), medbench(*words, 2)
    said = " ".join(told.stderr.split())
    [name, most] = re.findall(r"--fisher is 5000, but (\S+) has (\d+) training samples", said)[0]
    assert (told.returncode, "n x P on disk" in told.stdout, name in TASKS) == (2, False, True)
    assert f"Give {most} at most" in said
    assert (fits.returncode, "n x P on disk" in fits.stdout) == (0, True)


@pytest.mark.slow
def test_two_checkpoints_side_by_side_by_command(small_data: Path, moe: Path, mlp: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    words: tuple[Any, ...] = (
        "interpret",
        moe,
        moe,
        mlp,
        "--data-dir",
        small_data,
        *FEW,
        "--images",
        0,
        "--output",
        output,
    )
    told = medbench(*words, "--fisher", 2)
    assert told.returncode == 0, told.stderr
    assert "n x P on disk" in told.stdout
    found = fisher.read_fisher(output / fisher.FILE)
    one, again, other = found.models
    assert (one.tasks, one.samples, one.label, again.label) == (TASKS, 2, "cmoe", "cmoe-2")
    assert one.groups == again.groups
    assert (one.draws, other.draws) == ("official", "official")
    shares = list(csv.DictReader((output / "mlp" / "spectrum.csv").open()))
    written = [float(row["share"]) for row in shares if (row["group"], row["reading"]) == ("projector", "directions")]
    assert written == list(other.groups["projector"].spectra["directions"].shares)
    changes = list(csv.DictReader((output / "cmoe-2" / "fisher-change.csv").open()))
    whole = [row for row in changes if row["group"] == "all"]
    assert [row["reading"] for row in whole] == ["directions", "gradients"]
    assert {(float(row["entropy_difference_value"]), row["entropy_p"]) for row in whole} == {(0, "1.0")}
    assert not (output / "cmoe" / "fisher-change.csv").exists()
    assert "<h2>Spectra of the Fisher information" in (output / "interpretation.html").read_text()
    for of in one.groups["all"].spectra.values():
        assert of.entropy.value is not None
        assert of.ratio.value is not None
        assert 0 < of.entropy.value <= np.log(2 * len(TASKS))
        assert 1 / (2 * len(TASKS)) <= of.ratio.value <= 1
    same, apart = found.comparisons
    assert same.groups["all"]["gradients"].entropy.difference.value == 0
    assert same.groups["all"]["gradients"].entropy.p == 1
    # An MLP has other parameters than experts: nothing can be swapped.
    assert (apart.other, list(apart.groups), apart.groups["all"]["gradients"].entropy.p) == ("mlp", ["all"], None)
    assert other.groups.keys() == {"all", "projector"}
    assert not list(output.glob("*/fisher"))
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    repeated = medbench(*words, "--fisher", 2)
    assert repeated.returncode == 0
    # The plan's time is the machine's.
    assert repeated.stdout.partition("tug-of-war")[2] == told.stdout.partition("tug-of-war")[2] != ""
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    other_seed = medbench(*words, "--fisher", 2, "--seed", 1)
    assert (other_seed.returncode, "another measurement" in other_seed.stderr) == (1, True)
