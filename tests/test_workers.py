"""Several workers, one writer: which samples go where, who is replaced, and what is given up."""

import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from listening import Heard

from medbench.adapters.catalog import choose_model
from medbench.harness.engine.faults import DeviceError
from medbench.harness.engine.requests import Outcome
from medbench.harness.generate import Plan, make_plan
from medbench.harness.models import Share, shares_of
from medbench.harness.phases import Phases
from medbench.harness.rundir import RunDirectory
from medbench.harness.settings import Settings
from medbench.harness.workers import hiring, inside, pool
from medbench.harness.workers.pool import Crew, Pool, differences
from medbench.harness.workers.processes import Processes
from medbench.harness.workers.units import LARGEST, SMALLEST, Units, groups_of
from medbench.harness.workers.wanted import Wanted, wanted
from medbench.harness.workload import Workload, load_workload
from medbench.tasks.foundation.console import heard_by
from medbench.tasks.foundation.errors import MedbenchError, RunError, UsageError
from medbench.tasks.suite import prepare_mini_suite

Name = tuple[str, str]
TASKS = ("slake-vqa", "slake-rec", "slake-reg", "pubmedqa", "dermamnist")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("8", Wanted(count=8)),
        ("ray", Wanted(count=None, ray=True)),
        ("4@ray", Wanted(count=4, ray=True)),
        ("ray://auto", Wanted(count=None, ray=True, address="auto")),
        ("16@ray://head:6379", Wanted(count=16, ray=True, address="head:6379")),
        ("ray://[::1]:6379", Wanted(count=None, ray=True, address="[::1]:6379")),
    ],
)
def test_a_word_says_how_many_workers_and_where(word: str, meant: Wanted) -> None:
    assert wanted(word) == meant


@pytest.mark.parametrize("word", ["", "0", "-1", "two", "ray:4", "ray://", "4@", "@ray", "8@local", "ray://a b", "1.5"])
def test_a_word_that_says_nothing_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match="neither how many workers nor where"):
        Settings(model="mock", workers=word)


def test_a_number_may_be_one() -> None:
    given: dict[str, Any] = {"model": "mock", "workers": 2}
    assert Settings(**given).workers == "2"


def plan_of(workload: Workload) -> Plan:
    return make_plan(workload.loads, {load.spec.name: {} for load in workload.loads})


@pytest.fixture(scope="module")
def mini() -> Workload:
    return load_workload(Settings(model="mock"))


def test_questions_of_one_image_stay_together_across_tasks(mini: Workload) -> None:
    plan = plan_of(mini)
    groups = groups_of(plan)
    names = [name for group in groups for name in group]
    assert Counter(names) == Counter((task, one.sample_id) for task, some in plan.missing.items() for one in some)
    where = {name: number for number, group in enumerate(groups) for name in group}
    homes: dict[object, set[int]] = {}
    for load in mini.loads:
        for sample in load.samples:
            for image in sample.images:
                homes.setdefault((load.prepared.source, image), set()).add(where[load.spec.name, sample.sample_id])
    assert all(len(home) == 1 for home in homes.values())
    assert any(len({task for task, _ in group}) > 1 for group in groups)
    units = Units(groups, 4)
    while unit := units.take(0):
        whole = {name for number in {where[name] for name in unit} for name in groups[number]}
        assert set(unit) == whole
        units.answered(0, unit)
        units.finished(0)
    assert units.done


def test_units_become_smaller() -> None:
    units = Units([(("t", str(number)),) for number in range(10_000)], 4)
    sizes = []
    while unit := units.take(0):
        sizes.append(len(unit))
        units.answered(0, unit)
        units.finished(0)
    assert sizes[0] == LARGEST
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert sizes[-2] == SMALLEST


def test_an_image_of_very_many_questions_is_divided(mini: Workload) -> None:
    load = next(load for load in mini.loads if load.spec.name == "slake-vqa")
    asked = [replace(load.samples[0], sample_id=str(number)) for number in range(LARGEST + 1)]
    groups = groups_of(Plan(loads=(load,), missing={load.spec.name: asked}, recorded=0))
    assert [len(group) for group in groups] == [LARGEST, 1]


@given(st.integers(1, 6), st.lists(st.integers(1, 40), max_size=30), st.integers(0, 10**6))
def test_whatever_dies_every_sample_leaves_once(workers: int, sizes: list[int], seed: int) -> None:
    chance = random.Random(seed)
    groups = [tuple((f"g{place}", str(number)) for number in range(size)) for place, size in enumerate(sizes)]
    poison = {name for group in groups for name in group if chance.random() < 0.02}
    units, flying, left = Units(groups, workers), dict[int, list[Name]](), Counter[Name]()
    for turn in range(100_000):
        if units.done:
            break
        number = chance.randrange(workers)
        if number not in flying:
            if unit := units.take(number):
                flying[number] = list(unit)
        elif not flying[number]:
            assert units.finished(number) == ()
            del flying[number]
        elif flying[number][0] in poison or (turn < 500 and chance.random() < 0.1):
            lost = units.lost(number)
            assert lost.samples == len(flying.pop(number))
            left.update(lost.given_up)
        else:
            some = [name for name in flying[number][: chance.randint(1, 5)] if name not in poison]
            flying[number] = [name for name in flying[number] if name not in some]
            assert units.answered(number, [*some, ("of", "nobody")]) == set(some)
            left.update(some)
    assert units.done
    assert left == Counter(name for group in groups for name in group)


class Stage(Crew):
    """Workers without processes: each is asked at once, and what it says is heard in turn, until it is to die."""

    what = "actors"

    def __init__(self, count: int, dies: Callable[[int, inside.Message], str], starts: int = 10**6) -> None:
        self.count, self.sharers = count, 2
        self.started = 0
        self._dies, self._starts = dies, starts
        self._saying: dict[int, Iterator[inside.Message]] = {}
        self._workers: dict[int, inside.Inside] = {}

    def start(self, number: int, job: inside.Job) -> None:
        assert number not in self._workers
        self.started += 1
        self._workers[number] = inside.Inside(job)
        self._saying[number] = self._workers[number].load()

    def give(self, number: int, work: inside.Work) -> None:
        self._saying[number] = self._workers[number].do(work)

    def hear(self, seconds: float) -> list[tuple[int, inside.Message]]:
        del seconds
        return [heard for number in sorted(self._saying) for heard in self._next(number)]

    def _next(self, number: int) -> Iterator[tuple[int, inside.Message]]:
        message = next(self._saying[number], None)
        if message is None:
            del self._saying[number]
        elif self.started > self._starts or (reason := self._dies(number, message)):
            self.end(number)
            yield number, inside.Died(reason="it had to")
        else:
            assert not reason
            yield number, message

    def end(self, number: int) -> None:
        del self._workers[number]
        self._saying.pop(number, None)

    def dismiss(self) -> None:
        self._workers.clear()
        self._saying.clear()


def staged(stage: Stage, data: Path, folder: Path, model: str = "mock:oracle") -> tuple[list[Outcome], Phases, Heard]:
    """Return the outcomes of a run whose workers are on a stage."""
    chosen = Settings(model=model, data_dir=data, tasks=TASKS)
    workload, phases, heard = load_workload(chosen), Phases(), Heard()
    [share] = shares_of(chosen, workload)
    directory = RunDirectory(path=folder, identity="0" * 12)
    with heard_by(heard), Pool(stage, chosen, workload, choose_model(model, {}), phases) as answering:
        assert answering.told(share).facts.info.name == "mock"
        outcomes = [one for some in answering.outcomes(share, plan_of(workload), directory) for one in some]
        assert answering.facts(share).kinds
    return outcomes, phases, heard


def names_of(data: Path) -> Counter[Name]:
    loads = load_workload(Settings(model="mock", data_dir=data, tasks=TASKS)).loads
    return Counter((load.spec.name, one.sample_id) for load in loads for one in load.samples)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6))
def test_whatever_dies_every_sample_gets_one_outcome(
    small_data: Path, tmp_path_factory: pytest.TempPathFactory, workers: int, seed: int
) -> None:
    chance, deaths = random.Random(seed), Counter[str]()

    loaded = set[int]()  # Whoever dies before is counted apart.

    def dies(number: int, message: inside.Message) -> str:
        if isinstance(message, inside.Ready):
            loaded.add(number)
        happens = number in loaded and not isinstance(message, inside.Ready) and deaths["all"] < 6
        happens = happens and chance.random() < 0.3
        deaths["all"] += happens
        loaded.difference_update({number} if happens else ())
        return "chance" if happens else ""

    outcomes, phases, _ = staged(Stage(workers, dies), small_data, tmp_path_factory.mktemp("run"))
    assert Counter((one.task, one.sample_id) for one in outcomes) == names_of(small_data)
    noted = phases.notes["workers"]
    assert (noted["count"], noted["deaths"]) == (workers, deaths["all"])
    if deaths["all"] < 3:
        assert all(one.generation for one in outcomes)


def test_a_sample_that_kills_its_workers_is_its_own_error(small_data: Path, tmp_path: Path) -> None:
    poison = sorted(names_of(small_data))[3]

    class Poisoned(Stage):
        def give(self, number: int, work: inside.Work) -> None:
            super().give(number, work)
            if isinstance(work, inside.Unit) and poison in work.names:
                self._saying[number] = iter([inside.Talk(text="what kills", loud=False)])

    stage = Poisoned(2, lambda _, message: "poison" if getattr(message, "text", "") == "what kills" else "")
    outcomes, phases, heard = staged(stage, small_data, tmp_path)
    errors = {(one.task, one.sample_id): one.error for one in outcomes if one.error}
    assert set(errors) == {poison}
    assert "died three times" in errors[poison]
    assert Counter((one.task, one.sample_id) for one in outcomes) == names_of(small_data)
    assert phases.notes["workers"]["deaths"] == 3
    assert stage.started == 5
    assert sum("died (it had to)" in line for line in heard.lines) == 3


def test_workers_that_die_while_they_load_are_not_started_for_ever(small_data: Path, tmp_path: Path) -> None:
    stage = Stage(3, lambda _, message: "at once" if isinstance(message, inside.Ready) else "")
    with pytest.raises(RunError, match="died while they loaded the model; the last: it had to"):
        staged(stage, small_data, tmp_path)
    assert stage.started == 5


def test_a_worker_that_cannot_come_back_leaves_the_rest_to_others(small_data: Path, tmp_path: Path) -> None:
    """One dies when it first answers, and no other can be started any more."""

    class Last(Stage):
        def start(self, number: int, job: inside.Job) -> None:
            super().start(number, job)
            if self.started > 2:
                self._saying[number] = iter([inside.Talk(text="what kills", loud=False)])

    gone: list[int] = []

    def dies(number: int, message: inside.Message) -> str:
        if number == 0 and not gone and isinstance(message, inside.Answered):
            gone.append(number)
            return "once"
        return "always" if getattr(message, "text", "") == "what kills" else ""

    outcomes, _, _ = staged(stage := Last(2, dies), small_data, tmp_path)
    assert Counter((one.task, one.sample_id) for one in outcomes) == names_of(small_data)
    assert stage.started <= 5


def test_nobody_answers_and_all_die(tmp_path: Path) -> None:
    stage = Stage(2, lambda _, message: "always" if isinstance(message, inside.Answered | inside.Finished) else "")
    with pytest.raises(RunError, match="died one after the other, and nothing was answered"):
        staged(stage, prepare_mini_suite(), tmp_path)


def test_what_a_worker_refuses_is_the_runs_own_error(small_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is asked over a network") as raised:
        staged(Stage(2, lambda *_: ""), small_data, tmp_path, model="openai:name@http://127.0.0.1:9/v1")
    assert "Leave --workers out" in str(raised.value)


def test_workers_say_a_thing_once_and_their_numbers_add_up(small_data: Path, tmp_path: Path) -> None:
    _, phases, heard = staged(Stage(3, lambda *_: ""), small_data, tmp_path, model="mock")
    assert sum(line.startswith("Engine:") for line in heard.lines) == 1
    assert heard.lines[0] == "Workers: actors."
    tested = phases.notes["self-test"]
    assert tested["equal"] == tested["of"]
    assert phases.counts["answers"] == sum(names_of(small_data).values())
    assert phases.seconds["decode"] > 0


def test_a_worker_of_another_kind_is_not_taken(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = inside.identity_of, list[int]()

    def unlike(*given: Any) -> dict[str, object]:
        # The second worker to load has another library; the writer looks after it.
        seen.append(len(seen))
        return {**real(*given), **({"libraries": {"torch": "1.0"}} if len(seen) == 2 else {})}

    monkeypatch.setattr(inside, "identity_of", unlike)
    outcomes, _, heard = staged(Stage(2, lambda *_: ""), small_data, tmp_path)
    assert Counter((one.task, one.sample_id) for one in outcomes) == names_of(small_data)
    [line] = [line for line in heard.lines if "is not taken" in line]
    assert "libraries.torch is '1.0' there and '" in line


def test_a_writer_of_another_kind_is_told(small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = iter(["theirs", "ours"])
    monkeypatch.setattr(inside, "code_of_all", lambda: next(hashes))
    with pytest.raises(RunError, match="medbench is 'theirs' there and 'ours' here"):
        staged(Stage(1, lambda *_: ""), small_data, tmp_path)


def test_differences_are_told_by_name() -> None:
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 1}, "c": 2}) == []
    assert differences({"a": {"b": 1}}, {"a": {"b": 2}}) == ["a.b is 2 there and 1 here"]


@pytest.mark.parametrize(("device", "said"), [("mps", "is one device"), ("cuda:1", "is one device")])
def test_one_device_is_not_for_several_workers(device: str, said: str, small_data: Path) -> None:
    chosen = Settings(model="uni-med", device=device, workers="2", data_dir=small_data, tasks=TASKS)
    with pytest.raises(UsageError, match=said):
        hiring.hired(chosen, load_workload(chosen), choose_model("uni-med", {}), Phases())


def test_without_ray_it_is_said_how_to_get_it(small_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    chosen = Settings(model="mock:oracle", workers="ray", data_dir=small_data, tasks=TASKS)
    with pytest.raises(UsageError, match="Ray is not installed here") as raised:
        hiring.hired(chosen, load_workload(chosen), choose_model("mock:oracle", {}), Phases())
    assert "medbench[ray]" in str(raised.value)


def test_a_wait_for_a_place_is_told_ever_more_rarely(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10**6, 20))
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    class Slow(Stage):
        silence = 30_000  # a week

        def hear(self, seconds: float) -> list[tuple[int, inside.Message]]:
            self.silence -= 1
            return [] if self.silence >= 0 else super().hear(seconds)

    _, _, heard = staged(Slow(2, lambda *_: ""), small_data, tmp_path)
    told = heard.lines.count("2 of 2 workers load the model, or wait for a place to run.")
    assert 8 <= told <= 16


def test_every_worker_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plain, split = Settings(model="hf"), Settings(model="hf", model_args={"vllm.tensor_parallel_size": "2"})
    laid = Settings(model="hf", device_map="auto")
    assert hiring.local_gpus(3, plain) == ["0", "1", "2"]
    assert hiring.local_gpus(2, split) == hiring.local_gpus(2, laid) == ["0,1", "2,3"]
    assert hiring.local_gpus(1, laid) == ["0,1,2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-abc,1,0")
    assert hiring.local_gpus(2, plain) == ["3", "GPU-abc"]
    with pytest.raises(UsageError, match="--workers 3 needs 6 GPUs, 2 for each; there are 4") as raised:
        hiring.local_gpus(3, split)
    assert "Give --workers 2" in str(raised.value)
    environment = Processes(2, ["3", "GPU-abc"])._environment(1)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-abc"


def test_a_worker_whose_device_is_lost_dies_and_is_replaced_and_another_error_ends_the_run() -> None:
    def raising(error: MedbenchError) -> Iterator[inside.Message]:
        yield inside.Talk(text="begun", loud=False)
        raise error

    worker = inside.Inside(inside.Job(settings={}, share=Share(checkpoint=None, tasks=()), folder="."))
    refused = RunError("No memory.")
    heard = list(worker._heard(raising(refused)))
    assert heard[-1] == inside.Refused(error=refused)
    with pytest.raises(DeviceError, match="The device cuda:0 failed"):
        list(worker._heard(raising(DeviceError.of("The device cuda:0", RuntimeError("it is gone")))))
