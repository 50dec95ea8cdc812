"""Served models through the real command line, against a server that does everything wrong: nothing is lost, nothing
that failed is scored, and no secret is written."""

import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import Any

import pytest
from command_line import medbench, start_medbench
from fault_server import (
    Answer,
    Asked,
    Behaviour,
    FaultServer,
    completion,
    echo,
    failing_first,
    fault_server,
    refusal,
)

from medbench.adapters.base import LoadOptions
from medbench.adapters.catalog import choose_model
from medbench.adapters.openai import client
from medbench.adapters.openai.entry import BOXES, SPACES
from medbench.adapters.wording import question_of
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from medbench.tasks.prepared import load_prepared

SECRET = "sk-a-very-secret-key-0123456789"
TASKS = "slake-*,path-vqa,pubmedqa"
FAST = ("backoff=0.01", "timeout=5")


def words(server: FaultServer | str, output: Path, *more: object, args: Sequence[str] = FAST) -> list[object]:
    url = server if isinstance(server, str) else server.url
    model_args = [word for arg in args for word in ("--model-arg", arg)]
    return ["run", "--model", f"openai:tiny@{url}", "--output-dir", output, *model_args, *more]


def few(*, limit: int = 20, tasks: str = TASKS) -> tuple[object, ...]:
    return "--tasks", tasks, "--limit", limit


def run_folder(output: Path) -> Path:
    [folder] = [path for path in output.iterdir() if path.is_dir()]
    return folder


def run_folder_beside(output: Path, other: str) -> Path:
    [folder] = [path for path in output.iterdir() if path.is_dir() and path.name != other]
    return folder


def records_of(output: Path) -> dict[str, dict[str, Any]]:
    files = sorted((run_folder(output) / "generations").glob("*.jsonl"))
    lines = [(file.stem, json.loads(line)) for file in files for line in file.read_text().splitlines()]
    records = {f"{task}/{record['sample_id']}": record for task, record in lines}
    assert len(records) == len(lines)
    return records


def lasting(folder: Path) -> dict[str, bytes]:
    """Return what a run leaves that must not depend on how it went."""
    names = ("results.json", "leaderboard.md", "done")
    paths = [*(folder / name for name in names), *folder.glob("generations/*"), *folder.glob("scores/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def served(output: Path) -> dict[str, Any]:
    notes: dict[str, Any] = json.loads((run_folder(output) / "env.json").read_text())["engine"]["server"]
    return notes


PASSING_FAULTS = (
    refusal(429, "slow down", Retry_After="0"),
    refusal(500),
    Answer(hang=True),
    Answer(body=completion("never whole"), cut="half"),
    Answer(cut="silent"),
    Answer(body=b"<html>busy</html>"),
    Answer(body=json.dumps(completion("cut")).encode()[:40]),
    refusal(503, Retry_After="Wed, 01 May 2024 12:00:00 GMT"),
    Answer(body={"error": {"message": "an error inside of a success"}}),
    Answer(body={**completion("x"), "choices": None}),
)


def meet_each_with_one() -> Behaviour:
    """Meet each question's first request with the next one of the faults, and its second well."""
    faults = cycle(PASSING_FAULTS)
    return lambda asked: next(faults) if asked.before == 0 else echo(asked)


@pytest.mark.slow
def test_whatever_passes_is_asked_again_and_leaves_no_trace(tmp_path: Path) -> None:
    with fault_server() as server:
        args = ("backoff=0.01", "timeout=1", "max_concurrency=16")
        whole = medbench(*words(server, tmp_path / "whole", *few(limit=8), args=args))
        assert whole.returncode == 0, whole.stderr
        answered = len(server.seen)
        assert set(server.times()) == {1}
        server.forget()
        server.behave = meet_each_with_one()
        faulty = medbench(*words(server, tmp_path / "faulty", *few(limit=8), args=args))
        assert faulty.returncode == 0, faulty.stderr
        assert set(server.times()) == {2}
    assert lasting(run_folder(tmp_path / "faulty")) == lasting(run_folder(tmp_path / "whole"))
    notes = served(tmp_path / "faulty")
    assert set(notes["retries"]) == {"rate limit", "server error", "timeout", "cut off", "malformed", "overloaded"}
    assert (notes["answered"], notes["failed"], notes["requests"]) == (answered, 0, 2 * answered)
    assert notes["models"] == {"tiny-2024-05-01": answered}


STATES: Mapping[str, Answer] = {
    "filed the whole answer as a thought": Answer(body=completion("", reasoning_content="It is yes.")),
    "model `tiny` is not loaded": Answer(body={"object": "error", "message": "The model `tiny` is not loaded."}),
    "web page (HTML)": Answer(body=b"<html><title>Sign in</title></html>"),
    "list of choices is empty": Answer(body={**completion("yes"), "choices": []}),
    "HTTP 400 (Bad Request): too long": refusal(400, "too long"),
    "HTTP 422": refusal(422),
    "HTTP 501": refusal(501),
}


def test_what_does_not_pass_is_a_state_and_never_an_answer(tmp_path: Path) -> None:
    kinds = list(STATES)

    def behave(asked: Asked) -> Answer:
        return STATES[kinds[asked.number % len(kinds)]] if asked.number % 2 else echo(asked)

    with fault_server(behave) as server:
        args = (*FAST, "concurrency=1", "max_concurrency=1")
        result = medbench(*words(server, tmp_path, *few(tasks="slake-vqa,pubmedqa"), args=args))
        assert result.returncode == 0, result.stderr
        assert set(server.times()) == {1}
        asked = len(server.seen)
    records = records_of(tmp_path)
    failed = [record for record in records.values() if record["error"]]
    assert (len(records), len(failed)) == (asked, asked // 2)
    assert all(record["text"] == "" for record in failed)
    assert all(any(says in record["error"] for record in failed) for says in STATES)
    results = json.loads((run_folder(tmp_path) / "results.json").read_text())
    assert sum(task["states"]["error"] for task in results["tasks"].values()) == len(failed)
    for task in results["tasks"].values():
        for metric in (*task["paper"].values(), *task["strict"].values()):
            assert metric["n"] <= task["samples"] - task["states"]["error"]
    assert not (run_folder(tmp_path) / "done").exists()
    assert "samples failed and are counted as errors" in result.stderr


DECISIONS: Sequence[tuple[str, dict[str, Any]]] = (
    ("ok", completion("yes", reasoning_content="Is it no?")),
    ("refused", completion(None, refusal="This is against my policy.")),
    ("refused", completion("yes", "content_filter")),
    ("truncated", completion(None, "length", reasoning="Is it")),
    ("empty", completion("")),
    ("ok", {**completion("yes", None), "model": "tiny-2024-06-01"}),
)


def test_what_a_model_and_its_service_decide_counts_and_a_change_of_them_is_said_beside_the_numbers(
    tmp_path: Path,
) -> None:
    with fault_server(lambda asked: Answer(body=DECISIONS[asked.number % len(DECISIONS)][1])) as server:
        args = (*FAST, "concurrency=1", "max_concurrency=1")
        count = 2 * len(DECISIONS)
        result = medbench(*words(server, tmp_path, *few(tasks="slake-vqa", limit=count), args=args))
        assert result.returncode == 0, result.stderr
    results = json.loads((run_folder(tmp_path) / "results.json").read_text())
    states = results["tasks"]["slake-vqa"]["states"]
    expected = Counter(state for state, _ in DECISIONS)
    assert {state: states[state] for state in ("refused", "truncated", "empty", "error")} == {
        state: 2 * expected[state] for state in ("refused", "truncated", "empty", "error")
    }
    assert {record.get("reasoning", "") for record in records_of(tmp_path).values()} == {"", "Is it no?", "Is it"}
    [change] = [notice for notice in results["notices"] if "THE MODEL CHANGED" in notice]
    assert "tiny-2024-05-01 (10), tiny-2024-06-01 (2)" in change
    assert "THE MODEL CHANGED" in result.stderr
    assert served(tmp_path)["models"] == {"tiny-2024-05-01": 10, "tiny-2024-06-01": 2}


@pytest.mark.slow
def test_failed_samples_and_no_others_are_asked_by_the_same_command(tmp_path: Path) -> None:
    with fault_server(lambda asked: refusal(500) if asked.number % 3 == 0 else echo(asked)) as server:
        args = (*FAST, "attempts=1")
        first = medbench(*words(server, tmp_path, *few(), args=args))
        assert first.returncode == 0, first.stderr
        failed = sum(bool(record["error"]) for record in records_of(tmp_path).values())
        assert failed == -(-len(server.seen) // 3)
        server.forget()
        server.behave = echo
        second = medbench(*words(server, tmp_path, *few(), args=args))
        assert (second.returncode, len(server.seen)) == (0, failed), second.stderr
    assert not any(record["error"] for record in records_of(tmp_path).values())
    assert (run_folder(tmp_path) / "done").exists()
    assert served(tmp_path)["failed"] == 0


def test_an_answer_at_the_limit_is_truncated_in_the_records_and_the_states(tmp_path: Path) -> None:
    with fault_server(lambda _: Answer(body=completion("a very long", "length"))) as server:
        assert medbench(*words(server, tmp_path, *few(tasks="slake-vqa"))).returncode == 0
    assert {record["stop"] for record in records_of(tmp_path).values()} == {"length"}
    task = json.loads((run_folder(tmp_path) / "results.json").read_text())["tasks"]["slake-vqa"]
    assert task["states"]["truncated"] == task["samples"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "hint"), [(401, "key_env"), (403, "may not use this model"), (404, "/v1"), (307, "leads elsewhere")]
)
def test_what_all_would_meet_ends_the_run_and_the_same_command_goes_on(tmp_path: Path, status: int, hint: str) -> None:
    with fault_server(lambda asked: refusal(status, "no entry") if asked.number == 9 else echo(asked)) as server:
        args = (*FAST, "concurrency=2", "max_concurrency=2")
        result = medbench(*words(server, tmp_path, *few(), args=args))
        assert result.returncode == EXIT_FAILED
        said = " ".join(result.stderr.split())
        assert f"HTTP {status}" in said
        assert "no entry" in said
        assert hint in said
        assert "Traceback" not in said
        assert len(server.seen) <= 14
        kept = records_of(tmp_path)
        assert 6 <= len(kept) <= 11
        assert not any(record["error"] for record in kept.values())
        server.behave = echo
        again = medbench(*words(server, tmp_path, *few(), args=args))
        assert again.returncode == 0, again.stderr
        # At most those that were under way when it ended were asked twice.
        assert sum(times > 1 for times in server.times()) <= 3
    assert records_of(tmp_path).items() >= kept.items()


@pytest.mark.slow
def test_a_server_that_dies_at_half_ends_the_run_and_the_same_command_goes_on_when_it_is_back(tmp_path: Path) -> None:
    half = 20

    def dying(asked: Asked) -> Answer:
        if asked.number == half:
            first.die()
        return echo(asked)

    args = (*FAST, "deadline=3", "attempts=100", "concurrency=2", "max_concurrency=2")
    with fault_server(dying) as first:
        ended = medbench(*words(first, tmp_path, *few(tasks="slake-vqa,pubmedqa"), "--fail-on-error", "0", args=args))
        port = int(first.url.split(":")[2].split("/")[0])
    said = " ".join(ended.stderr.split())
    assert ended.returncode == EXIT_FAILED
    assert re.search(r"has answered nothing for \d+ s. The last: .*cannot be reached", said), said
    assert "the same command continues" in said
    assert "Traceback" not in said
    kept = records_of(tmp_path)
    assert len(kept) >= half - 2
    assert not any(record["error"] for record in kept.values())
    with fault_server(port=port) as second:
        again = medbench(*words(second, tmp_path, *few(tasks="slake-vqa,pubmedqa"), "--fail-on-error", "0", args=args))
        assert again.returncode == 0, again.stderr
        assert len(second.seen) == len(records_of(tmp_path)) - len(kept)
    with fault_server(port=port) as third:
        whole = medbench(*words(third, tmp_path / "whole", *few(tasks="slake-vqa,pubmedqa"), args=args))
        assert whole.returncode == 0, whole.stderr
    assert lasting(run_folder(tmp_path / "whole")) == lasting(run_folder_beside(tmp_path, "whole"))


def test_new_connections_notice_that_the_other_machine_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    async def noticing(event: str, told: Mapping[str, Any]) -> None:
        await noticed(event, told)
        if event == "connection.connect_tcp.complete":
            connection = told["return_value"].get_extra_info("socket")
            idle = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
            seen.append((connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE), idle))

    noticed = client._notice_its_end
    monkeypatch.setattr(client, "_notice_its_end", noticing)
    with fault_server() as server:
        assert medbench(*words(server, tmp_path, *few(limit=2, tasks="slake-vqa"))).returncode == 0
    assert seen
    assert set(seen) == {(1, 60)}


def test_no_secret_is_written_or_said(tmp_path: Path, medbench_home: Path) -> None:
    key = {"MY_SERVER_KEY": SECRET, "OPENAI_API_KEY": "another-secret-key"}
    args = (*FAST, "key_env=MY_SERVER_KEY", "attempts=2")

    def indiscreet(asked: Asked) -> Answer:
        word = asked.headers["authorization"]
        if asked.number % 3 == 0:
            return Answer(body={**completion(f"I was given {word}"), "model": word, "system_fingerprint": word})
        return refusal((400, 500)[asked.number % 2], f"cannot work with {word}", X_Echo=word)

    with fault_server(indiscreet) as server:
        mixed = medbench(*words(server, tmp_path / "mixed", *few(), args=args), env=key)
        assert mixed.returncode == 0, mixed.stderr
        assert all(asked.headers["authorization"] == f"Bearer {SECRET}" for asked in server.seen)
        server.behave = lambda asked: refusal(401, f"Incorrect key: {asked.headers['authorization']}")
        refused = medbench(*words(server, tmp_path / "refused", *few(), args=args), env=key)
        assert refused.returncode == EXIT_FAILED
        assert "Incorrect key: Bearer [key]" in refused.stderr
    said = "".join(result.stdout + result.stderr for result in (mixed, refused))
    written = [path for folder in (tmp_path, medbench_home) for path in folder.rglob("*") if path.is_file()]
    assert any("calls.jsonl" in path.name for path in written)
    for secret in key.values():
        assert secret not in said
        assert [path for path in written if secret.encode() in path.read_bytes()] == []
    texts = {record["text"] for record in records_of(tmp_path / "mixed").values()}
    assert texts == {"", "I was given Bearer [key]"}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("openai:tiny", "needs a model's name and a server's base URL"),
        (f"openai:tiny@https://me:{SECRET}@example.org/v1", "--model holds a password or a key"),
        ("openai:tiny@https://example.org/v1", "MY_KEY is not set"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error_and_leaves_nothing(tmp_path: Path, model: str, says: str) -> None:
    result = medbench("run", "--model", model, "--output-dir", tmp_path, "--model-arg", "key_env=MY_KEY")
    assert result.returncode == EXIT_USAGE
    assert says in " ".join(result.stderr.split())
    assert SECRET not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    result = medbench(*words("http://127.0.0.1:9/v1", tmp_path, *few()))
    assert result.returncode == EXIT_FAILED
    assert "cannot be reached" in result.stderr
    assert "Is the server running" in result.stderr
    assert not list(tmp_path.rglob("*.jsonl"))


def test_data_under_an_agreement_are_not_sent_elsewhere(small_data: Path, tmp_path: Path) -> None:
    command = words("https://server.invalid/v1", tmp_path, "--tasks", "mimic-cxr,slake-vqa", "--data-dir", small_data)
    result = medbench(*command, env={"OPENAI_API_KEY": SECRET})
    assert result.returncode == EXIT_USAGE
    said = " ".join(result.stderr.split())
    assert "The data of mimic-cxr are under a signed agreement and must not be sent to server.invalid" in said
    # Nothing went there.
    assert "SENT ELSEWHERE" not in said


def test_who_sends_data_elsewhere_is_told_and_so_are_readers_of_the_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for address, elsewhere in (("https://server.invalid/v1", True), ("http://127.0.0.1:9/v1", False)):
        model = choose_model(f"openai:any@{address}", {})
        adapter = model.entry.load(LoadOptions(variant=model.variant, arguments=model.arguments))
        told = [notice for notice in adapter.notices if "SENT ELSEWHERE" in notice]
        assert bool(told) == elsewhere
        assert all("server.invalid" in notice and SECRET not in notice for notice in told)


@pytest.mark.slow
def test_questions_of_one_picture_follow_one_another_and_begin_alike(tmp_path: Path) -> None:
    with fault_server() as server:
        args = (*FAST, "concurrency=1", "max_concurrency=1", "system=You are brief.")
        assert medbench(*words(server, tmp_path, *few(limit=30), args=args)).returncode == 0
        seen = server.seen
    pictures = [key for key, _ in groupby(asked.pictures for asked in seen) if key]
    assert len(pictures) == len(set(pictures))
    assert len(pictures) < sum(bool(asked.pictures) for asked in seen) / 2
    for key, group in groupby(seen, lambda asked: asked.pictures):
        bodies = [json.dumps(asked.body["messages"]) for asked in group]
        if key:
            assert len({body[: body.index(key[-1]) + len(key[-1])] for body in bodies}) == 1
    assert all(asked.body["messages"][0] == {"role": "system", "content": "You are brief."} for asked in seen)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_answered_and_ends_the_same(tmp_path: Path, how: signal.Signals) -> None:
    with fault_server(seconds=0.02) as server:
        args = (*FAST, "concurrency=4", "max_concurrency=4", "price_in=1", "price_out=2")
        whole, broken = tmp_path / "whole", tmp_path / "broken"
        assert medbench(*words(server, whole, *few(), args=args)).returncode == 0
        samples = len(server.seen)
        server.forget()
        process = start_medbench(*words(server, broken, *few(), args=args))
        deadline = time.monotonic() + 60
        while len(server.seen) < 20:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(how)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == EXIT_INTERRUPTED, errors
        assert "the same command continues" in errors
        assert "Traceback" not in errors
        asked_before = len(server.seen)
        kept = records_of(broken)
        # Not kept is what was under way, and what came while the interrupted write was going on.
        assert 8 <= len(kept) < samples
        assert asked_before - len(kept) <= 16
        result = medbench(*words(server, broken, *few(), args=args))
        assert (result.returncode, "Continuing:" in result.stderr) == (0, True)
        assert len(server.seen) == asked_before + samples - len(kept)
    assert lasting(run_folder(broken)) == lasting(run_folder(whole))
    once, twice = served(whole), served(broken)
    assert (once["answered"], twice["answered"], twice["failed"]) == (samples, samples, 0)
    # Both parts are counted, and so is an answer that had to be asked for again.
    most = once["cost"] * (asked_before + samples - len(kept)) / samples
    assert once["cost"] <= twice["cost"] <= most * 1.0001


def test_a_hanging_server_does_not_hold_back_an_interrupt(tmp_path: Path) -> None:
    with fault_server(lambda _: Answer(hang=True)) as server:
        process = start_medbench(*words(server, tmp_path, *few(), args=("timeout=600",)))
        deadline = time.monotonic() + 60
        while not server.seen:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == EXIT_INTERRUPTED


def test_what_answers_took_is_counted(tmp_path: Path) -> None:
    args = (*FAST, "price_in=10", "price_out=100", "price_cached=1")
    with fault_server(failing_first(refusal(500), then=lambda _: Answer(body=completion("yes it is")))) as server:
        result = medbench(*words(server, tmp_path, *few(tasks="slake-vqa"), args=args))
        assert result.returncode == 0, result.stderr
    calls = [json.loads(line) for line in (run_folder(tmp_path) / "calls.jsonl").read_text().splitlines()]
    each = (60 * 10 + 40 * 1 + 4 * 100) / 1e6
    assert [call["cost"] for call in calls] == pytest.approx([each] * 20)
    assert {(call["attempts"], call["prompt_tokens"], call["cached_tokens"]) for call in calls} == {(2, 100, 40)}
    notes = served(tmp_path)
    assert notes["cost"] == pytest.approx(20 * each)
    assert (notes["prompt_tokens"], notes["output_tokens"], notes["cached_tokens"]) == (2000, 80, 800)
    assert set(notes["latency_seconds"]) == {"median", "p95", "longest"}
    for record in records_of(tmp_path).values():
        assert record["served"] == {"finish_reason": "stop", "model": "tiny-2024-05-01", "scaled": [], "withheld": ""}
        assert (record["prompt_tokens"], record["output_tokens"]) == (100, 4)
    assert re.search(r"Server: 20 answered, 0 failed, 40 requests, 80 tokens written", result.stderr)


def test_pictures_that_were_made_smaller_are_in_the_records(tmp_path: Path) -> None:
    with fault_server() as server:
        args = (*FAST, "max_pixels=400")
        assert medbench(*words(server, tmp_path, *few(tasks="slake-vqa"), args=args)).returncode == 0
    for record in records_of(tmp_path).values():
        [scaled] = record["served"]["scaled"]
        assert scaled["original"][0] * scaled["original"][1] > 400
        assert 1 <= scaled["sent"][0] * scaled["sent"][1] <= 400


@pytest.mark.parametrize("space", ["permille", "pixels"])
def test_a_model_that_draws_boxes_as_told_is_right(small_data: Path, tmp_path: Path, space: str) -> None:
    spec, boxes = get_task("sa-med2d-rec"), SPACES[space]
    samples = load_prepared(small_data, spec.name).samples("test")
    right = {
        question_of(sample, spec, boxes): boxes.write(sample.box, sample.image_size)
        for sample in samples
        if sample.box and sample.image_size
    }
    with fault_server(lambda asked: Answer(body=completion(f"Here: {right[asked.question]}"))) as server:
        args = (*FAST, f"boxes={space}")
        result = medbench(*words(server, tmp_path, "--tasks", spec.name, "--data-dir", small_data, args=args))
        assert result.returncode == 0, result.stderr
    metrics = json.loads((run_folder(tmp_path) / "results.json").read_text())["tasks"][spec.name]["strict"]
    assert metrics["iou"]["value"] == pytest.approx(metrics["iou"]["ceiling"])
    assert metrics["iou"]["value"] > 0.9


# Concurrency, over real sockets


def test_the_declared_boxes_are_the_default() -> None:
    assert BOXES.name == "permille"
