"""Several servers behind one model's name: what must be the same, who answers, and what a run is known by."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from subprocess import CompletedProcess
from threading import Thread
from typing import Any

import pytest
from command_line import medbench
from fault_server import Answer, Asked, FaultServer, completion, echo, fault_server

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai import client
from medbench.adapters.openai.client import ServedModel, load_served
from medbench.adapters.openai.entry import read_address
from medbench.tasks.foundation.errors import RunError, UsageError

Servers = Callable[[int], list[FaultServer]]
FAST = ("backoff=0.001", "timeout=5", "concurrency=2", "max_concurrency=4")


def models(**told: object) -> dict[str, Any]:
    first = {"id": "tiny", "owned_by": "vllm", "root": "/models/tiny", "max_model_len": 4096}
    return {"/v1/models": {"data": [{**first, **told}]}, "/version": {"version": "0.11.0"}}


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setattr(client, "_WAITS", (0.0,))
    with ExitStack() as running:

        def start(count: int) -> list[FaultServer]:
            found = [running.enter_context(fault_server()) for _ in range(count)]
            for one in found:
                one.told = models()
            return found

        yield start


def served(*urls: str, **arguments: str) -> ServedModel:
    first, *more = urls
    options = LoadOptions(variant=f"tiny@{first}", arguments={"servers": ",".join(more), **arguments})
    adapter = load_served(options)
    assert isinstance(adapter, ServedModel)
    return adapter


def run(output: Path, first: str, *more: str, tasks: str = "slake-vqa", limit: int = 20) -> "CompletedProcess[str]":
    several = (f"servers={','.join(more)}",) if more else ()
    given = [word for one in (*FAST, *several) for word in ("--model-arg", one)]
    return medbench(
        "run", "--model", f"openai:tiny@{first}", "--tasks", tasks, "--limit", limit, "--output-dir", output,
        *given,
    )  # fmt: skip


def notes_of(output: Path) -> Mapping[str, Any]:
    [environment] = output.glob("*/env.json")
    found: Mapping[str, Any] = json.loads(environment.read_text())["engine"]["server"]
    return found


def nobody() -> str:
    """Return an address at which no server is any more."""
    with fault_server() as gone:
        return gone.url


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (models(root="/models/other"), "root=/models/other"),
        (models(max_model_len=8192), "max_model_len=8192"),
        (models(id="other"), "a vllm server of tiny root=/models/tiny"),
        (models(owned_by="sglang"), "a sglang server of tiny"),
        ({**models(), "/version": {"version": "0.12.0"}}, "vllm=0.12.0"),
        ({}, "a compatible server of no model"),
    ],
)
def test_servers_that_tell_different_things_are_refused(servers: Servers, told: dict[str, Any], words: str) -> None:
    first, second = servers(2)
    second.told = told
    with pytest.raises(RunError, match="do not serve the same") as caught:
        _ = served(first.url, second.url).made_of
    assert words in caught.value.problem
    assert first.url.removeprefix("http://").removesuffix("/v1") in caught.value.problem


def test_two_that_tell_nothing_are_taken_at_the_users_word(servers: Servers) -> None:
    first, second = servers(2)
    first.told = second.told = {}
    assert dict(served(first.url, second.url).made_of) == {}


def test_a_server_that_is_not_there_is_said_and_left_out(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    [there] = servers(1)
    adapter = served(nobody(), there.url)
    assert adapter.made_of["profile"] == "vllm"
    assert [one.host for one in adapter.servers] == [read_address(f"m@{there.url}").server]
    assert "NOT THERE" in capsys.readouterr().err
    with pytest.raises(RunError, match="cannot be reached"):
        _ = served(nobody(), nobody()).made_of


def test_addresses_that_are_none_or_twice_the_same_are_refused() -> None:
    with pytest.raises(UsageError, match="named twice"):
        served("http://127.0.0.1:1/v1", "http://127.0.0.1:1")
    with pytest.raises(UsageError, match="no http or https URL"):
        served("http://127.0.0.1:1/v1", "http://127.0.0.1:0/v1")
    with pytest.raises(UsageError, match="one base URL") as caught:
        served("http://127.0.0.1:1/v1,http://127.0.0.1:2/v1")
    assert "--model openai:tiny@http://127.0.0.1:1/v1 --model-arg servers=http://127.0.0.1:2/v1" in caught.value.hint


def test_every_server_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    notices = served("http://127.0.0.1:1/v1", "http://10.0.0.7:2/v1", "http://10.0.0.8:3/v1").notices
    assert [("10.0.0.7:2" in notice, "10.0.0.8:3" in notice) for notice in notices] == [(True, False), (False, True)]


def test_several_answer_a_run_and_each_picture_is_asked_of_one(servers: Servers, tmp_path: Path) -> None:
    first, second = servers(2)
    first.seconds = second.seconds = 0.02
    result = run(tmp_path / "a", first.url, second.url, tasks="slake-vqa,slake-reg,pubmedqa")
    assert result.returncode == 0, result.stderr
    assert len(first.seen) + len(second.seen) == 60
    assert min(len(first.seen), len(second.seen)) > 10
    pictures = [{one for asked in server.seen for one in asked.pictures} for server in (first, second)]
    assert len(pictures[0] & pictures[1]) <= 2
    assert "2 servers: 60 answered" in result.stderr
    assert "Of 6,000 prompt tokens the server had 2,400 (40 %) in its cache." in result.stderr
    assert sum(one["answered"] for one in notes_of(tmp_path / "a")["servers"]) == 60


def lasting(output: Path) -> dict[str, bytes]:
    """Return what a run leaves that must not depend on who answered."""
    [folder] = [path for path in output.iterdir() if path.is_dir()]
    paths = [folder / "results.json", *folder.glob("generations/*"), *folder.glob("scores/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_a_server_that_ends_in_the_middle_leaves_the_same_run(servers: Servers, tmp_path: Path) -> None:
    [stays] = servers(1)
    stays.seconds = 0.01
    with ExitStack() as running:
        ends = running.enter_context(fault_server(seconds=0.01))
        ends.told = models()

        def behave(asked: Asked) -> Answer:
            if asked.number < 10:
                return echo(asked)
            # Connections that are open end one by one, new ones find nobody.
            Thread(target=running.close).start()
            return Answer(cut="silent")

        ends.behave = behave
        result = run(tmp_path / "several", stays.url, ends.url, limit=40)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("GONE") == 1
    assert 10 < len(ends.seen) < 20
    assert run(tmp_path / "one", stays.url, limit=40).returncode == 0
    assert lasting(tmp_path / "several") == lasting(tmp_path / "one")


@pytest.mark.slow
def test_a_run_goes_on_with_other_servers(servers: Servers, tmp_path: Path) -> None:
    first, second, third = servers(3)
    no_key = Answer(status=401, body={"error": "key"})
    second.behave = lambda asked: echo(asked) if asked.number < 5 else no_key
    assert run(tmp_path, first.url, second.url).returncode == 1
    before = len(first.seen) + len(second.seen)
    whole = run(tmp_path, first.url, third.url, nobody())
    assert whole.returncode == 0, whole.stderr
    assert "Continuing:" in whole.stderr
    assert 5 < before < 20
    assert third.seen
    assert len(list(tmp_path.glob("*/done"))) == 1


def test_nothing_in_the_cache_of_vllm_comes_with_a_hint(servers: Servers, tmp_path: Path) -> None:
    [server] = servers(1)
    plain = completion("yes")
    del plain["usage"]["prompt_tokens_details"]
    server.behave = lambda _: Answer(body=plain)
    result = run(tmp_path, server.url, limit=3)
    told = " ".join(result.stderr.split())
    assert "Of 300 prompt tokens the server had none in its cache, or does not say. Serve with" in told
    assert "--enable-prompt-tokens-details" in told
    assert "--block-size 32" in told
