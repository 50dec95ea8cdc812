"""What today's servers say otherwise than the protocol has it: reasons, thoughts, refusals, streams."""

import json
import random
from collections import Counter
from functools import partial
from typing import Any

import httpx2
import pytest
from fault_server import chat, completion
from pydantic import SecretStr

from medbench.adapters.base import plain_answer
from medbench.adapters.openai.entry import without_key
from medbench.adapters.openai.failures import failure_of, status_within
from medbench.adapters.openai.reading import MOST_REASONING, Reading, assembled, ending_of, is_stream, read_reply
from medbench.adapters.remote import Reply, RetryableError, ServedGeneration
from medbench.harness.rundir import GenerationRecord
from medbench.harness.score import predict
from medbench.tasks.answers.thoughts import split_thought
from medbench.tasks.catalog import get_task
from medbench.tasks.sample import Sample

SECRET = "sk-very-secret-0123456789"
LIMIT = 10


def said(document: object, limit: int = LIMIT) -> ServedGeneration:
    reply = read_reply(document, chat(limit=limit), Reading(clean=partial(without_key, SecretStr(SECRET))))
    assert reply.generation is not None, reply.error
    return reply.generation


def state(document: object) -> str:
    """Return the state that an answer gets when it is scored."""
    generation = said(document)
    record = GenerationRecord(
        run="r", sample_id="q1", text=generation.text, stop=generation.stop, reasoning=generation.reasoning,
        thought_tokens=generation.thought_tokens, served=generation.served,
    )  # fmt: skip
    sample = Sample(
        sample_id="q1", task="slake-vqa", split="test", inputs={"question": "?"}, reference="yes", groups={"image": "1"}
    )
    return predict(record, sample, get_task("slake-vqa"), plain_answer).state


def with_usage(document: dict[str, Any], **usage: Any) -> dict[str, Any]:
    return {**document, "usage": {**document["usage"], **usage}}


def without_reason() -> dict[str, Any]:
    document = completion("Yes")
    del document["choices"][0]["finish_reason"]
    return document


# Why an answer ended


@pytest.mark.parametrize(
    ("reason", "ending"),
    [
        ("stop", "eos"), ("STOP", "eos"), ("end_turn", "eos"), ("eos_token", "eos"), ("done", "eos"),
        ("finished", "eos"), ("FinishReason.STOP", "eos"), ("FINISH_REASON_STOP", "eos"), ("End Turn", "eos"),
        ("stop_sequence", "stop"), ("stop-string", "stop"), ("length", "length"), ("max_tokens", "length"),
        ("MAX_TOKENS", "length"), ("FinishReason.MAX_TOKENS", "length"), ("model_length", "length"),
        ("max_output_tokens", "length"), ("max_tokens_reached", "length"), ("content_filter", "filtered"),
        ("SAFETY", "filtered"), ("content_filter: HATE", "filtered"), ("refusal", "filtered"),
        ("sensitive", "filtered"), ("error", "broken off"), ("abort", "broken off"), ("network_error", "broken off"),
        ("insufficient_system_resource", "broken off"), ("client_disconnected", "broken off"), ("tool_calls", "tool"),
        ("function_call", "tool"), ("", "unsaid"), (" ", "unsaid"), ("null", "unsaid"), ("mystery", "unsaid"),
    ],
)  # fmt: skip
def test_the_reasons_of_many_servers_mean_a_few_things(reason: str, ending: str) -> None:
    assert ending_of(reason) == ending


@pytest.mark.parametrize("reason", [None, "", "null", "mystery", "end_turn", "STOP", "tool_calls"])
def test_a_whole_answer_is_one_whatever_is_said_of_its_end(reason: str | None) -> None:
    generation = said(completion("Yes", reason))
    assert (generation.text, generation.stop, generation.served.withheld) == ("Yes", "eos", "")
    assert generation.served.finish_reason == (reason or "")
    assert said(without_reason()).text == "Yes"


@pytest.mark.parametrize("reason", [None, "mystery", "max_tokens"])
def test_an_answer_of_as_many_tokens_as_allowed_was_cut_off(reason: str | None) -> None:
    document = with_usage(completion("a very long", reason), completion_tokens=LIMIT)
    assert said(document).stop == "length"
    assert said(with_usage(completion("whole"), completion_tokens=LIMIT)).stop == "eos"


# Thoughts

YES = {"type": "text", "text": "Yes"}


@pytest.mark.parametrize(
    "message",
    [
        {"reasoning_content": "Is it no?"},
        {"reasoning": "Is it no?", "reasoning_content": None},
        {"reasoning": "Is it no?", "reasoning_content": "", "reasoning_details": [{"type": "x", "text": "!"}]},
        {"reasoning_content": ["Is it ", "no?"]},
        {"reasoning": {"content": "Is it no?"}},
        {"reasoning_details": [{"type": "reasoning.text", "text": part} for part in ("Is it ", "no?")]},
        {"reasoning_details": [{"type": "x.summary", "summary": "Is it no?"}, {"type": "x.encrypted", "data": "x"}]},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Is it no?", "signature": "abc"}]},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "Is it no?"}]}, YES]},
        {"content": [{"type": "reasoning", "reasoning": "Is it no?"}, {"type": "output_text", "text": "Yes"}]},
        {"content": [{"text": "Is it no?", "thought": True}, "Yes"]},
    ],
)
def test_thoughts_that_are_filed_apart_are_kept_apart(message: dict[str, Any]) -> None:
    document = completion("Yes")
    document["choices"][0]["message"].update(message)
    generation = said(document)
    assert (generation.text, generation.reasoning) == ("Yes", "Is it no?")


@pytest.mark.parametrize("filed", [None, "", 5, [], {}, [5, None], {"signature": "x"}, [[[[[[["deep"]]]]]]]])
def test_a_field_without_thoughts_holds_none(filed: object) -> None:
    assert said(completion("Yes", reasoning_content=filed)).reasoning == ""


def test_thoughts_in_the_text_stay_there_and_are_taken_out_when_it_is_scored() -> None:
    generation = said(completion("<think>Is it no?</think>Yes"))
    assert (generation.text, generation.reasoning) == ("<think>Is it no?</think>Yes", "")
    assert split_thought(generation.text).answer == "Yes"


def test_thoughts_are_bounded_and_can_be_written_and_hold_no_secret() -> None:
    document = json.loads(json.dumps(completion("Yes", reasoning=f"\ud800 {SECRET} " + "x" * (MOST_REASONING + 5))))
    reasoning = said(document).reasoning
    assert reasoning.startswith("\ufffd [key] xxx")
    assert len(reasoning.encode()) <= MOST_REASONING + 10


@pytest.mark.parametrize("text", ["", None])
def test_a_thought_that_was_cut_off_is_a_truncated_answer(text: str | None) -> None:
    document = completion(text, "length", reasoning_content="Let me look at the lungs")
    generation = said(document)
    assert (generation.text, generation.stop, generation.reasoning) == ("", "length", "Let me look at the lungs")
    assert state(document) == "truncated"
    hidden = with_usage(
        completion(text, "length"), completion_tokens_details={"reasoning_tokens": 4}, completion_tokens=4
    )
    assert state(hidden) == "truncated"


@pytest.mark.parametrize(
    ("usage", "thought", "written"),
    [
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 6}}, 6, 9),
        ({"completion_tokens": 9, "reasoning_tokens": 6}, 6, 9),
        ({"completion_tokens": 9, "completion_tokens_details": None}, 0, 9),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": -1}}, 0, 9),
        ({"completion_tokens": 9, "completion_tokens_details": {"reasoning_tokens": 12}}, 9, 9),
        # Counted beside what was written, as the total says.
        ({"completion_tokens": 3, "reasoning_tokens": 6, "total_tokens": 109}, 6, 9),
    ],
)
def test_tokens_of_thoughts_are_counted(usage: dict[str, Any], thought: int, written: int) -> None:
    generation = said(with_usage(completion("Yes"), **usage))
    assert (generation.thought_tokens, generation.output_tokens) == (thought, written)


# Silence, refusals, filters: decisions of the model and its service, which must not pay


@pytest.mark.parametrize("text", ["", None])
def test_a_model_that_says_nothing_has_given_an_empty_answer(text: str | None) -> None:
    assert state(completion(text)) == "empty"


def test_a_refusal_is_the_models_answer() -> None:
    refusal = completion(None, refusal="This is against my policy.")
    assert (said(refusal).text, said(refusal).served.withheld) == ("This is against my policy.", "refusal")
    assert state(refusal) == "refused"
    parts = completion(None)
    parts["choices"][0]["message"]["content"] = [{"type": "refusal", "refusal": "This is against my policy."}]
    assert state(parts) == "refused"


@pytest.mark.parametrize("reason", ["content_filter", "SAFETY", "content_filter: HATE"])
@pytest.mark.parametrize("text", [None, "", "Yes"])
def test_an_answer_that_a_filter_held_back_is_refused_even_where_some_came_through(text: str, reason: str) -> None:
    document = completion(text, reason)
    assert (said(document).text, said(document).served.withheld) == (text or "", "content filter")
    assert state(document) == "refused"


def test_a_filter_may_leave_no_message_at_all() -> None:
    document = completion(None, "content_filter")
    document["choices"][0]["message"] = None
    assert state(document) == "refused"


def test_what_a_server_says_of_an_answer_that_it_broke_off_is_said() -> None:
    document = completion("half", "error")
    document["choices"][0]["error"] = {"message": "the upstream went away", "code": 502}
    with pytest.raises(RetryableError, match="the upstream went away"):
        said(document)


def test_a_call_of_a_tool_that_nobody_offered_is_no_answer() -> None:
    document = completion(None, "tool_calls", tool_calls=[{"id": 1}])
    assert (said(document).text, said(document).served.withheld, state(document)) == ("", "tool call", "empty")


# Streams


def events(*chunks: object, end: str = "data: [DONE]\n\n", line: str = "\n") -> bytes:
    text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end
    return text.replace("\n", line).encode()


def chunk(finish: str | None = None, index: int = 0, **delta: Any) -> dict[str, Any]:
    return {"model": "tiny", "choices": [{"index": index, "delta": delta, "finish_reason": finish}]}


COUNTS = {"model": "tiny", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
PIECES = (chunk(role="assistant", content=""), chunk(content="Y"), chunk(content="es"), chunk("stop"), COUNTS)


def streamed(content: bytes) -> Reply:
    assert is_stream(content)
    return read_reply(assembled(content), chat(limit=LIMIT), Reading())


@pytest.mark.parametrize(
    "content",
    [
        events(*PIECES),
        events(*PIECES, line="\r\n"),
        events(*PIECES, line="\r"),
        b"\xef\xbb\xbf: begins\n\n" + events(*PIECES),
        b"event: message\nid: 7\n" + events(*PIECES, {"type": "ping"}),
        events(*PIECES, end=""),
        events(*PIECES, end="data: [DONE]"),
        events(*PIECES[:4], {**COUNTS, "choices": None}),
        events(chunk(content="No", index=1), *PIECES),
        events({"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}, COUNTS),
    ],
)  # fmt: skip
def test_a_stream_that_nobody_asked_for_is_the_answer_that_it_makes_up(content: bytes) -> None:
    reply = streamed(content)
    assert reply.generation is not None
    assert (reply.generation.text, reply.generation.stop, reply.generation.served.model) == ("Yes", "eos", "tiny")
    assert (reply.usage.prompt_tokens, reply.usage.output_tokens) == (5, 2)


def test_what_a_stream_says_beside_the_answer_is_kept() -> None:
    pieces = (
        chunk(reasoning_content="Is it"), chunk(reasoning_content=" no?"),
        chunk(content=[{"type": "thinking", "thinking": "not read twice"}]), chunk(content="A long"), chunk("length"),
    )  # fmt: skip
    reply = streamed(events({**pieces[0], "system_fingerprint": "fp_1"}, *pieces[1:]))
    assert reply.generation is not None
    assert (reply.generation.text, reply.generation.reasoning, reply.generation.stop) == (
        "A long",
        "Is it no?",
        "length",
    )
    assert reply.usage.fingerprint == "fp_1"


def test_a_stream_without_a_reason_for_its_end_is_whole_if_it_says_that_it_ended() -> None:
    assert streamed(events(*PIECES[:3])).generation is not None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (events(*PIECES[:3], end=""), "cut off"),
        (events(*PIECES[:3], end='data: {"choices": [{"del'), "malformed"),
        (b"data: no JSON\n\n", "malformed"),
        (b"data:\n\n", "malformed"),
        (b": alone\n\n", "cut off"),
        (events(), "malformed"),
        (events(3, [], "x", {"choices": [5, {"delta": 7}]}), "malformed"),
    ],
)
def test_a_stream_that_broke_off_is_asked_again(content: bytes, reason: str) -> None:
    with pytest.raises(RetryableError) as caught:
        streamed(content)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "failure",
    [
        {"error": {"message": "overloaded"}},
        {"object": "error", "message": "overloaded"},
        {**PIECES[1], "error": "overloaded"},
    ],
)
def test_an_error_in_the_midst_of_a_stream_is_what_it_says(failure: dict[str, Any]) -> None:
    document = assembled(events(*PIECES[:2], failure))
    assert "choices" not in document
    assert "overloaded" in json.dumps(document)


@pytest.mark.parametrize("content", [b'{"choices": []}', b"<html>", b"", b"database: 3", b"[1]"])
def test_what_is_no_stream_is_not_taken_for_one(content: bytes) -> None:
    assert not is_stream(content, "application/json")
    assert is_stream(content, "text/event-stream; charset=utf-8")


# Anything else

NAMES = (
    "choices", "message", "content", "finish_reason", "error", "code", "usage", "completion_tokens", "delta", "index",
    "type", "text", "thinking", "reasoning", "refusal", "tool_calls", "detail", "success", "base_resp", "status_code",
)  # fmt: skip
VALUES = (None, True, False, 0, 404, 40301, -1, 10**30, 1.5, "", "stop", "length", "Yes", "\ud800", "429", "\u00b2")


def anything(draw: random.Random, depth: int = 4) -> Any:  # noqa: ANN401 - any JSON
    kind = draw.random() if depth else 0.0
    if kind < 0.35:
        return draw.choice(VALUES)
    if kind < 0.55:
        return [anything(draw, depth - 1) for _ in range(draw.randint(0, 3))]
    return {draw.choice(NAMES): anything(draw, depth - 1) for _ in range(draw.randint(0, 5))}


def one_choice(draw: random.Random, place: str) -> Any:  # noqa: ANN401 - any JSON
    message = {"content": anything(draw, 3), draw.choice(NAMES): anything(draw, 3)}
    choice = {place: message, "finish_reason": anything(draw, 1), "index": draw.choice((0, 0, anything(draw, 1)))}
    return {"choices": [choice], draw.choice(NAMES): anything(draw, 3)}


def understood(draw: random.Random) -> str:
    """Return what becomes of an answer that is anything at all, whole or in a stream."""
    whole = draw.choice((anything(draw), one_choice(draw, "message")))
    pieces = [draw.choice((anything(draw), one_choice(draw, "delta"))) for _ in range(3)]
    try:
        document = json.loads(json.dumps(whole)) if draw.random() < 0.5 else assembled(events(*pieces))
        status = status_within(document)
        if status is None:
            generation = read_reply(document, chat(limit=LIMIT), Reading()).generation
            (generation.text + generation.reasoning if generation else "").encode()
            return "read"
        error = failure_of(httpx2.Response(200), "here", Reading(), chat(), document=document, within=status)
        return type(error).__name__
    except RetryableError:
        return "asked again"


def test_nothing_that_a_server_may_say_is_more_than_a_failure() -> None:
    became = Counter(understood(random.Random(seed)) for seed in range(4000))
    assert set(became) >= {"read", "asked again", "RetryableError", "SampleError"}
    assert became["read"] > 400
