"""Interference between tasks: known cases, a naive computation, closed forms, TorchJD, and what chance alone says."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_model import small

from medbench.tasks.foundation.console import Silent
from medbench.tasks.foundation.errors import DataError, RunError
from medbench.unimed.interpret import interference as maths
from medbench.unimed.interpret import streaming
from medbench.unimed.interpret.document import Interference, Scores
from medbench.unimed.interpret.gradients import group_of
from medbench.unimed.interpret.interference import Array
from medbench.unimed.interpret.results import groups_of, scored_groups
from medbench.unimed.interpret.streaming import Layout, Measuring, Step

EXACT = 1e-9


@dataclass(frozen=True, kw_only=True)
class Given:
    """A source of gradients that are there already, [batches, P] by task; `stop` ends it after so many steps."""

    gradients: Mapping[str, torch.Tensor]
    layout: Layout
    stop: int = -1
    seen: list[str] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def tasks(self) -> Sequence[str]:
        return tuple(self.gradients)

    def steps(self, task: str, first: int, count: int) -> Iterator[Step]:
        rows = self.gradients[task]
        for number in range(first, first + count):
            if len(self.seen) == self.stop:
                raise KeyboardInterrupt
            self.seen.append(task)
            yield Step(rows[number % len(rows)], 1.0, (0.25, 0.75))


def given(gradients: Mapping[str, torch.Tensor]) -> Given:
    """Return a source whose parameters are two groups, one half each."""
    size = next(iter(gradients.values())).shape[1]
    groups = {"a": slice(0, size // 2), "b": slice(size // 2, size)}
    return Given(gradients=gradients, layout=Layout(names=("a", "b"), groups=groups))


def measured(source: Given, folder: Path, batches: int) -> Measuring:
    measuring = Measuring(folder=folder, source=source, batches=batches, copied=source.tasks[0], seed=3)
    measuring.run(Silent())
    return measuring


def both(source: Given, folder: Path, batches: int) -> tuple[dict[str, Interference], dict[str, Scores]]:
    measuring = measured(source, folder, batches)
    return groups_of(measuring), scored_groups(measuring)


def constant(*vectors: Sequence[float], batches: int = 4) -> dict[str, torch.Tensor]:
    rows = (torch.tensor([vector] * batches, dtype=torch.float64) for vector in vectors)
    return {f"task{place}": row for place, row in enumerate(rows)}


def noisy(tasks: int, batches: int, size: int, *, signal: float = 1.0, seed: int = 0) -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    common = torch.randn(size, generator=dice, dtype=torch.float64)
    return {
        f"task{place}": signal * (common + torch.randn(size, generator=dice, dtype=torch.float64))
        + (place + 1) * torch.randn(batches, size, generator=dice, dtype=torch.float64)
        for place in range(tasks)
    }


@pytest.mark.parametrize(
    ("other", "direction", "size", "mean"),
    [
        ((1.0, 2.0), 1.0, 1.0, 1.0),
        ((-1.0, -2.0), -1.0, 1.0, 0.0),
        ((2.0, -1.0), 0.0, 1.0, (3 / 3 + 1 / 3) / 2),
        ((3.0, 6.0), 1.0, 0.6, 1.0),
        ((-2.0, 1.0), 0.0, 1.0, (1 / 3 + 3 / 3) / 2),
    ],
)
def test_two_tasks_that_agree_oppose_or_ignore_each_other(
    tmp_path: Path, other: tuple[float, float], direction: float, size: float, mean: float
) -> None:
    found, scores = both(given(constant((1.0, 2.0), other)), tmp_path, 4)
    one = found["all"]
    wanted = [[1.0, direction], [direction, 1.0]]
    for matrix in (one.paper_direction, one.direction.value, one.direction.low, one.direction.high):
        np.testing.assert_allclose(np.array(matrix, dtype=float), wanted, atol=EXACT)
    np.testing.assert_allclose(np.array(one.magnitude.value, dtype=float), [[1.0, size], [size, 1.0]], atol=EXACT)
    for index in (one.paper_index, one.index.value):
        np.testing.assert_allclose(np.array(index, dtype=float), 1 + direction * size, atol=EXACT)
    assert one.non_positive == (0.0, 0.0)
    np.testing.assert_allclose(np.array(one.halves, dtype=float), 1.0, atol=EXACT)
    assert scores["all"].tasks.mean == pytest.approx(mean)


def test_the_largest_index_is_one() -> None:
    np.testing.assert_allclose(maths.normalised(np.array([1.0, 4.0, -2.0])), [0.25, 1.0, -0.5])


def test_a_longer_loss_changes_magnitudes_and_no_direction(tmp_path: Path) -> None:
    plain = noisy(3, 8, 40)
    scaled = {task: rows * factor for (task, rows), factor in zip(plain.items(), (1, 10, 0.1), strict=True)}
    one, other = (both(given(of), tmp_path / name, 8)[0]["all"] for name, of in (("a", plain), ("b", scaled)))
    np.testing.assert_allclose(
        np.array(one.paper_direction, dtype=float), np.array(other.paper_direction, dtype=float), rtol=1e-9
    )
    assert one.magnitude != other.magnitude


def naive(gradients: Mapping[str, torch.Tensor]) -> tuple[Array, Array, Array]:
    """Return Δ [T, T, n], the norms [T, n], and the scores [P], by loops over pairs of whole gradients."""
    rows = [one.double().numpy() for one in gradients.values()]
    tasks, batches = len(rows), len(rows[0])
    norms = np.array([[np.linalg.norm(vector) for vector in of] for of in rows])
    deltas = np.zeros((tasks, tasks, batches))
    for j in range(tasks):
        for i in range(tasks):
            for b in range(batches):
                others = [a for a in range(batches) if j != i or a != b]
                deltas[j, i, b] = np.mean([rows[j][a] @ rows[i][b] / norms[j, a] for a in others])
    means = np.array([of.mean(axis=0) for of in rows])
    with np.errstate(invalid="ignore"):
        return deltas, norms, np.abs(means.sum(axis=0)) / np.abs(means).sum(axis=0)


def agree(source: Given, folder: Path, batches: int) -> None:
    """Hold a streamed measurement against the naive one."""
    found, scores = both(source, folder, batches)
    deltas, norms, each = naive({task: rows[:batches] for task, rows in source.gradients.items()})
    ratio = [[np.mean(deltas[j, i] / deltas[i, i]) for j in range(len(norms))] for i in range(len(norms))]
    of_means = [[deltas[j, i].mean() / deltas[i, i].mean() for j in range(len(norms))] for i in range(len(norms))]
    long = norms.mean(axis=1)
    alike = 2 * np.outer(long, long) / (long[:, None] ** 2 + long**2)
    one = found["all"]
    for ours, theirs in (
        (one.paper_direction, ratio), (one.direction.value, of_means), (one.magnitude.value, alike),
        (one.paper_index, (ratio * alike).sum(axis=1)), (one.index.value, (of_means * alike).sum(axis=1)),
    ):  # fmt: skip
        np.testing.assert_allclose(np.array(ours, dtype=float), theirs, rtol=EXACT, atol=EXACT)
    assert one.non_positive == tuple(np.mean([deltas[i, i] <= 0 for i in range(len(norms))], axis=1))
    known = each[np.isfinite(each)]
    assert scores["all"].tasks.paper_mean == pytest.approx(known.mean(), abs=EXACT)
    counts, _ = np.histogram(known, bins=10, range=(0, 1))
    assert np.abs(np.array(scores["all"].tasks.paper) - counts).sum() <= 2  # a score on the edge of a bin
    assert scores["all"].tasks.silent == len(each) - len(known)


@pytest.fixture(scope="module")
def connector_gradients() -> Given:
    """Gradients of a tiny Uni-Med's connector in float64, of three tasks with six batches each."""
    model, _ = small(num_experts=3, router_hidden_size=8)
    model.double()
    parameters = dict(model.connector.named_parameters())
    layout = Layout.of(parameters, group_of)
    dice = torch.Generator().manual_seed(5)
    rows: dict[str, list[torch.Tensor]] = {}
    for task in (0, 1, 4):
        for _ in range(6):
            features = torch.randn(2, model.config.visual_tokens, model.config.connector_width, generator=dice).double()
            target = torch.randn(1, generator=dice).double()
            loss = ((model.project(features, [task, task]) - target * (task + 1)) ** 2).mean()
            own = [parameters[name] for name in layout.names]
            found: Sequence[torch.Tensor | None] = torch.autograd.grad(loss, own, allow_unused=True)
            pairs = zip(found, own, strict=True)
            flat = torch.cat([(torch.zeros_like(one) if of is None else of).flatten() for of, one in pairs])
            rows.setdefault(f"task{task}", []).append(flat)
    return Given(gradients={task: torch.stack(of) for task, of in rows.items()}, layout=layout)


def test_streaming_is_the_naive_computation(tmp_path: Path, connector_gradients: Given) -> None:
    assert list(connector_gradients.layout.groups) == ["experts", "router", "task tokens"]
    agree(connector_gradients, tmp_path / "model", 6)
    agree(given(noisy(4, 7, 50)), tmp_path / "noise", 7)


def test_groups_add_up_to_all(tmp_path: Path, connector_gradients: Given) -> None:
    measuring = measured(connector_gradients, tmp_path, 6)
    for task in connector_gradients.tasks:
        first, second = measuring.first(task), measuring.second(task)
        parts = list(connector_gradients.layout.groups)
        np.testing.assert_allclose(first.squares["all"], sum(np.array(first.squares[one]) for one in parts), rtol=EXACT)
        np.testing.assert_allclose(second.pulls["all"], sum(np.array(second.pulls[one]) for one in parts), atol=EXACT)
    scores = scored_groups(measuring)
    assert sum(scores[one].tasks.single for one in parts) == scores["all"].tasks.single > 0
    # Three tasks read a token each; the other two tokens nobody reads.
    width = connector_gradients.layout.groups["task tokens"]
    each = (width.stop - width.start) // 5
    assert (scores["task tokens"].tasks.single, scores["task tokens"].tasks.silent) == (3 * each, 2 * each)
    assert scores["task tokens"].tasks.mean is None
    assert scores["task tokens"].tasks.paper_mean == 1.0


def test_more_numbers_than_the_bound_are_kept_in_half_the_room(
    tmp_path: Path, connector_gradients: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = both(connector_gradients, tmp_path / "a", 6)
    monkeypatch.setattr(streaming, "BOUND", 0)
    rough, _ = both(connector_gradients, tmp_path / "b", 6)
    assert exact != rough
    np.testing.assert_allclose(
        np.array(rough["all"].direction.value, dtype=float), np.array(exact["all"].direction.value, dtype=float),
        atol=1e-4,
    )  # fmt: skip


def test_a_linear_layer_gives_the_closed_form_of_ghost_products(tmp_path: Path) -> None:
    """The product of two gradients is Σ (X_a X_bᵀ ∘ D_a D_bᵀ) of inputs X [M, in] and output gradients D [M, out]."""
    dice = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(5, 3, bias=False, dtype=torch.float64)
    inputs, outputs, rows = [], [], []
    for _ in range(8):
        tokens = torch.randn(4, 5, generator=dice, dtype=torch.float64)
        made = layer(tokens)
        loss = (made**2).sum() + made.sin().sum()
        at_output, weight = torch.autograd.grad(loss, [made, layer.weight])
        inputs.append(tokens)
        outputs.append(at_output)
        rows.append(weight.flatten())
    products = [[((inputs[a] @ inputs[b].T) * (outputs[a] @ outputs[b].T)).sum() for b in range(8)] for a in range(8)]
    gram = np.array([[float(product) for product in row] for row in products])
    found = measured(given({"one": torch.stack(rows[:4]), "two": torch.stack(rows[4:])}), tmp_path, 4)
    lengths = np.sqrt(np.diag(gram))
    for i, task in enumerate(("one", "two")):
        for j in range(2):
            own, other = slice(4 * i, 4 * i + 4), slice(4 * j, 4 * j + 4)
            ghost = (gram[other, own] / lengths[other, None]).mean(axis=0)
            np.testing.assert_allclose(found.second(task).pulls["all"][j], ghost, rtol=EXACT)


def test_torchjd_gives_the_same_gradients_products_and_purities() -> None:
    """Losses of one graph: its Jacobian is our gradients, |2P - 1| of GradDrop's purity is our score."""
    from torchjd.aggregation import GradDrop
    from torchjd.autojac import jac

    model, _ = small(num_experts=3, router_hidden_size=8)
    model.double()
    parameters = dict(model.connector.named_parameters())
    layout = Layout.of(parameters, group_of)
    dice = torch.Generator().manual_seed(2)
    features = torch.randn(1, model.config.visual_tokens, model.config.connector_width, generator=dice).double()
    losses = torch.stack([model.project(features, [task]).sin().mean() for task in (0, 1, 4)])
    ordered = [parameters[name] for name in layout.names if "task_tokens" not in name]
    found = [torch.autograd.grad(loss, ordered, retain_graph=True) for loss in losses]
    ours = torch.stack([torch.cat([one.flatten() for one in of]) for of in found])
    jacobian = torch.cat([one.flatten(1) for one in jac(losses, ordered, parallel_chunk_size=1)], dim=1)
    torch.testing.assert_close(jacobian, ours, rtol=1e-9, atol=1e-15)
    whole = Layout(names=("all of it",), groups={"experts": slice(0, ours.shape[1])})
    gramian = jacobian @ jacobian.T
    for a in range(3):
        for b in range(3):
            product = streaming._dots(whole, ours[a], ours[b])["all"]
            assert product == pytest.approx(float(gramian[a, b]), rel=1e-9)
    purities: list[torch.Tensor] = []

    def noted(purity: torch.Tensor) -> torch.Tensor:
        purities.append(purity)
        return purity

    GradDrop(f=noted)(jacobian)
    scores = maths.scores(ours.sum(dim=0).numpy(), ours.abs().sum(dim=0).numpy())
    np.testing.assert_allclose(scores, (2 * purities[0] - 1).abs().numpy(), atol=1e-9)


@pytest.mark.parametrize(("tasks", "mean"), [(2, 0.72), (6, 0.41), (10, 0.32), (12, 0.29)])
def test_independent_tasks_score_what_chance_gives(tasks: int, mean: float) -> None:
    drawn = np.random.default_rng(0).standard_normal((tasks, 50_000))
    bins = maths.binned(drawn.sum(axis=0), np.abs(drawn).sum(axis=0), np.full(50_000, tasks, dtype=np.uint8))
    assert bins.mean == pytest.approx(mean, abs=0.01)
    assert sum(bins.shared) == 50_000


def test_one_large_task_looks_like_agreement() -> None:
    drawn = np.random.default_rng(0).standard_normal((10, 50_000))
    drawn[0] *= 10
    assert maths.scores(drawn.sum(axis=0), np.abs(drawn).sum(axis=0)).mean() == pytest.approx(0.50, abs=0.01)


COPIES = 0.163
"""How large a parameter's gradient is beside the noise of one batch, where the published numbers come from."""


@pytest.mark.parametrize(("batches", "mean"), [(1, 0.33), (10, 0.50), (100, 0.77), (1000, 0.92)])
def test_copies_of_one_task_score_higher_with_more_batches(batches: int, mean: float) -> None:
    dice = np.random.default_rng(0)
    means = COPIES * dice.standard_normal(30_000) + dice.standard_normal((12, 30_000)) / batches**0.5
    assert maths.scores(means.sum(axis=0), np.abs(means).sum(axis=0)).mean() == pytest.approx(mean, abs=0.015)


def test_the_nulls_of_a_measurement_are_those_numbers(tmp_path: Path) -> None:
    dice = torch.Generator().manual_seed(0)
    common = COPIES * torch.randn(4000, generator=dice, dtype=torch.float64)

    def batch(count: int) -> torch.Tensor:
        return common + torch.randn(count, 4000, generator=dice, dtype=torch.float64)

    source = given({f"task{place}": batch(120 if not place else 10) for place in range(12)})
    found, scores = both(source, tmp_path, 10)
    one = scores["all"]
    assert one.copies.mean == pytest.approx(0.50, abs=0.02)
    assert one.tasks.mean == pytest.approx(0.50, abs=0.02)  # they are copies, too
    assert one.flipped.mean == pytest.approx(0.29, abs=0.02)
    halves = [scored.mean for scored in one.halves.values() if scored.mean is not None]
    assert 0.72 < min(halves) < max(halves) < 0.8
    # Here every task is the same: what a batch is pulled by its own task, it is pulled by the others.
    own = found["all"]
    assert np.mean(np.array(own.halves, dtype=float)) == pytest.approx(1, abs=0.2)
    assert np.median(np.array(own.flipped, dtype=float)) < 0.75
    assert np.mean(np.array(own.direction.value, dtype=float)) == pytest.approx(1, abs=0.1)


def pairs_by_chance(own: float) -> tuple[float, float]:
    """Return what share of pairs lies beyond random signs, and is told, where each task has a direction of its own."""
    tasks, batches, size, trials = 10, 100, 800, 20
    beyond = told = 0
    for seed in range(trials):
        noise = np.random.default_rng(seed).normal(size=(tasks, batches, size))
        rows = noise + own * np.eye(tasks, size)[:, None, :]
        norms = np.linalg.norm(rows, axis=2)
        units = (rows / norms[..., None]).mean(axis=1)
        deltas = maths.without_own_pairs(np.einsum("jp,ibp->jib", units, rows), norms**2, norms)
        found, others = maths.strict(deltas, norms, norms, seed=seed, draws=300).direction, ~np.eye(tasks, dtype=bool)
        beyond += int((np.abs(found.value) > maths.flipped_band(deltas, seed=seed, draws=300))[others].sum())
        told += int(((found.low > 0) | (found.high < 0))[others].sum())
    return beyond / (trials * tasks * (tasks - 1)), told / (trials * tasks * (tasks - 1))


def test_pairs_with_nothing_between_them_lie_beyond_random_signs_more_often_than_they_are_told() -> None:
    """What docs/interpret.md says of both: no direction at all, and tasks whose directions are at right angles."""
    beyond, told = pairs_by_chance(0.0)
    assert beyond == pytest.approx(0.055, abs=0.015)
    assert told == pytest.approx(0, abs=0.002)
    beyond, told = pairs_by_chance(8.0)
    assert beyond == pytest.approx(0.14, abs=0.02)
    assert told == pytest.approx(0.04, abs=0.015)


def test_intervals_are_those_of_a_bootstrap_of_whole_gradients() -> None:
    gradients = [rows.numpy() for rows in noisy(2, 40, 30, signal=0.5, seed=4).values()]
    deltas, norms, _ = naive({str(place): torch.from_numpy(rows) for place, rows in enumerate(gradients)})
    ours = maths.strict(deltas, norms, norms, seed=1).direction
    dice = np.random.default_rng(2)
    gram = np.array([[rows @ other.T for other in gradients] for rows in gradients])
    drawn = []
    for _ in range(1500):
        at = dice.integers(0, 40, size=(2, 40))
        cross = (gram[1, 0][np.ix_(at[1], at[0])] / norms[1][at[1], None]).mean()
        own = gram[0, 0][np.ix_(at[0], at[0])] / norms[0][at[0], None]
        # A batch that was drawn twice is no pair with itself.
        drawn.append(cross / own[at[0][:, None] != at[0]].mean())
    low, high = np.quantile(drawn, [0.025, 0.975])
    width = high - low
    assert ours.low[0, 1] == pytest.approx(low, abs=0.15 * width)
    assert ours.high[0, 1] == pytest.approx(high, abs=0.15 * width)


@pytest.mark.parametrize("stop", range(24))
def test_a_killed_measurement_goes_on_to_the_same_bytes(
    tmp_path: Path, stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.fsync", lambda _: None)  # which a kill does not need, and a power cut cannot be had here
    gradients = noisy(2, 4, 10)
    whole = measured(given(gradients), tmp_path / "whole", 4)
    source = Given(gradients=gradients, layout=given(gradients).layout, stop=stop)
    with pytest.raises(KeyboardInterrupt):
        measured(source, tmp_path / "killed", 4)
    again = given(gradients)
    left = Measuring(folder=tmp_path / "killed", source=again, batches=4, copied="task0", seed=3)
    done = left.done()
    assert done == stop - stop % 4
    left.run(Silent())
    assert len(again.seen) == 24 - done
    names = sorted(file.name for file in whole.folder.iterdir())
    assert names == sorted(file.name for file in left.folder.iterdir())
    assert not [name for name in names if name.endswith(".npy")]
    for name in names:
        assert (whole.folder / name).read_bytes() == (left.folder / name).read_bytes()


def broken(source: Given, folder: Path, spoil: Callable[[Path], object]) -> None:
    with pytest.raises(KeyboardInterrupt):
        measured(source, folder, 4)
    spoil(next(folder.glob("unit-*.npy")))


@pytest.mark.parametrize("spoil", [lambda file: file.write_bytes(b"x"), lambda file: np.save(file, np.zeros(3))])
def test_numbers_that_were_spoiled_meanwhile_are_named(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    gradients = noisy(2, 4, 10)
    broken(Given(gradients=gradients, layout=given(gradients).layout, stop=9), tmp_path, spoil)
    with pytest.raises(DataError, match=r"unit-task\d\.npy"):
        measured(given(gradients), tmp_path, 4)


def test_a_gradient_that_is_no_number_ends_in_a_sentence(tmp_path: Path) -> None:
    gradients = noisy(2, 4, 10)
    gradients["task1"][2, 3] = float("nan")
    with pytest.raises(RunError, match="task1"):
        measured(given(gradients), tmp_path, 4)


def test_a_single_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="1 batch"):
        maths.without_own_pairs(np.ones((1, 1, 1)), np.ones((1, 1)), np.ones((1, 1)))
