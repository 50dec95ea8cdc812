"""What a server's answers and failures mean."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2
import pytest
from fault_server import chat, completion
from pydantic import SecretStr

from medbench.adapters.openai.entry import read_address, read_options, without_key
from medbench.adapters.openai.failures import failure_of, retry_after
from medbench.adapters.openai.reading import Reading, parse_json, read_reply
from medbench.adapters.remote import Reply, RetryableError, Usage
from medbench.tasks.foundation.errors import RunError, SampleError

SECRET = "sk-very-secret-0123456789"


def read(document: object, **reading: Any) -> Reply:
    return read_reply(document, chat(), Reading(**reading))


def error_of(document: object) -> str:
    reply = read(document)
    assert reply.generation is None
    return reply.error


def test_an_answer_is_read_with_what_it_took() -> None:
    reply = read(completion(" yes it is "))
    assert reply.generation is not None
    assert (reply.generation.text, reply.generation.stop) == (" yes it is ", "eos")
    assert (reply.generation.prompt_tokens, reply.generation.output_tokens) == (100, 4)
    assert reply.generation.served.model == "tiny-2024-05-01"
    assert (reply.usage.cached_tokens, reply.usage.cost, reply.error) == (40, None, "")


def test_an_answer_at_the_limit_is_truncated() -> None:
    reply = read(completion("a long", "length"))
    assert reply.generation is not None
    assert (reply.generation.stop, reply.generation.served.finish_reason) == ("length", "length")


def test_an_empty_answer_is_an_answer() -> None:
    reply = read(completion(""))
    assert reply.generation is not None
    assert reply.generation.text == ""


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (completion(None, reasoning_content="So it is yes."), "filed the whole answer as a thought"),
        (completion("", reasoning_content="So it is yes."), "filed the whole answer as a thought"),
        (completion(" \n", None, reasoning="So it is yes."), "13 characters"),
        ({**completion("x"), "choices": []}, "list of choices is empty"),
    ],
)
def test_what_is_no_answer_says_so(document: object, says: str) -> None:
    assert says in error_of(document)


@pytest.mark.parametrize(
    "document",
    [
        [], "text", 3, None, {}, {"choices": None}, {"choices": [3]}, {"choices": [{}]}, {"choices": [{"message": 1}]},
        completion("half", "abort"), completion(None, None), completion("", "mystery"),
        {"choices": [{"message": {"content": 5}, "finish_reason": "stop"}]},
    ],
)  # fmt: skip
def test_what_is_not_understood_is_asked_again(document: object) -> None:
    with pytest.raises(RetryableError):
        read(document)


@pytest.mark.parametrize("content", [b"", b"{", b"<html>", b"[" * 100_000, b"\xff\xfe"])
def test_what_is_no_json_is_asked_again(content: bytes) -> None:
    with pytest.raises(RetryableError, match="not JSON"):
        parse_json(content, Reading())


@pytest.mark.parametrize(
    "usage", [None, 3, [], {}, {"prompt_tokens": "x", "completion_tokens": -1}, {"prompt_tokens": True}]
)
def test_counts_that_make_no_sense_count_nothing(usage: object) -> None:
    reply = read({**completion("a"), "usage": usage})
    assert (reply.usage.prompt_tokens, reply.usage.output_tokens) == (0, 0)
    assert reply.generation is not None


def test_texts_of_a_server_can_be_written_to_a_file() -> None:
    document = json.loads(json.dumps(completion("a\ud800b\0c")))
    reply = read({**document, "model": 7, "system_fingerprint": ["x"]})
    assert reply.generation is not None
    assert reply.generation.text.encode() == "a\ufffdb\0c".encode()
    assert (reply.generation.served.model, reply.usage.fingerprint) == ("", "")


def test_parts_of_text_are_one_text() -> None:
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]
    document = completion("x")
    document["choices"][0]["message"]["content"] = parts
    reply = read(document)
    assert reply.generation is not None
    assert reply.generation.text == "yes"


def test_an_answer_is_cut_where_the_server_was_not_told_to() -> None:
    reply = read(completion("yes ### no\nmaybe", "length"), stop=("\n", "###"))
    assert reply.generation is not None
    assert (reply.generation.text, reply.generation.stop) == ("yes ", "stop")


def test_a_server_may_say_that_it_cut_itself() -> None:
    document = completion("yes")
    document["choices"][0]["stop_reason"] = "###"
    told = read(document).generation
    document["choices"][0]["stop_reason"] = 128001
    ended = read(document).generation
    assert told is not None
    assert ended is not None
    assert (told.stop, ended.stop) == ("stop", "eos")


def cost_of(**given: str) -> Callable[[Usage], float | None]:
    return read_options(given, read_address("m@http://127.0.0.1:8000/v1")).cost_of


def test_the_cost_counts_what_was_remembered_apart() -> None:
    prices = cost_of(price_in="2", price_out="10", price_cached="0.5")
    reply = read(completion("a b c"), cost_of=prices)
    assert reply.usage.cost == pytest.approx((60 * 2 + 40 * 0.5 + 4 * 10) / 1e6)
    filtered = read(completion("a b c", "content_filter"), cost_of=prices)
    assert filtered.generation is not None
    assert filtered.usage.cost == reply.usage.cost
    assert read(completion("a"), cost_of=cost_of(price_in="2")).usage.cost == pytest.approx(100 * 2 / 1e6)


# Failures


def failure(status: int, body: object = None, **headers: str) -> Exception:
    content = body if isinstance(body, bytes) else json.dumps(body or {"error": {"message": "why not"}}).encode()
    names = {name.replace("_", "-"): text for name, text in headers.items()}
    reading = Reading(clean=partial(without_key, SecretStr(SECRET)))
    return failure_of(httpx2.Response(status, headers=names, content=content), "127.0.0.1:8000", reading, chat())


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (408, "timeout"), (409, "server error"), (425, "server error"), (429, "rate limit"), (500, "server error"),
        (502, "server error"), (503, "overloaded"), (504, "timeout"), (520, "server error"), (529, "overloaded"),
    ],
)  # fmt: skip
def test_failures_that_pass_are_asked_again(status: int, reason: str) -> None:
    error = failure(status)
    assert isinstance(error, RetryableError)
    assert (error.reason, error.retry_after) == (reason, None)
    assert "why not" in str(error)


@pytest.mark.parametrize("status", [301, 302, 307, 401, 402, 403, 404, 405, 407, 410, 511])
def test_failures_that_all_would_meet_end_the_run(status: int) -> None:
    error = failure(status)
    assert isinstance(error, RunError)
    assert f"HTTP {status}" in error.problem
    assert error.hint


@pytest.mark.parametrize("status", [400, 413, 415, 422, 501])
def test_failures_of_one_question_stay_its_own(status: int) -> None:
    assert isinstance(failure(status), SampleError)


def test_an_empty_account_is_no_haste() -> None:
    assert isinstance(failure(429, {"error": {"message": "quota", "code": "insufficient_quota"}}), RunError)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"error": {"message": "too  long\nby far"}}, "too long by far"),
        ({"error": "plain"}, "plain"),
        ({"detail": [{"loc": ["body"], "msg": "field required"}]}, "field required"),
        ({"detail": "Unexpected fields in the request"}, "Unexpected fields"),
        ({"object": "error", "message": "vllm says"}, "vllm says"),
        ([{"error": {"message": "in a list"}}], "in a list"),
        ({"error": {"message": "x" * 5000}}, "x" * 300 + "..."),
        ({"error": {"message": f"bad key {SECRET}"}}, "bad key [key]"),
    ],
)
def test_what_a_server_says_is_found_and_bounded(body: object, says: str) -> None:
    problem = str(failure(400, body))
    assert says in problem
    assert SECRET not in problem
    assert len(problem) < 400


@pytest.mark.parametrize("body", [b"<html><body>nginx</body></html>", b"", b"\xff", b"null"])
def test_a_body_that_says_nothing_is_left_out(body: bytes) -> None:
    assert (
        str(failure(500, body, content_type="text/html")) == "127.0.0.1:8000 answers HTTP 500 (Internal Server Error)"
    )


NOW = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 0.5 "}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "Wed, 01 May 2024 12:00:09 GMT"}, 9.0),
        ({"retry-after": "Wed, 01 May 2024 11:00:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 01 May 2024 13:00:09 GMT", "date": "Wed, 01 May 2024 13:00:04 GMT"}, 5.0),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "Wed, 99 May 2024 13:00:09 GMT"}, None),
    ],
)
def test_a_server_says_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers, NOW) == seconds
