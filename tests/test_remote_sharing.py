"""Several servers of one model: who asks what, and what happens when one of them is gone. In virtual time."""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from scripted_server import FULL_DRAW, Scripted, Server, no_threads, numbered, try_again
from virtual_time import in_virtual_time

from medbench.adapters.remote import RetryReason
from medbench.harness.remote.asking import Finished, GoneError, Question
from medbench.harness.remote.serving import joined_notes
from medbench.harness.remote.sharing import Fleet
from medbench.tasks.foundation.errors import RunError
from medbench.tasks.sample import ImageRef

pytestmark = pytest.mark.usefixtures(no_threads.__name__)
EACH = 6  # Questions about a picture.


def about(pictures: int, each: int = EACH) -> list[Question]:
    """Return questions about pictures, all of one after another; ids are `q` and a number."""
    return [
        dataclasses.replace(
            one, sample=dataclasses.replace(one.sample, images=(ImageRef(path=f"{number // each}.png"),))
        )
        for number, one in enumerate(numbered(pictures * each))
    ]


def fleet_of(*servers: Server, **patience: object) -> list[Scripted]:
    found = [Scripted(server, **{"concurrency": 2, "max_concurrency": 8, **patience}) for server in servers]
    for number, one in enumerate(found):
        one.host = f"server-{number}"
    return found


def ask(servers: Sequence[Scripted], asked: Sequence[Question]) -> tuple[list[Finished], Fleet]:
    finished: list[Finished] = []
    fleet = Fleet(servers, finished.append, draw=lambda: FULL_DRAW)
    in_virtual_time(fleet.ask(asked))
    # Every question is done once.
    assert sorted(one.outcome.sample_id for one in finished) == sorted(one.sample.sample_id for one in asked)
    return finished, fleet


def pictures_of(server: Scripted, each: int = EACH) -> Counter[int]:
    """Return how many questions of each picture a server answered."""
    return Counter(int(name[1:]) // each for name in server.asked)


def well(*_: object) -> float:
    return 1.0


def gone_after(answers: int, reason: RetryReason = "unreachable", seconds: float = 1.0) -> Server:
    """Return a server that answers so many questions and is then no more."""
    left = iter(range(answers))
    return lambda *_: try_again(reason) if next(left, None) is None else seconds


def test_the_questions_of_a_picture_go_to_one_server_but_for_the_last_ones() -> None:
    servers = fleet_of(well, well, well)
    ask(servers, about(40))
    shared = [number for number in range(40) if sum(number in pictures_of(one) for one in servers) > 1]
    assert len(shared) <= 2
    assert all(len(pictures_of(one)) >= 10 for one in servers)


def test_a_fast_server_answers_more() -> None:
    fast, slow = fleet_of(lambda *_: 1.0, lambda *_: 10.0)
    ask([fast, slow], about(60))
    assert len(fast.asked) > 4 * len(slow.asked) > 0


def test_whoever_is_free_helps_with_the_last_picture() -> None:
    servers = fleet_of(well, well)
    ask(servers, about(1, each=200))
    assert all(len(one.asked) > 50 for one in servers)


def test_questions_without_pictures_go_to_whoever_is_free() -> None:
    servers = fleet_of(well, well)
    ask(servers, numbered(100))
    assert all(len(one.asked) > 30 for one in servers)


def test_each_server_has_a_pace_of_its_own() -> None:
    def narrow(_: str, __: int) -> object:
        return try_again("rate limit") if servers[1].under_way > 2 else 1.0

    servers = fleet_of(well, narrow, attempts=50)
    finished, fleet = ask(servers, about(80))
    assert not any(one.outcome.error for one in finished)
    wide, held = (asking.window.limit for asking in fleet.askings)
    assert (wide, held <= 4) == (8, True)
    notes = fleet.notes
    assert [one["host"] for one in notes["servers"]] == ["server-0", "server-1"]
    assert sum(one["answered"] for one in notes["servers"]) == 480
    assert notes["retries"] == notes["servers"][1]["retries"]
    assert notes["concurrency"]["start"] == 4


@pytest.mark.parametrize("reason", ["unreachable", "timeout"])
def test_a_server_that_goes_away_loses_nothing(reason: RetryReason, capsys: pytest.CaptureFixture[str]) -> None:
    lost, stays = fleet_of(gone_after(10, reason), well)
    finished, fleet = ask([lost, stays], about(30))
    assert not any(one.outcome.error for one in finished)
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("GONE") == 1
    assert f"It was: {reason}. The other servers answer its questions." in told
    assert [one["gone"] for one in fleet.notes["servers"]] == [True, False]
    assert fleet.notes["servers"][0]["answered"] == 10


def test_a_server_that_goes_last_brings_back_those_that_have_nothing_to_do() -> None:
    quick, slow = fleet_of(well, gone_after(2, seconds=50.0))
    finished, _ = ask([quick, slow], about(4))
    assert not any(one.outcome.error for one in finished)
    assert len(quick.asked) == 22


def test_a_server_that_was_never_there_costs_no_answer() -> None:
    never, stays = fleet_of(gone_after(0), well)
    finished, _ = ask([never, stays], about(10))
    assert not any(one.outcome.error for one in finished)
    assert len(stays.asked) == 60


def test_the_last_server_is_waited_for_as_one_that_is_alone() -> None:
    def away_for_a_while(*_: object) -> object:
        return try_again("unreachable") if 10 < asyncio.get_running_loop().time() < 100 else 1.0

    lost, last = fleet_of(gone_after(10), away_for_a_while, attempts=50)
    finished, _ = ask([lost, last], about(40))
    assert not any(one.outcome.error for one in finished)


def test_when_the_last_is_gone_the_run_ends() -> None:
    servers = fleet_of(gone_after(5), gone_after(20), deadline=100)
    finished: list[Finished] = []
    with pytest.raises(GoneError, match="has answered nothing for") as caught:
        in_virtual_time(Fleet(servers, finished.append, draw=lambda: FULL_DRAW).ask(about(100)))
    assert "the same command continues" in caught.value.hint
    assert sum(not one.outcome.error for one in finished) == 25


def test_none_of_several_was_ever_there() -> None:
    servers = fleet_of(gone_after(0), gone_after(0))
    with pytest.raises(GoneError, match="It was: unreachable"):
        in_virtual_time(Fleet(servers, lambda _: None, draw=lambda: FULL_DRAW).ask(about(4)))


def test_what_every_request_to_one_server_would_meet_ends_the_run() -> None:
    servers = fleet_of(lambda *_: RunError("Wrong key.", "Set it."), well)
    with pytest.raises(RunError, match=r"Wrong key\."):
        in_virtual_time(Fleet(servers, lambda _: None, draw=lambda: FULL_DRAW).ask(about(50)))


def test_servers_of_all_parts_of_a_run_are_told(tmp_path: Path) -> None:
    notes = []
    for count in (1, 2, 2):
        _, fleet = ask(fleet_of(*[well] * count), about(6))
        notes.append(fleet.notes)
    joined = joined_notes(tmp_path, notes)
    assert [one["host"] for one in joined["servers"]] == ["server-0", "server-1"] * 2
    assert sum(one["answered"] for one in joined["servers"]) == 72
    assert "servers" not in joined_notes(tmp_path, notes[:1])
