"""Where time goes: on a GPU that of its own work, of which the host knows only after waiting for it."""

import pytest
import torch

from medbench.harness.engine.timing import WAITED, timed
from medbench.harness.phases import Phases


class Event:
    """An event of a GPU that is not there: the clock of its stream stands where the test sets it."""

    now = 0.0
    reached = -1.0

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = Event.now

    def synchronize(self) -> None:
        Event.reached = max(Event.reached, self.at)

    def elapsed_time(self, other: "Event") -> float:
        if other.at > Event.reached:
            raise RuntimeError("not ready")
        return 1000 * (other.at - self.at)


def test_a_gpu_is_asked_for_its_own_time_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    phases = Phases()
    with timed(phases, "cuda:0", {"encode": 1}):
        Event.now += 2.0
    with timed(phases, "cuda:0", {"prefill": 3, "decode": 1}, {"medqa": 1, "slake-vqa": 3}):
        Event.now += 8.0
    assert "prefill" not in phases.seconds
    phases.add(11.0, {WAITED: 1}, {})
    phases.settle(WAITED)
    phases.settle(WAITED)
    assert phases.seconds["encode"] == pytest.approx(2)
    assert phases.seconds["prefill"] == pytest.approx(6)
    assert phases.seconds["decode"] == pytest.approx(2)
    assert phases.tasks["slake-vqa"].seconds == pytest.approx(6)
    assert phases.seconds[WAITED] == pytest.approx(1, abs=0.1)


def test_a_cpu_is_timed_while_it_computes() -> None:
    phases = Phases()
    with timed(phases, torch.device("cpu"), {"encode": 1}):
        pass
    phases.settle(WAITED)
    assert 0 < phases.seconds["encode"] < 1
    assert phases.seconds.get(WAITED, 0.0) == 0


def test_what_another_process_measured_is_included() -> None:
    there, here = Phases(), Phases()
    there.add(2.0, {"decode": 1}, {"vqa": 1})
    there.tasks["vqa"].output_tokens = 7
    there.background["preprocess"] = 1.5
    there.count("answers", 3)
    here.add(1.0, {"decode": 1}, {})
    for _ in range(2):
        here.include(there.as_json())
    assert (here.seconds, here.background) == ({"decode": 5.0}, {"preprocess": 3.0})
    assert (here.counts["answers"], here.tasks["vqa"].output_tokens, here.tasks["vqa"].seconds) == (6, 14, 4.0)
