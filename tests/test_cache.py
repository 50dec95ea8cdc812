"""The cache of answers on the disk: many writers, a bounded size, damage of all kinds, disks that are full or shut."""

import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest
from command_line import medbench, medbench_process
from engine_helpers import make_requests
from scripted_server import Scripted, no_threads, numbered, replied
from virtual_time import in_virtual_time

from medbench.adapters.base import Generation
from medbench.adapters.remote import Served, ServedGeneration
from medbench.harness.cache import memory as memories
from medbench.harness.cache.keys import Keys, Pictures
from medbench.harness.cache.memory import HITS, MISSES, Memory
from medbench.harness.cache.store import FILE, Store, StoreError
from medbench.harness.engine.requests import Outcome, Request
from medbench.harness.phases import Phases
from medbench.harness.remote.asking import Finished
from medbench.harness.remote.sharing import Fleet

ROWS = {f"{number:064x}": f"answer {number} ".encode() * 20 for number in range(200)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    made.put(ROWS, "uni-med 0123")
    yield made
    made.close()


def test_what_was_kept_comes_back_and_nothing_else(store: Store, tmp_path: Path) -> None:
    assert store.get([*ROWS, "f" * 64]) == ROWS
    assert Store(tmp_path).get(ROWS) == ROWS
    [held] = store.held()
    assert (held.model, held.answers, held.size) == ("uni-med 0123", 200, sum(map(len, ROWS.values())))
    assert store.verify() == 200


def test_the_first_answer_to_a_request_stays(store: Store) -> None:
    key = next(iter(ROWS))
    store.put({key: b"another"}, "other")
    assert store.get([key]) == {key: ROWS[key]}


# Size


def test_the_file_stays_within_its_bound_and_what_was_used_lately_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 200_000
    store = Store(tmp_path, most_bytes=most)
    for day in range(12):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + day * 86_401)
        store.put({f"{day}-{number}": b"x" * 1000 for number in range(20)}, "model")
        # The very first answer is used every day.
        assert store.get(["0-0"])
    assert store.path.stat().st_size <= most
    assert store.held()[0].size > most / 2
    assert store.get(["0-0", "0-1", "11-0"]).keys() == {"0-0", "11-0"}


def test_answers_are_pruned_by_age_model_and_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    for day, model in enumerate(("hf:a 01", "hf:b 02", "openai:c 03")):
        monkeypatch.setattr(time, "time", lambda day=day: 1e9 + day * 86_400)
        store.put({f"{model}-{number}": b"x" * 5000 for number in range(100)}, model)
    assert store.prune(model="hf:*", days=1.5) == 100
    assert store.prune(model="hf:b") == 100
    assert [one.model for one in store.held()] == ["openai:c 03"]
    size = store.path.stat().st_size
    assert 30 < store.prune(most_bytes=size // 2) < 70
    assert store.path.stat().st_size <= size // 2
    assert store.prune(most_bytes=0) > 30
    assert store.held() == []


# Damage


def overwritten(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(draw.choice([1, 3, 200])):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size))


def foreign(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.choice([600, 5000])))


def of_another_form(path: Path, draw: random.Random) -> None:
    del draw
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE answers (key TEXT)")


def swapped(path: Path, draw: random.Random) -> None:
    del draw
    with sqlite3.connect(path) as database:
        first, second = sorted(ROWS)[:2]
        database.execute("UPDATE answers SET key = 'x' WHERE key = ?", (first,))
        database.execute("UPDATE answers SET key = ? WHERE key = ?", (first, second))
        database.execute("UPDATE answers SET key = ? WHERE key = 'x'", (second,))


def of_another_type(path: Path, draw: random.Random) -> None:
    del draw
    with sqlite3.connect(path) as database:
        database.execute("UPDATE answers SET value = CAST(value AS TEXT)")


@pytest.mark.parametrize("damage", [overwritten, cut, foreign, of_another_form, swapped, of_another_type])
@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_file_gives_no_wrong_answer_and_is_set_aside(
    damage: Callable[[Path, random.Random], None], seed: int, store: Store, tmp_path: Path
) -> None:
    store.close()
    damage(store.path, random.Random(f"{damage.__name__}{seed}"))
    found = Store(tmp_path)
    # What is read is what was written; a flipped bit may also lie where nothing is.
    for key, value in found.get(ROWS).items():
        assert ROWS[key] == value
    found.verify()
    found.put({"new": b"new"}, "model")
    assert found.get(["new"]) == {"new": b"new"}
    if damage is not overwritten:
        assert [path.parent for path in found.set_aside] == [tmp_path]
    assert len(list(tmp_path.glob(f"{FILE}.damaged-*[0-9]"))) == len(found.set_aside)
    assert Store(tmp_path).verify() >= 1


def test_one_flipped_bit_of_an_answer_is_seen(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.close()
    content = store.path.read_bytes()
    assert content.count(b"answer 77 ") == 20
    store.path.write_bytes(content.replace(b"answer 77 ", b"answer 76 ", 1))
    assert store.get([f"{77:064x}"]) == {}
    said = " ".join(capsys.readouterr().err.split())
    assert "is damaged (an answer is not what was written)" in said
    assert "a new one begins" in said


def test_a_process_that_set_it_aside_is_not_followed_by_another(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path)
    assert other.get(ROWS) == ROWS
    content = bytearray(store.path.read_bytes())
    at = content.index(b"answer 5 ")
    content[at] ^= 1
    with store.path.open("r+b") as file:
        file.write(content)
    store.close()
    assert store.get(ROWS) != ROWS
    store.put({"new": b"new"}, "model")
    # The other still reads the damaged file, which is not there under that name any more.
    other._opened = sqlite3.connect(store.set_aside[0], isolation_level=None)
    assert other.get(ROWS) != ROWS
    assert store.get(["new"]) == Store(tmp_path).get(["new"]) == {"new": b"new"}


def test_what_is_damaged_again_and_again_is_given_up(store: Store, tmp_path: Path) -> None:
    for _ in range(2):
        store.close()
        store.path.write_bytes(b"no database" * 1000)
        try:
            assert store.get(ROWS) == {}
        except StoreError as error:
            assert "damaged twice" in error.problem  # noqa: PT017 - the second time
    assert len(list(tmp_path.glob("*.damaged-*[0-9]"))) == 1


# Disks and locks


def memory_of(store: Store, kind: type[Generation] = Generation) -> Memory:
    return Memory(store, Keys(base="b", whole=False, pictures=Pictures()), "model", kind, Phases())


def outcome(text: str = "an answer", **fields: object) -> Outcome:
    return Outcome(task="slake-vqa", sample_id="1", generation=Generation(text=text, **fields))  # type: ignore[arg-type]


def test_a_lock_that_cannot_be_had_is_said_once_and_nothing_is_lost(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    memory = memory_of(Store(tmp_path, patience=0.05))
    assert memory.recall("asked")[1] is None
    assert memory.recall("asked") == ("", None)
    memory.keep([("k", outcome(), "")])
    memory.flush()
    holder.close()
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("cannot be used") == 1
    assert "database is locked. The run goes on without the cache of answers." in said


def test_a_disk_that_is_full_keeps_nothing_more_and_is_still_read(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = memory_of(store)
    memory.keep([(memory.recall("before")[0], outcome("known"), "")])
    memory.flush()
    pages = store._opened.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[union-attr]
    store._opened.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[union-attr]
    for number in range(3):
        memory.keep([(str(number), outcome("a long answer " * 5000), "")])
        memory.flush()
    reply = memory.recall("before")[1]
    assert reply is not None
    assert reply.generation == Generation(text="known")
    assert capsys.readouterr().err.count("Nothing more is kept in it.") == 1
    assert Store(tmp_path).verify() == 201


def test_a_file_that_may_only_be_read_is_read(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store._opened.execute("PRAGMA query_only = 1")  # type: ignore[union-attr]
    memory = memory_of(store)
    memory.keep([("k", outcome(), "")])
    memory.flush()
    assert "readonly database. Nothing more is kept in it." in " ".join(capsys.readouterr().err.split())
    assert store.get(ROWS) == ROWS


def test_a_folder_that_cannot_be_made_ends_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    memory = memory_of(Store(tmp_path / "file" / "cache"))
    assert memory.recall("asked")[1] is None
    assert "goes on without" in " ".join(capsys.readouterr().err.split())


# Several writers


def write_some(folder: Path, whose: int) -> None:
    store = Store(folder, patience=60)
    for part in range(10):
        mine = {f"{whose}-{part}-{number}": f"{whose} {part} {number}".encode() for number in range(20)}
        store.put({**mine, f"all-{part}": f"said by {whose}".encode()}, f"model {whose}")
        assert store.get(mine) == mine


def test_several_processes_write_at_once_and_one_is_killed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_some, args=(tmp_path, number)) for number in range(4)]
    for writer in writers:
        writer.start()
    deadline = time.monotonic() + 20
    while not (tmp_path / FILE).exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    writers[0].kill()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers[1:]] == [0, 0, 0]
    store = Store(tmp_path)
    assert store.verify() >= 3 * 200 + 10
    assert store.set_aside == []


# Streams of requests


class Model:
    """Answers requests in pairs, and remembers which."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sound = True

    def answer(self, requests: Iterator[Request]) -> Iterator[list[Outcome]]:
        while pair := list(islice(requests, 2)):
            self.asked += [one.sample.sample_id for one in pair]
            yield [said(one) for one in reversed(pair)]

    def outcomes(self, memory: Memory, requests: list[Request]) -> list[list[Outcome]]:
        self.asked = []
        return list(memory.outcomes(iter(requests), self.answer, lambda: self.sound))


def said(request: Request) -> Outcome:
    task, name = request.name
    return Outcome(task=task, sample_id=name, generation=Generation(text=f"{request.prompt.segments[-1]}"))


def by_name(outcomes: list[list[Outcome]]) -> list[Outcome]:
    return sorted((one for some in outcomes for one in some), key=lambda one: one.sample_id)


def test_what_is_known_comes_first_and_the_rest_is_asked_and_kept(
    tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memories, "_TOGETHER", 7)
    requests, model, store = make_requests(picture_folder, 60, seed=3), Model(), Store(tmp_path)
    wanted = [said(one) for one in requests]
    known = requests[:20] + requests[30:40]
    assert by_name(model.outcomes(memory_of(store), known)) == [said(one) for one in known]
    found = model.outcomes(memory_of(store), requests)
    assert by_name(found) == wanted
    # 20 are known; then the model is asked, and the others that are known come with its answers.
    assert [len(some) for some in found[:3]] == [7, 7, 6]
    assert model.asked == [one.sample.sample_id for one in (*requests[20:30], *requests[40:])]
    assert by_name(model.outcomes(memory_of(store), requests)) == wanted
    assert model.asked == []


def test_what_is_not_sound_is_not_kept_and_who_leaves_early_keeps_what_came(
    tmp_path: Path, picture_folder: Path
) -> None:
    requests, model, store = make_requests(picture_folder, 10, seed=4), Model(), Store(tmp_path)
    model.sound = False
    model.outcomes(memory_of(store), requests)
    assert store.held() == []
    model.sound = True
    stream = memory_of(store).outcomes(iter(requests), model.answer, lambda: True)
    assert [len(next(stream)) for _ in range(3)] == [0, 2, 2]
    stream.close()  # type: ignore[attr-defined]
    assert store.held()[0].answers == 4


@pytest.mark.parametrize("seed", range(3))
def test_whatever_is_known_and_whatever_breaks_every_request_has_its_one_outcome(
    seed: int, tmp_path: Path, picture_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    monkeypatch.setattr(memories, "_TOGETHER", draw.choice([1, 3, 50]))
    monkeypatch.setattr(memories, "_KEPT_TOGETHER", draw.choice([1, 5, 50]))
    requests, model, store = make_requests(picture_folder, 20, seed=seed), Model(), Store(tmp_path)
    model.outcomes(memory_of(store), draw.sample(requests, 10))
    store.close()
    for break_it in (overwritten, cut, foreign, lambda path, _: path.unlink()):
        break_it(store.path, draw)
        assert by_name(model.outcomes(memory_of(Store(tmp_path)), requests)) == [said(one) for one in requests]


@pytest.mark.usefixtures(no_threads.__name__)
def test_a_servers_questions_that_are_known_are_never_sent(tmp_path: Path) -> None:
    model = Scripted(lambda *_: 1.0)
    memory = memory_of(Store(tmp_path), ServedGeneration)
    finished: list[Finished] = []
    for number in (1, 3):
        key, _ = memory.recall(f"q{number:03d}")
        memory.keep([(key, Outcome(task="t", sample_id="", generation=replied("known").generation), "fp")])
    memory.flush()
    in_virtual_time(Fleet([model], finished.append, recall=memory.recall).ask(numbered(5)))
    assert model.order == ["q000", "q002", "q004"]
    texts = {one.question.sample.sample_id: one for one in finished}
    assert [texts[f"q{number:03d}"].attempts for number in range(5)] == [1, 0, 1, 0, 1]
    assert texts["q001"].outcome.generation == replied("known").generation
    assert texts["q001"].reply.usage.fingerprint == "fp"
    assert all(one.key for one in finished)


# What is kept


@pytest.mark.parametrize(
    ("one", "kept"),
    [
        (outcome(), True),
        (outcome("long", stop="length"), True),
        (outcome("<think>hm</think> B", prompt_tokens=3, output_tokens=9, thought_tokens=4, reasoning="r"), True),
        (outcome(""), False),
        (outcome(" \n"), False),
        (outcome("<think>hm</think> "), False),
        (outcome("half a character \ud800"), False),
        (Outcome(task="slake-vqa", sample_id="1", error="The server is gone."), False),
    ],
)
def test_answers_are_kept_and_come_back_whole_errors_and_empty_ones_are_not(
    one: Outcome, kept: bool, tmp_path: Path
) -> None:
    memory = memory_of(Store(tmp_path))
    key, nothing = memory.recall({"asked": 1})
    assert nothing is None
    memory.keep([(key, one, "")])
    memory.flush()
    reply = memory_of(Store(tmp_path)).recall({"asked": 1})[1]
    assert (None if reply is None else reply.generation) == (one.generation if kept else None)


def test_what_a_filter_or_the_model_withheld_is_not_kept_and_a_servers_mark_is(tmp_path: Path) -> None:
    memory = memory_of(Store(tmp_path), ServedGeneration)
    said = ServedGeneration(text="B", served=Served(model="m", finish_reason="stop"))
    refused = ServedGeneration(text="No.", served=Served(model="m", finish_reason="stop", withheld="refusal"))
    keys = [memory.recall(number)[0] for number in range(2)]
    outcomes = [Outcome(task="t", sample_id="1", generation=one) for one in (said, refused)]
    memory.keep((key, one, "fp_1") for key, one in zip(keys, outcomes, strict=True))
    memory.flush()
    reply = memory.recall(0)[1]
    assert reply is not None
    assert (reply.generation, reply.usage.fingerprint) == (said, "fp_1")
    assert memory.recall(1)[1] is None


def test_a_generation_of_a_kind_of_its_own_is_not_kept(tmp_path: Path) -> None:
    class Own(Generation):
        pass

    memory = memory_of(Store(tmp_path))
    key, _ = memory.recall("asked")
    memory.keep([(key, Outcome(task="t", sample_id="1", generation=Own(text="B")), "")])
    memory.flush()
    assert memory.recall("asked")[1] is None


def test_what_has_no_key_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = memory_of(Store(tmp_path))
    assert memory.recall(object()) == memory.recall(object()) == ("", None)
    assert capsys.readouterr().err.count("goes on without") == 1


def test_counts_are_told(tmp_path: Path) -> None:
    memory = memory_of(Store(tmp_path))
    memory.count(2, 3)
    assert dict(memory._phases.counts) == {HITS: 2, MISSES: 3}


# Commands


def test_the_commands_list_verify_and_prune(store: Store, tmp_path: Path) -> None:
    store.put({"x": b"1"}, "openai:c@http://h 03")
    listed = medbench("cache", "ls", "--cache", tmp_path, "--json")
    models = {one["model"]: one["answers"] for one in json.loads(listed.stdout)["models"]}
    assert models == {"uni-med 0123": 200, "openai:c@http://h 03": 1}
    assert "uni-med 0123" in medbench("cache", "ls", "--cache", tmp_path).stdout
    verified = medbench("cache", "verify", "--cache", tmp_path)
    assert (verified.returncode, "All 201 answers" in verified.stderr) == (0, True)
    pruned = medbench("cache", "prune", "--cache", tmp_path, "--model", "uni-med", "--json")
    assert json.loads(pruned.stdout)["removed"] == 200
    assert json.loads(medbench("cache", "prune", "--cache", tmp_path, "--to", "0", "--json").stdout)["left"] == 0


def test_the_commands_say_what_is_wrong(store: Store, tmp_path: Path) -> None:
    assert "Nothing says what to remove" in medbench("cache", "prune", "--cache", tmp_path).stderr
    nothing = medbench("cache", "ls", "--cache", tmp_path / "none")
    assert (nothing.returncode, (tmp_path / "none").exists()) == (1, False)
    assert "There is no cache of answers" in nothing.stderr
    store.close()
    shutil.copy(__file__, store.path)
    damaged = medbench("cache", "verify", "--cache", tmp_path, "--json")
    assert damaged.returncode == 1
    assert len(json.loads(damaged.stdout)["set_aside"]) == 1


@pytest.mark.slow
def test_a_process_of_its_own_lists_the_usual_cache(tmp_path: Path) -> None:
    Store(tmp_path / "answers").put(ROWS, "uni-med 0123")
    listed = medbench_process("cache", "ls", env={"MEDBENCH_HOME": str(tmp_path)})
    assert (listed.returncode, "200" in listed.stdout) == (0, True)
