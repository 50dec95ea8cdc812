"""How samples are dealt to shards."""

import hashlib
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.harness.settings import Settings
from medbench.harness.shards import Shard, deal, dealt_to, read_shard
from medbench.harness.workload import TaskLoad, load_workload
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.suite import prepare_mini_suite

TASKS = ("medqa", "slake-vqa", "slake-rec", "mimic-cxr")


@pytest.fixture(scope="module", autouse=True)
def _prepared(request: pytest.FixtureRequest) -> None:
    data = prepare_mini_suite()
    request.module.PREPARED = load_prepared(data, "slake-vqa")


def load_of(task: str, images: list[int | None]) -> TaskLoad:
    """Return a task whose samples ask about these images, None for a question without one."""
    samples = tuple(
        Sample(
            sample_id=f"q{number}", task=task, split="test", reference="yes",
            images=() if image is None else (ImageRef(path=f"{image}.png"),),
        )
        for number, image in enumerate(images)
    )  # fmt: skip
    return TaskLoad(spec=get_task(task), prepared=globals()["PREPARED"], samples=samples)


workloads = st.lists(st.lists(st.one_of(st.none(), st.integers(0, 9)), max_size=30), min_size=1, max_size=4).map(
    lambda tasks: [load_of(*one) for one in zip(TASKS, tasks, strict=False)]
)


@given(workloads, st.integers(1, 9))
def test_shards_are_a_partition_that_keeps_images_together_and_is_even(loads: list[TaskLoad], count: int) -> None:
    dealt = deal(loads, count)
    names = [(load.spec.name, sample.sample_id) for load in loads for sample in load.samples]
    assert sorted(dealt) == sorted(names)
    assert set(dealt.values()) <= set(range(1, count + 1))
    owners: dict[object, set[int]] = {}
    sizes: Counter[object] = Counter()
    for load in loads:
        for sample in load.samples:
            name = (load.spec.name, sample.sample_id)
            owners.setdefault(sample.images or name, set()).add(dealt[name])
            sizes[sample.images or name] += 1
    assert all(len(own) == 1 for own in owners.values())
    loaded = Counter(dealt.values())
    per_shard = [loaded[number] for number in range(1, count + 1)]
    assert max(per_shard) - min(per_shard) <= max(sizes.values(), default=0)


@given(workloads, st.integers(1, 9), st.randoms())
def test_the_parts_put_together_are_the_whole_in_any_order(
    loads: list[TaskLoad], count: int, chance: random.Random
) -> None:
    parts = [dealt_to(Shard(number=number, of=count), loads) for number in range(1, count + 1)]
    for place, load in enumerate(loads):
        of_task = [part[place] for part in parts]
        assert all(part.spec is load.spec for part in of_task)
        assert sorted(one.sample_id for part in of_task for one in part.samples) == sorted(
            sample.sample_id for sample in load.samples
        )
        order = [sample.sample_id for sample in load.samples]
        for part in of_task:
            own = [sample.sample_id for sample in part.samples]
            assert own == sorted(own, key=order.index)
    shuffled = list(loads)
    chance.shuffle(shuffled)
    assert deal(shuffled, count) == deal(loads, count)


def test_where_the_images_lie_changes_nothing(tmp_path: Path) -> None:
    loads = load_workload(Settings(model="blind")).loads
    elsewhere = [
        replace(load, prepared=replace(load.prepared, folder=tmp_path / load.spec.name)) for load in reversed(loads)
    ]
    assert deal(elsewhere, 8) == deal(loads, 8)


def test_the_mini_suite_is_dealt_evenly_in_total_and_by_kind() -> None:
    loads = load_workload(Settings(model="blind")).loads
    dealt = deal(loads, 4)
    total = Counter(dealt.values())
    assert max(total.values()) - min(total.values()) <= 1
    kinds = {load.spec.name: load.spec.kind for load in loads}
    for kind in ("report", "cls", "qa"):
        each = Counter(number for (task, _), number in dealt.items() if kinds[task] == kind)
        assert len(each) == 4
        assert max(each.values()) - min(each.values()) <= 3, (kind, each)


def test_the_dealing_stays_as_it_is() -> None:
    """Another dealing under the same names of folders would find records of samples that are not its own."""
    loads = [load_of("slake-vqa", [0, 0, 1, 2, 1]), load_of("slake-rec", [1, 3]), load_of("medqa", [None] * 4)]
    dealt = deal(loads, 3)
    assert [dealt["slake-vqa", f"q{number}"] for number in range(5)] == [3, 3, 1, 2, 1]
    assert [dealt["slake-rec", f"q{number}"] for number in range(2)] == [1, 2]
    text = str(sorted(deal(load_workload(Settings(model="blind")).loads, 8).items()))
    assert hashlib.sha256(text.encode()).hexdigest()[:12] == "d7b58e21b760"


@pytest.mark.parametrize(("text", "shard"), [("1/1", (1, 1)), ("2/8", (2, 8)), (" 08/8 ", (8, 8))])
def test_a_shard_is_read(text: str, shard: tuple[int, int]) -> None:
    found = read_shard(text)
    assert (found.number, found.of) == shard
    assert (str(found), found.name) == ("{}/{}".format(*shard), "{}-of-{}".format(*shard))


@pytest.mark.parametrize("text", ["", "/", "x", "3", "1/x", "-1/8", "1.5/8", "1/8/2", "²/8", "1/999999", "1 of 8"])
def test_what_is_no_shard_is_told_with_one(text: str) -> None:
    with pytest.raises(UsageError, match="is no shard") as told:
        read_shard(text)
    assert "--shard 2/8" in told.value.hint
    assert "$SLURM_ARRAY_TASK_ID/8" in told.value.hint


@pytest.mark.parametrize(("text", "array"), [("0/8", "1-8"), ("9/8", "1-8"), ("0/4", "1-4"), ("1/0", "1-8")])
def test_an_array_that_counts_from_zero_is_told_how_to_count(text: str, array: str) -> None:
    with pytest.raises(UsageError, match=f"There is no shard {text}") as told:
        read_shard(text)
    assert f"--array={array}," in told.value.hint
