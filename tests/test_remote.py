"""How a served model is asked: pace, patience, order, and what is left when it ends early. In virtual time."""

import asyncio
import dataclasses
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from scripted_server import FULL_DRAW, Scripted, no_threads, numbered, questions, replied, try_again
from task_helpers import question, slake_prepared
from virtual_time import in_virtual_time

from medbench.adapters.remote import (
    Reply,
    RetryPolicy,
    RetryReason,
    Scaled,
    Served,
    ServedGeneration,
    Usage,
)
from medbench.harness.engine.requests import Outcome
from medbench.harness.remote.asking import Asking, Finished, GoneError, Question, RequestWindow, backoff, in_order
from medbench.harness.remote.serving import RequestLog, in_background, refuse_to_send, warn_of_sending
from medbench.harness.remote.sharing import Fleet
from medbench.harness.rundir import GenerationRecord, RecordFile, append_lines, open_whole_lines
from medbench.harness.workload import TaskLoad
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, SampleError, UsageError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import ImageRef
from medbench.tasks.suite import prepare_mini_suite

pytestmark = pytest.mark.usefixtures(no_threads.__name__)


def ask(adapter: Scripted, asked: Sequence[Question]) -> tuple[list[Finished], Asking]:
    finished: list[Finished] = []
    fleet = Fleet([adapter], finished.append, draw=lambda: FULL_DRAW)
    in_virtual_time(fleet.ask(asked))
    assert sorted(one.outcome.sample_id for one in finished) == sorted(one.sample.sample_id for one in asked)
    return finished, fleet.askings[0]


def errors(finished: Sequence[Finished]) -> dict[str, str]:
    return {one.outcome.sample_id: one.outcome.error for one in finished if one.outcome.generation is None}


def test_waits_double_up_to_a_minute_and_are_drawn_from_their_upper_half() -> None:
    assert [backoff(1.0, lambda: 1.0, failures) for failures in (1, 2, 3, 4, 7, 8, 5000)] == [1, 2, 4, 8, 60, 60, 60]
    assert [backoff(1.0, lambda: 0.0, failures) for failures in (1, 2, 3)] == [0.5, 1, 2]
    assert backoff(0.0, random.random, 5) == 0


def test_a_question_is_asked_again_after_growing_waits() -> None:
    adapter = Scripted(lambda _, attempt: try_again("server error") if attempt < 4 else 1.0)
    [finished], asking = ask(adapter, numbered(1))
    assert adapter.asked["q000"] == [0, 1, 3, 7]
    assert (finished.attempts, finished.seconds, asking.retries) == (4, 1.0, {"server error": 3})
    assert finished.outcome.generation is not None


def test_the_server_says_when_and_everybody_waits() -> None:
    slow_down = try_again("rate limit", retry_after=30)
    adapter = Scripted(lambda name, attempt: slow_down if (name, attempt) == ("q000", 1) else 0.5, concurrency=1)
    ask(adapter, numbered(3))
    assert adapter.asked["q000"] == [0, 30]
    assert min(times[-1] for times in adapter.asked.values()) == 30


def test_attempts_run_out() -> None:
    adapter = Scripted(lambda *_: try_again("malformed"), attempts=3)
    finished, _ = ask(adapter, numbered(2))
    assert [len(times) for times in adapter.asked.values()] == [3, 3]
    assert set(errors(finished).values()) == {"No answer after 3 attempts. The last time: It was: malformed."}


def test_time_runs_out() -> None:
    adapter = Scripted(lambda *_: try_again("server error"), deadline=10, attempts=100)
    finished, _ = ask(adapter, numbered(1))
    assert adapter.asked["q000"] == [0, 1, 3, 7]
    assert "No answer after 4 attempts" in errors(finished)["q000"]


def test_a_request_that_hangs_is_ended_and_asked_again() -> None:
    adapter = Scripted(lambda _, attempt: 1e9 if attempt == 1 else 1.0, timeout=20)
    [finished], asking = ask(adapter, numbered(1))
    assert adapter.asked["q000"] == [0, 21]
    assert (finished.outcome.error, asking.retries) == ("", {"timeout": 1})


def test_no_request_outlives_its_sample() -> None:
    adapter = Scripted(lambda *_: 1e9, timeout=300, deadline=400, attempts=9)
    finished, asking = ask(adapter, numbered(1))
    assert adapter.asked["q000"] == [0, 301]
    assert "did not answer in time" in errors(finished)["q000"]
    assert asking.retries == {"timeout": 2}


def test_a_refused_question_is_not_asked_again_and_costs_no_other() -> None:
    adapter = Scripted(lambda name, _: SampleError("Too long.") if name == "q001" else 1.0)
    finished, _ = ask(adapter, numbered(3))
    assert errors(finished) == {"q001": "Too long."}
    assert [len(times) for times in adapter.asked.values()] == [1, 1, 1]


def test_a_broken_picture_is_never_sent() -> None:
    adapter = Scripted(lambda *_: 1.0)
    finished, _ = ask(adapter, questions("a", "broken", "b"))
    assert errors(finished) == {"broken": "The picture is broken."}
    assert (adapter.order, finished[0].attempts) == (["a", "b"], 0)


def test_what_every_request_would_meet_ends_the_run_at_once() -> None:
    adapter = Scripted(lambda name, _: RunError("Wrong key.", "Set it.") if name == "q005" else 1.0, concurrency=2)
    finished: list[Finished] = []
    with pytest.raises(RunError, match=r"Wrong key\."):
        in_virtual_time(Fleet([adapter], finished.append).ask(numbered(50)))
    assert 2 <= len(finished) <= 6
    assert len(adapter.asked) < 12


def test_a_server_that_was_never_there_ends_the_run_in_seconds() -> None:
    adapter = Scripted(lambda *_: try_again("unreachable"), concurrency=8)
    finished: list[Finished] = []

    async def clocked() -> float:
        with pytest.raises(RunError, match="It was: unreachable") as caught:
            await Fleet([adapter], finished.append, draw=lambda: FULL_DRAW).ask(numbered(50))
        assert "Is the server running" in caught.value.hint
        return asyncio.get_running_loop().time()

    assert in_virtual_time(clocked()) == 7.0
    assert finished == []


def test_a_server_that_went_away_is_waited_for() -> None:
    adapter = Scripted(lambda *_: try_again("unreachable") if 5 <= len(adapter.order) < 15 else 1.0, attempts=50)
    finished, _ = ask(adapter, numbered(20))
    assert errors(finished) == {}


def test_a_server_that_stays_away_ends_the_run() -> None:
    adapter = Scripted(lambda *_: 1.0 if len(adapter.order) < 5 else try_again("unreachable"), deadline=100)
    finished: list[Finished] = []
    with pytest.raises(RunError, match="has answered nothing for") as caught:
        in_virtual_time(Fleet([adapter], finished.append).ask(numbered(400)))
    assert "the same command continues" in caught.value.hint
    assert len(finished) < 40


async def seconds_until_gone(adapter: Scripted, finished: list[Finished], count: int = 400) -> float:
    with pytest.raises(GoneError, match="has answered nothing for") as caught:
        await Fleet([adapter], finished.append, draw=lambda: FULL_DRAW).ask(numbered(count))
    assert "the same command continues" in caught.value.hint
    return asyncio.get_running_loop().time()


PATIENT: Mapping[str, Any] = {"deadline": 36_000, "timeout": 3600, "attempts": 1000}


@pytest.mark.parametrize("patience", [PATIENT, {}])
@pytest.mark.parametrize("count", [8, 400])
def test_a_server_that_is_gone_ends_the_run_in_minutes_and_no_sample_pays_for_it(
    patience: Mapping[str, Any], count: int
) -> None:
    adapter = Scripted(lambda *_: 1.0 if len(adapter.order) <= 5 else try_again("unreachable"), **patience)
    finished: list[Finished] = []
    assert 300 < in_virtual_time(seconds_until_gone(adapter, finished, count)) < 420
    assert (len(finished), errors(finished)) == (5, {})


@pytest.mark.parametrize("reason", ["server error", "overloaded", "cut off", "malformed"])
def test_a_server_that_answers_nothing_but_failures_is_gone_however_often_they_are_tried(reason: RetryReason) -> None:
    adapter = Scripted(lambda *_: 1.0 if len(adapter.order) <= 5 else try_again(reason), **PATIENT)
    assert 300 < in_virtual_time(seconds_until_gone(adapter, [])) < 420


def test_a_server_that_is_started_anew_within_minutes_costs_no_sample_an_answer() -> None:
    def server(_: str, __: int) -> object:
        return try_again("unreachable") if 10 < asyncio.get_running_loop().time() < 270 else 1.0

    finished, asking = ask(Scripted(server), numbered(300))
    assert errors(finished) == {}
    assert asking.retries["unreachable"] > 8


def test_one_sample_that_fails_beside_slow_answers_is_no_end() -> None:
    adapter = Scripted(lambda name, _: try_again("server error") if name == "q000" else 1000.0, **PATIENT)
    adapter.retry_policy = dataclasses.replace(adapter.retry_policy, max_concurrency=4)
    finished, _ = ask(adapter, numbered(60))
    assert list(errors(finished)) == ["q000"]


def test_samples_that_hang_the_server_at_the_end_are_errors_and_no_end() -> None:
    adapter = Scripted(lambda name, _: 1.0 if name < "q010" else 1e9, timeout=50, deadline=60)
    finished, _ = ask(adapter, numbered(14))
    assert sorted(errors(finished)) == ["q010", "q011", "q012", "q013"]


def test_a_wait_beyond_the_deadline_is_said_and_not_slept() -> None:
    adapter = Scripted(lambda *_: try_again("rate limit", retry_after=3600), concurrency=1)
    finished: list[Finished] = []
    with pytest.raises(RunError, match="asks to wait 3600 s"):
        in_virtual_time(Fleet([adapter], finished.append).ask(numbered(5)))
    assert list(errors(finished)) == ["q000"]


def test_one_at_a_time_keeps_the_order() -> None:
    adapter = Scripted(lambda *_: 1.0, concurrency=1, max_concurrency=1)
    ask(adapter, numbered(40))
    assert adapter.order == sorted(adapter.order)
    assert adapter.most == 1


def test_requests_are_sent_in_their_order_however_many_are_under_way() -> None:
    adapter = Scripted(lambda *_: 1.0, concurrency=8)
    ask(adapter, numbered(200))
    assert adapter.order == sorted(adapter.order)


def test_questions_that_are_asked_again_go_first() -> None:
    adapter = Scripted(lambda name, attempt: try_again("rate limit") if (name, attempt) == ("q000", 1) else 1.0)
    adapter.retry_policy = RetryPolicy(concurrency=2, max_concurrency=2)
    ask(adapter, numbered(20))
    assert adapter.order.index("q000", 1) <= 3


def model_of_rate(server_slots: int, seconds: float = 1.0) -> Scripted:
    """Return a model whose server works on so many requests at a time; further ones wait."""
    free: list[float] = [0.0] * server_slots

    def server(_: str, __: int) -> float:
        now = asyncio.get_running_loop().time()
        place = free.index(min(free))
        free[place] = max(now, free[place]) + seconds
        return free[place] - now

    return Scripted(server)


def test_concurrency_grows_while_the_server_gets_faster() -> None:
    adapter = model_of_rate(64)
    _, asking = ask(adapter, numbered(1000))
    assert asking.window.highest == 64
    assert adapter.most == 64


def test_concurrency_stops_growing_where_the_server_gets_no_faster() -> None:
    adapter = model_of_rate(6)
    _, asking = ask(adapter, numbered(1000))
    assert asking.window.highest <= 16
    assert 4 <= asking.window.limit <= 16


def test_a_server_that_does_one_thing_at_a_time_is_not_flooded() -> None:
    adapter = model_of_rate(1)
    _, asking = ask(adapter, numbered(300))
    assert asking.window.highest <= 8


def test_a_rate_limit_halves_concurrency_and_nothing_is_lost() -> None:
    def server(_: str, __: int) -> object:
        return try_again("rate limit") if adapter.under_way > 10 else 1.0

    adapter = Scripted(server, attempts=30)
    finished, asking = ask(adapter, numbered(600))
    assert errors(finished) == {}
    assert 1 <= asking.window.limit <= 10 + 4
    assert sum(map(len, adapter.asked.values())) < 700


def test_a_window_halves_once_for_all_that_were_sent_before() -> None:
    window = RequestWindow(start=16, ceiling=64)
    assert [window.strained(0) for _ in range(16)] == [True, *[False] * 15]
    assert (window.limit, window.epoch) == (8, 1)
    assert window.strained(1)
    assert window.limit == 4
    for epoch in range(2, 9):
        window.strained(epoch)
    assert window.limit == 1


class Rounds:
    """Answers full rounds, each at a rate; gives the limits after each."""

    def __init__(self, window: RequestWindow) -> None:
        self._window = window
        self._now = 0.0
        window.answered(self._now, busy=True)

    def __call__(self, *rates: float) -> list[int]:
        return [self._round(rate) for rate in rates]

    def _round(self, rate: float) -> int:
        for _ in range(max(2 * self._window.limit, 8)):
            self._now += 1 / rate
            self._window.answered(self._now, busy=True)
        return self._window.limit


def test_a_window_doubles_until_it_brings_too_little_then_rests_longer_each_time() -> None:
    rounds = Rounds(RequestWindow(start=4, ceiling=64))
    assert rounds(4, 8, 8.4) == [8, 16, 8]
    # One round of rest, then a step of 4; taken back again, two rounds of rest, then four.
    assert rounds(8, 8, 8) == [8, 12, 8]
    assert rounds(8, 8, 8, 8) == [8, 8, 12, 8]
    assert rounds(8, 8, 8, 8, 8, 14, 18, 22) == [8, 8, 8, 8, 12, 16, 20, 24]


def test_rounds_that_are_not_full_show_nothing() -> None:
    window = RequestWindow(start=4, ceiling=64)
    for now in range(100):
        window.answered(float(now), busy=False)
    assert window.limit == 4


def test_after_strain_a_window_grows_by_steps() -> None:
    window = RequestWindow(start=4, ceiling=64)
    rounds = Rounds(window)
    assert rounds(4, 8, 16) == [8, 16, 32]
    window.strained(window.epoch)
    assert Rounds(window)(16, 16, 20, 24) == [16, 20, 24, 28]


def test_questions_of_one_picture_follow_one_another_across_tasks(tmp_path: Path) -> None:
    prepared = slake_prepared(tmp_path)
    first, second = (ImageRef(path=f"{name}.png") for name in "ab")
    vqa, rec, report, qa = (get_task(name) for name in ("slake-vqa", "slake-rec", "mimic-cxr", "medqa"))
    samples = {
        qa.name: [question(20), question(21)],
        vqa.name: [question(1, images=(first,)), question(2, images=(second,)), question(3, images=(first,))],
        rec.name: [question(4, images=(second,)), question(5, images=(first,))],
        report.name: [question(9, images=(ImageRef(path="x.png"),))],
    }
    loads = [TaskLoad(spec=spec, prepared=prepared, samples=samples[spec.name]) for spec in (qa, vqa, rec, report)]
    ordered = in_order(loads, samples)
    assert [one.sample.sample_id for one in ordered] == ["q9", "q20", "q21", "q1", "q3", "q5", "q2", "q4"]
    assert [one.spec.kind for one in ordered] == ["report", "qa", "qa", "vqa", "vqa", "rec", "vqa", "rec"]


def test_what_the_background_brings_comes_as_it_comes_and_its_error_last() -> None:
    async def work(put: Callable[[int], None]) -> None:
        for number in range(5):
            put(number)
            await asyncio.sleep(0)
        raise RunError("The end.")

    found: list[int] = []
    with pytest.raises(RunError, match=r"The end\."):
        found.extend(item for items in in_background(work) for item in items)
    assert found == list(range(5))


def test_leaving_early_cancels_the_background() -> None:
    cancelled = threading.Event()

    async def work(put: Callable[[int], None]) -> None:
        put(1)
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    batches = in_background(work)
    assert next(batches) == [1]
    batches.close()
    assert cancelled.is_set()


def test_an_interrupt_keeps_what_was_brought(monkeypatch: pytest.MonkeyPatch) -> None:
    brought = threading.Event()

    async def work(put: Callable[[int], None]) -> None:
        put(1)
        put(2)
        brought.set()
        await asyncio.sleep(3600)

    def interrupted(_: object) -> NoReturn:
        brought.wait(10)
        raise KeyboardInterrupt

    monkeypatch.setattr("medbench.harness.remote.serving._batch", interrupted)
    batches = in_background(work)
    assert next(batches) == [1, 2]
    with pytest.raises(KeyboardInterrupt):
        next(batches)


def test_the_background_works_beside_a_loop_of_the_caller() -> None:
    async def work(put: Callable[[int], None]) -> None:
        put(7)

    async def notebook() -> list[list[int]]:
        return list(in_background(work))

    assert asyncio.run(notebook()) == [[7]]


def test_records_of_served_models_say_who_answered_and_others_stay_as_they_are(tmp_path: Path) -> None:
    scaled = Scaled(original=(400, 200), sent=(200, 100))
    served = Served(model="m-2024", finish_reason="length", scaled=(scaled,))
    said = ServedGeneration(text="a", stop="length", prompt_tokens=5, output_tokens=1, served=served)
    plain = GenerationRecord(run="r", sample_id="q1", text="yes")
    records = [plain, GenerationRecord.of("r", Outcome(task="t", sample_id="q2", generation=said))]
    file = RecordFile(tmp_path / "t.jsonl", "r", ["q1", "q2"])
    with open_whole_lines(file.path) as stream:
        append_lines(stream, (record.as_json() for record in records))
    lines = file.path.read_text().splitlines()
    assert lines[0] == (
        '{"error":"","output_tokens":0,"prompt_tokens":0,"run":"r","sample_id":"q1","stop":"eos","text":"yes"}'
    )
    assert (
        '"served":{"finish_reason":"length","model":"m-2024","scaled":[{"original":[400,200],"sent":[200,100]}],'
        '"withheld":""}' in (lines[1])
    )
    assert list(file.read().values()) == records
    before = file.path.read_bytes()
    file.rewrite(file.read().values())
    assert file.path.read_bytes() == before


def test_the_log_of_calls_sums_all_parts_of_a_run(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    usage = Usage(prompt_tokens=100, output_tokens=7, cached_tokens=60, cost=0.25, fingerprint="fp")
    asked = numbered(3)
    reply = Reply(generation=replied("x").generation, usage=usage)
    done = [Finished(asked[0], reply, attempts=2, seconds=1.0), Finished(asked[1], Reply(error="no"), attempts=3)]
    for part in (done, done[:1]):
        log = RequestLog(path)
        log.append(part)
        log.close()
        path.write_bytes(path.read_bytes() + b'{"task": "torn')
    summary = RequestLog(path).summary()
    # Once per sample, whatever part it was asked in; what it took counts every time.
    assert (summary["answered"], summary["failed"]) == (1, 1)
    assert (summary["requests"], summary["prompt_tokens"], summary["cached_tokens"]) == (7, 200, 120)
    assert (summary["cost"], summary["models"], summary["fingerprints"]) == (0.5, {"m": 1}, {"fp": 1})
    assert summary["latency_seconds"] == {"median": 1.0, "p95": 1.0, "longest": 1.0}
    path.write_text('{"task": 1}\n')
    with pytest.raises(RunError, match=r"line 1 is no record of a call"):
        RequestLog(path)


def test_virtual_time_takes_none() -> None:
    started = time.monotonic()
    in_virtual_time(asyncio.sleep(10_000))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("here", "licence", "told"), [(False, "", True), (False, "CC BY 4.0", False), (True, "", False)]
)
def test_data_that_nothing_opens_go_to_another_machine_with_a_loud_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], here: bool, licence: str, told: bool
) -> None:
    adapter = Scripted(lambda *_: "yes")
    adapter.on_this_machine = here
    prepared = slake_prepared(tmp_path)
    known = dataclasses.replace(prepared, manifest=dataclasses.replace(prepared.manifest, licence=licence))
    warn_of_sending(adapter, [TaskLoad(spec=prepared.spec, prepared=known, samples=())])
    shown = "of slake-vqa are sent to somewhere, and nothing says" in " ".join(capsys.readouterr().err.split())
    assert shown == told


def test_data_under_an_agreement_are_refused_and_the_mini_suites_are_not() -> None:
    prepared = load_prepared(prepare_mini_suite(), "mimic-cxr")
    refuse_to_send(Scripted(lambda *_: "yes"), [TaskLoad(spec=prepared.spec, prepared=prepared, samples=())])
    digests = {**prepared.manifest.sha256, "test": "0" * 64}
    real = dataclasses.replace(prepared, manifest=dataclasses.replace(prepared.manifest, sha256=digests))
    loads = [TaskLoad(spec=real.spec, prepared=real, samples=())]
    with pytest.raises(UsageError, match="mimic-cxr are under a signed agreement and must not be sent to somewhere"):
        refuse_to_send(Scripted(lambda *_: "yes"), loads)
    adapter = Scripted(lambda *_: "yes")
    adapter.may_send_credentialed = True
    refuse_to_send(adapter, loads)
