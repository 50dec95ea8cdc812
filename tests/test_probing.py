"""What probes are asked, what they tell, and how that is scored, on cases whose answers are known."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight

from medbench.harness.probing import fitting
from medbench.harness.probing.curves import Answers, Options, found_of
from medbench.harness.probing.health import health_of, published_probe
from medbench.harness.probing.modes import Side, compared
from medbench.harness.probing.places import Place
from medbench.harness.probing.probes import STRENGTHS, Probe, Scale, narrowed, overlap, right_statistics, scale_of
from medbench.harness.probing.states import States
from medbench.harness.probing.targets import Asked, Parts, Target, target_of
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.tasks.sample import Box, ImageRef, Sample


def sample(number: int, split: Any = "train", **more: Any) -> Sample:  # noqa: ANN401
    """Return one of a task whose pictures are numbered."""
    base: dict[str, Any] = {
        "sample_id": f"s{number}", "task": "dermamnist", "split": split, "images": (ImageRef(path=f"{number}.png"),),
        "reference": "a" if number % 2 else "b", "choices": {"a": "a", "b": "b"}, "groups": {"image": f"g{number}"},
    }  # fmt: skip
    return Sample(**{**base, **more})


@pytest.fixture
def dermamnist(small_data: Path) -> Prepared:
    return load_prepared(small_data, "dermamnist")


def asked_of(samples: list[Sample], prepared: Prepared, name: str = "dermamnist", digests: Any = None) -> Target:  # noqa: ANN401
    named = digests or [f"d{one.images[0].path}" for one in samples]
    return target_of(Asked.of(name), prepared, samples, named, 0)


MANY = [*(sample(place) for place in range(60)), *(sample(place, "test") for place in range(100, 130))]


def test_no_cluster_lies_in_two_parts(dermamnist: Prepared) -> None:
    groups = [replace(one, groups={"image": f"g{place // 3}"}) for place, one in enumerate(MANY)]
    target = asked_of(groups, dermamnist)
    parts = [set(target.clusters[part]) for part in (target.parts.train, target.parts.validation, target.parts.test)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert [len(part) for part in (target.parts.train, target.parts.validation)] == [48, 12]
    assert target.classes == ("a", "b")
    assert all(target.right[place] == (MANY[place].reference == "b") for place in target.parts.test)


def test_a_patient_or_a_picture_of_both_splits_is_not_learned(dermamnist: Prepared) -> None:
    samples = list(MANY)
    samples[0] = replace(samples[0], groups={"image": "g100"})
    digests = [f"d{place}" for place in range(len(samples))]
    digests[1] = digests[70]
    # What hangs together by others hangs together: 2 is of the group of 1, whose picture is in the test split.
    samples[2] = replace(samples[2], groups=samples[1].groups)
    target = asked_of(samples, dermamnist, digests=digests)
    learned = {*target.parts.train, *target.parts.validation}
    assert not learned & {0, 1, 2}
    assert target.left_out == {"in both splits, left out of train": 3}


def test_what_is_left_out_is_counted(dermamnist: Prepared) -> None:
    samples = [*MANY, *(sample(200 + one, reference="rare") for one in range(3))]
    digests = [f"d{place}" for place in range(len(samples))]
    digests[5] = ""
    target = asked_of(samples, dermamnist, digests=digests)
    assert target.left_out == {"could not be read": 1, "class too rare": 3}
    assert target.classes == ("a", "b")


def test_a_label_is_told_once_of_each_picture(small_data: Path) -> None:
    prepared = load_prepared(small_data, "slake-vqa")
    labelled = [replace(one, labels={"organ": one.reference}, choices={}) for one in MANY]
    digests = [f"d{place // 2}" for place in range(len(MANY))]
    for place in range(0, len(MANY), 2):
        labelled[place + 1] = replace(labelled[place + 1], labels=labelled[place].labels)
    turned = [replace(one, labels={"organ": "ab"[(place // 2) % 2]}) for place, one in enumerate(labelled)]
    target = asked_of(turned, prepared, "slake-vqa:organ", digests)
    assert sum(map(len, (target.parts.train, target.parts.validation, target.parts.test))) == 45
    assert target.left_out == {"another question of the same picture": 45}
    assert not target.needs_question
    with pytest.raises(UsageError, match=r"no.*label 'age'|No sample.*'age'") as raised:
        asked_of(turned, prepared, "slake-vqa:age", digests)
    assert "organ" in raised.value.hint


def test_closed_questions_need_the_question(small_data: Path) -> None:
    prepared = load_prepared(small_data, "slake-vqa")
    closed = [
        replace(one, choices={}, reference="Yes." if place % 2 else "no", labels={"answer_type": "CLOSED"})
        for place, one in enumerate(MANY)
    ]
    closed[3] = replace(closed[3], labels={"answer_type": "OPEN"})
    target = asked_of(closed, prepared, "slake-vqa")
    assert target.needs_question
    assert target.classes == ("no", "yes")
    assert target.left_out == {"nothing to tell of it": 1}


def test_what_has_no_closed_answer_is_refused(small_data: Path, dermamnist: Prepared) -> None:
    with pytest.raises(UsageError, match="no closed answers"):
        asked_of(list(MANY), load_prepared(small_data, "mimic-cxr"), "mimic-cxr")
    with pytest.raises(UsageError, match="too little to probe: 0 train"):
        asked_of([one for one in MANY if one.split == "test"], dermamnist)


def made(seed: int = 0, *, told: float = 1.0, count: int = 240, classes: int = 3, width: int = 8) -> Any:  # noqa: ANN401
    """Return a target and states that tell its classes, more or less."""
    generator = np.random.default_rng(seed)
    right = generator.integers(0, classes, count).astype(np.float64)
    centres = generator.standard_normal((classes, width)) * told
    states = centres[right.astype(int)] + generator.standard_normal((count, width))
    every = np.arange(count)
    parts = Parts(
        train=every[: count // 2], validation=every[count // 2 : 2 * count // 3], test=every[2 * count // 3 :]
    )
    target = Target(
        asked=Asked(task="made"), kind="class", right=right, classes=tuple("abcdefg"[:classes]),
        clusters=np.asarray([str(place // 2) for place in every]), parts=parts, needs_question=False, left_out={},
    )  # fmt: skip
    return target, states


def told_by(target: Target, states: Any) -> float:  # noqa: ANN401
    scale = scale_of(target)
    return scale.score(Probe.chosen(states, target, scale).tested())


def test_a_probe_tells_what_is_there_and_nothing_else() -> None:
    target, states = made(told=2.0)
    assert told_by(target, states) > 0.9
    assert abs(told_by(target, np.random.default_rng(1).standard_normal(states.shape))) < 0.2
    scale = scale_of(target)
    probe = Probe.chosen(states, target, scale)
    known = np.concatenate([target.parts.train, target.parts.validation])
    shuffled = np.random.default_rng(0).permutation(target.right[known])
    assert abs(scale.score(probe.tested(right=shuffled))) < 0.25


def test_the_scale_of_the_states_does_not_count() -> None:
    target, states = made(told=0.7)
    widths = np.logspace(-3, 3, states.shape[1])
    assert told_by(target, states) == pytest.approx(told_by(target, states * widths + 7), abs=1e-6)


def test_the_larger_class_earns_nothing() -> None:
    target, _ = made()
    right = (np.arange(240) % 10 == 0).astype(np.float64)
    target = replace(target, right=right, classes=("a", "b"))
    scale = scale_of(target)
    test = target.parts.test
    assert scale.score(scale.statistics(np.zeros(len(test)), test)) == pytest.approx(0.0)
    assert scale.score(scale.statistics(right[test], test)) == pytest.approx(1.0)
    assert scale.score(scale.statistics(1 - right[test], test)) == pytest.approx(-1.0)


def test_the_probe_of_a_gpu_is_that_of_the_library() -> None:
    for seed, strength in ((0, 1e-3), (1, 1.0)):
        target, states = made(seed, told=0.6)
        given = (states[target.parts.train], target.right[target.parts.train], states[target.parts.test], strength)
        (names, ours), (same, theirs) = fitting._by_torch(*given, "cpu"), fitting._by_library(*given)
        assert (names == same).all()
        assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.98
        np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_the_strength_is_that_which_holds_the_right_classes_likeliest() -> None:
    chosen = set[float]()
    for seed, told in ((0, 0.3), (1, 0.6), (2, 2.0)):
        target, states = made(seed, told=told)
        train, validation = target.parts.train, target.parts.validation
        states = (states - states[train].mean(axis=0)) / states[train].std(axis=0)
        right, losses = target.right[validation], []
        for strength in STRENGTHS:
            model = LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
            shares = model.fit(states[train], target.right[train]).predict_proba(states[validation])
            losses.append(log_loss(right, shares, sample_weight=compute_sample_weight("balanced", right)))
        best = STRENGTHS[int(np.argmin(losses))]
        assert Probe.chosen(states, target, scale_of(target)).strength == best
        chosen.add(best)
    assert len(chosen) > 1


def test_a_class_that_was_not_there_to_learn_has_no_chance() -> None:
    states, right = np.random.default_rng(0).standard_normal((60, 4)), np.repeat([0.0, 2.0], 30)
    found = fitting.log_chances(states, right, states, classes=4, strength=1.0, device="cpu")
    assert np.isneginf(found[:, [1, 3]]).all()
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0)


def test_boxes_are_told_between_the_mean_box_and_all_right() -> None:
    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 0.5, (240, 2))
    right = np.concatenate([corner, corner + generator.uniform(0.2, 0.4, (240, 2))], axis=1)
    target, _ = made()
    target = replace(target, kind="box", right=right, classes=())
    states = np.concatenate(
        [right + generator.normal(0, 0.01, right.shape), generator.standard_normal((240, 4))], axis=1
    )
    assert told_by(target, states) > 0.8
    assert abs(told_by(target, generator.standard_normal((240, 6)))) < 0.1
    scale = scale_of(target)
    known = np.concatenate([target.parts.train, target.parts.validation])
    middle = np.repeat(right[known].mean(axis=0, keepdims=True), len(target.parts.test), 0)
    assert scale.score(scale.statistics(middle, target.parts.test)) == pytest.approx(0.0)


def test_a_probe_of_boxes_is_told_whose_they_are() -> None:
    generator = np.random.default_rng(0)
    target, _ = made()
    kinds = generator.integers(0, 3, 240)
    moved = generator.normal(0, 0.05, (240, 2))
    corner = np.asarray([[0.1, 0.1], [0.5, 0.2], [0.3, 0.6]])[kinds] + moved
    right = np.concatenate([corner, corner + 0.25], axis=1)
    target = replace(target, kind="box", right=right, classes=(), given=np.eye(3)[kinds])
    scale = scale_of(target)
    assert 0.5 < scale.chance < 0.9  # Where each of the three usually is.
    assert told_by(target, moved + generator.normal(0, 0.005, moved.shape)) > 0.6
    assert abs(told_by(target, generator.standard_normal((240, 6)))) < 0.1


def test_overlap_is_that_of_boxes() -> None:
    first = np.asarray([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0.5, 1], [0.5, 0.5, 0.4, 0.4]])
    second = np.asarray([[0, 0, 1, 1], [0.5, 0, 1, 1], [0.5, 0, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_allclose(overlap(first, second), [1, 0.5, 0, 0])
    assert Box(0, 0, 10, 20).scaled(0.1, 0.05) == (0, 0, 1, 1)


def test_an_equal_width_is_the_same_for_all_places() -> None:
    target, states = made(told=2.0, width=40)
    assert narrowed(states, 16).shape == (240, 16)
    assert narrowed(states, 64) is states
    # A sample that could not be read changes no other's.
    broken = np.concatenate([states * 1000, np.full((1, 40), np.nan)])
    np.testing.assert_allclose(narrowed(broken, 16)[:-1], narrowed(states * 1000, 16))
    assert told_by(target, narrowed(states, 16)) > 0.8


@pytest.mark.parametrize(
    ("curve", "score"), [((0.3, 0.5, 0.7, 0.9), 1.65), ((0.9, 0.5, 0.9), 0.975), ((0.9, 0.9, 0.9), 0.900)]
)
def test_the_published_score_is_as_transcribed(curve: tuple[float, ...], score: float) -> None:
    right = np.asarray([np.arange(1000) < 1000 * one for one in curve], dtype=np.float64)
    found = health_of("vision", right, 0)
    assert found.score == pytest.approx(score, abs=5e-3)
    assert 0 < found.floor <= 1


def test_a_flat_curve_is_punished_for_few_samples() -> None:
    generator = np.random.default_rng(0)
    flat = (generator.random((32, 156)) < 0.8).astype(np.float64)
    # 32 places, independent errors: facts of the transcription say 0.756.
    assert health_of("language", flat, 0).floor == pytest.approx(0.756, abs=0.04)


def test_the_published_probe_learns() -> None:
    target, states = made(told=4.0, count=150, classes=2)
    found = published_probe(states, target, 0)
    assert found.mean() > 0.8
    np.testing.assert_array_equal(published_probe(states, target, 0), found)


def states_of(*values: Any) -> States:
    named: Any = (("vision 1", "image"), ("connector output", "image"), ("language 1", "image"), ("language 1", "last"))
    places = tuple(
        Place(name=name, module=name.split()[0], readout=readout, width=one.shape[1])
        for (name, readout), one in zip(named, values, strict=True)
    )
    return States(places=places, digests=(), values=np.concatenate(values, axis=1).astype(np.float32))


def test_failed_answers_are_left_out_and_counted() -> None:
    target, states = made(told=1.0)
    there = np.arange(5, len(target.parts.test))
    answers = Answers(scores=np.ones(len(there)), there=there, failed=5)
    found = found_of(target, "Made", states_of(states, states, states, states), None, (), answers, Options(refits=2))
    assert found.answers is not None
    assert found.answers.score.value == pytest.approx(1.0)
    assert found.answers.failed == 5
    by_name = {one.name: one for one in found.modes}
    assert by_name["vision"].verdict == "cannot be tested"
    assert "reference" in by_name["vision"].why
    answer = by_name["answer"]
    assert answer.difference is not None
    assert answer.difference.value < 0  # The answers know more than the last token: told with its sign.
    assert [one.verdict for one in found.modes[1:4]] == ["not shown"] * 3


def test_where_the_question_is_needed_only_the_last_token_is_asked() -> None:
    target, states = made(told=1.0)
    asked = replace(target, needs_question=True)
    found = found_of(asked, "Made", states_of(states, states, states, states), None, (), None, Options(refits=2))
    assert [one.readout for one in found.places] == ["last"]
    assert [one.verdict for one in found.modes] == ["cannot be tested"] * 3 + ["not shown", "cannot be tested"]


def test_two_sides_are_compared_where_both_have_an_answer() -> None:
    target, _ = made()
    scale: Scale = scale_of(target)
    count = len(target.parts.test)
    places = target.parts.test
    right, wrong = (right_statistics(scale, target, np.full(count, one), places) for one in (1.0, 0.0))
    some = np.arange(0, count, 2)
    first, second = Side(name="a", statistics=right), Side(name="b", statistics=wrong[some], there=some)
    found = compared(first, second, scale, target, margin=0.02, two_sided=False)
    assert found is not None
    assert found.value == pytest.approx(1.5)  # From all right to none right, chance at a third.
    assert found.p < 0.001
    assert compared(second, first, scale, target, margin=0.02, two_sided=False).p == pytest.approx(1.0)  # type: ignore[union-attr]
    same = compared(first, first, scale, target, margin=0.02, two_sided=True)
    assert same is not None
    assert same.p == 1.0
