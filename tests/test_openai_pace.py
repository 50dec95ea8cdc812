"""How many questions a server is asked at once, and how a hasty run waits."""

import asyncio
import time
from pathlib import Path

import pytest
from fault_server import (
    Answer,
    Asked,
    FaultServer,
    echo,
    fault_server,
    in_turn,
    refusal,
)
from task_helpers import question

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai.client import load_served as load
from medbench.harness.remote.asking import Finished, Question
from medbench.harness.remote.sharing import Fleet
from medbench.tasks.catalog import get_task


def ask(server: FaultServer, count: int, **arguments: str) -> list[Finished]:
    adapter = load(LoadOptions(variant=f"tiny@{server.url}", arguments={"backoff": "0.01", **arguments}))
    spec, finished = get_task("slake-vqa"), list[Finished]()
    questions = [
        Question(sample=question(number, inputs={"question": f"{number}?"}), spec=spec, source=Path())
        for number in range(count)
    ]
    asyncio.run(Fleet([adapter], finished.append).ask(questions))
    assert len({one.outcome.sample_id for one in finished}) == count
    return finished


@pytest.mark.slow
def test_concurrency_grows_on_a_fast_server_and_respects_its_ceiling() -> None:
    with fault_server(seconds=0.05) as server:
        ask(server, 200, concurrency="2", max_concurrency="12")
        assert 4 <= server.most <= 12


@pytest.mark.slow
def test_concurrency_falls_on_a_server_that_refuses_haste_and_all_is_answered() -> None:
    def busy(asked: Asked) -> Answer:
        return refusal(429, Retry_After="0") if asked.under_way > 6 else echo(asked)

    with fault_server(busy, seconds=0.01) as server:
        finished = ask(server, 200, concurrency="16", max_concurrency="16", attempts="50")
        assert not any(one.outcome.error for one in finished)
        late = [asked.under_way for asked in server.seen[-100:]]
        assert sum(late) / len(late) < 9


def test_a_server_that_asks_all_to_wait_is_left_alone() -> None:
    with fault_server(in_turn(refusal(429, Retry_After="1"))) as server:
        started = time.monotonic()
        ask(server, 3, concurrency="1")
        assert time.monotonic() - started >= 1
        assert len(server.seen) == 4
