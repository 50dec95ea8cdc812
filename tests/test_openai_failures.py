"""What servers say when they refuse, wherever they say it, and whom they let in: hints, web pages, certificates."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fault_server import Answer, Behaviour, FaultServer, chat, completion, fault_server, refusal
from PIL import Image
from task_helpers import question

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai import client
from medbench.adapters.openai.client import ServedModel
from medbench.adapters.openai.client import load_served as load
from medbench.adapters.openai.failures import UNKNOWN, failure_of, status_within
from medbench.adapters.openai.reading import Reading
from medbench.adapters.remote import Reply, RetryableError
from medbench.harness.remote.asking import Finished, Question
from medbench.harness.remote.serving import changes_in
from medbench.harness.remote.sharing import Fleet
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import RunError, SampleError, UsageError
from medbench.tasks.sample import ImageRef

SEEING = {"limit": 512, "images": 1}


def refused(said: str, status: int = 400, **asked: Any) -> Exception:
    response = httpx2.Response(status, json={"error": {"message": said}})
    return failure_of(response, "here", Reading(), chat(**{**SEEING, **asked}))


def hint(said: str, status: int = 400, **asked: Any) -> str:
    error = refused(said, status, **asked)
    assert isinstance(error, SampleError)
    assert said[:200] in error.problem
    return error.hint


# What to do about a refusal


@pytest.mark.parametrize(
    ("said", "asked", "way_out"),
    [
        ("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
         {}, "profile=openai"),
        ("max_tokens is no longer supported, use max_completion_tokens", {}, "profile=openai"),
        ("Unrecognized request argument supplied: max_completion_tokens", {"length_field": "max_completion_tokens"},
         "profile=compatible"),
        ("Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported.", {},
         "temperature=unset"),
        ("`temperature` must be strictly positive", {}, "temperature=unset"),
        ("temperature is deprecated for this model", {}, "temperature=unset"),
        ("Unknown field 'seed'", {}, "send_seed=no"),
        ("Unsupported parameter: 'stop' is not supported with this model.", {}, "--model-arg stop"),
        ("Extra inputs are not permitted: 'stream'", {}, '"stream": null'),
        ("Unrecognized request argument supplied: top_k", {"fields": frozenset({"top_k"})}, "Leave top_k out"),
        ("This model only support stream mode, please enable the stream parameter", {}, '"stream": true'),
        ("max_tokens is too large: 512. This model supports at most 256 completion tokens", {}, "--max-new-tokens N"),
        ("The image exceeds the maximum size of 5 MB", {}, "max_pixels"),
        ("At most 1 image(s) may be provided in one prompt.", {"images": 2}, "--limit-mm-per-prompt"),
        ("System role not supported", {"system": True}, "Leave out --model-arg system"),
        ("Conversation roles must alternate user/assistant/user/assistant/...", {"system": True}, "--model-arg system"),
        ("System role not supported", {}, ""),
        ("The patient's file is broken", {}, ""),
        ("The kidney was not seeded: please stop", {}, ""),
    ],
)  # fmt: skip
def test_a_refused_field_comes_with_its_way_out(said: str, asked: dict[str, Any], way_out: str) -> None:
    found = hint(said, **asked)
    assert way_out in found
    assert bool(found) == bool(way_out)


TOO_LONG = (
    "This model's maximum context length is 2048 tokens. However, you requested 4096 tokens. Please reduce max_tokens.",
    "The decoder prompt (length 3000) is longer than the maximum model length of 2048.",
    "the request exceeds the available context size, try increasing it",
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
    "prompt is too long: 210000 tokens > 200000 maximum",
    "max_tokens must be at least 1, got -40.",
)


@pytest.mark.parametrize("said", TOO_LONG)
@pytest.mark.parametrize("status", [400, 413, 422, 500])
def test_what_does_not_fit_into_a_model_says_what_was_asked_and_how_to_ask_for_less(said: str, status: int) -> None:
    found = hint(said, status)
    assert "an answer of 512 tokens" in found
    assert "--max-new-tokens" in found
    assert "send 1 image smaller with --model-arg max_pixels=N" in found
    assert "max_pixels" not in hint(said, status, images=0)


SEES_NOTHING = (
    "tiny is not a multimodal model",
    "tiny is not a multimodal model None",
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
    "this model is missing data required for image input",
    "Invalid content type. image_url is only supported by certain models.",
    "Failed to deserialize the JSON body: messages[0]: unknown variant `image_url`, expected `text`",
    "This model does not support image inputs",
    "The model doesn't support images",
    "No endpoints found that support image input",
    "At most 0 image(s) may be provided in one prompt.",
    "Image input is not enabled for this model",
    "Only 'text' content type is supported",
    "Unknown part type: image_url",
    "'messages[0].content' must be a string",
)


@pytest.mark.parametrize("said", SEES_NOTHING)
@pytest.mark.parametrize("status", [400, 404, 422, 500])
def test_a_model_that_sees_nothing_says_so_in_many_ways_and_is_not_asked_again(said: str, status: int) -> None:
    assert "takes no images" in hint(said, status)


@pytest.mark.parametrize(
    "said",
    ["cannot identify image file", "The image size is not supported", "At most 4 images are supported", "HTTP 500"],
)
def test_a_picture_that_is_refused_is_not_a_model_that_sees_nothing(said: str) -> None:
    assert "takes no images" not in hint(said)
    assert "takes no images" not in hint(SEES_NOTHING[0], images=0)


def test_words_do_not_turn_haste_or_a_wrong_key_into_a_refusal() -> None:
    assert isinstance(refused("Rate limit: too many tokens for the context window", 429), RetryableError)
    assert isinstance(refused("This key may not use models that support image input", 401), RunError)


# Errors inside of a success


@pytest.mark.parametrize(
    ("document", "status"),
    [
        ({"object": "error", "message": "The model `tiny` is not loaded.", "code": 40301}, 404),
        ({"object": "error", "message": "Out of range", "code": 40302}, 400),
        ({"object": "error", "message": "Engine", "code": 42903}, 429),
        ({"object": "error", "message": "NETWORK ERROR", "code": 50001}, 500),
        ({"error": "model 'tiny' not found, pull it first"}, 404),
        ({"detail": "Not Found"}, 404),
        ({"success": False, "message": "The model tiny does not exist"}, 404),
        ({"success": False}, UNKNOWN),
        ({"error": {"message": "busy", "code": 503}}, 503),
        ({"error": {"message": "busy", "code": 503}, "choices": [{"message": {"content": "ha"}}]}, 503),
        ({"error": {"message": "no", "code": "503"}}, 503),
        ({"error": {"message": "no", "type": "invalid_request_error"}}, 400),
        ({"error": {"message": "no", "code": "rate_limit_exceeded"}}, 429),
        ({"error": {"message": "Incorrect API key provided"}}, 401),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, 503),
        ({"base_resp": {"status_code": 500, "status_msg": "no"}, "choices": None}, 500),
        ({"code": 500, "msg": "no", "data": None}, 500),
        ({"error": "overloaded"}, 503),
        ({"message": "Please try again: the model is not available"}, 503),
        ({"error": {"message": "why not"}}, UNKNOWN),
        ({"error": "why not", "choices": []}, UNKNOWN),
        (completion("yes"), None), ({**completion("yes"), "error": None}, None), ({"choices": []}, None), ({}, None),
        ({"choices": None}, None), ([], None), ("text", None), ({"success": True, **completion("yes")}, None),
    ],
)  # fmt: skip
def test_an_error_inside_of_a_success_has_the_status_that_it_should_have_had(
    document: object, status: int | None
) -> None:
    assert status_within(document) == status


def served(address: str, **arguments: str) -> ServedModel:
    adapter = load(LoadOptions(variant=address, arguments={"backoff": "0.001", "timeout": "5", **arguments}))
    assert isinstance(adapter, ServedModel)
    return adapter


def answers(server: FaultServer, samples: Sequence[Question], **arguments: str) -> list[Finished]:
    finished = list[Finished]()
    asyncio.run(Fleet([served(f"tiny@{server.url}", **arguments)], finished.append).ask(samples))
    return finished


def asked_of(count: int, folder: Path | None = None, first: int = 0) -> list[Question]:
    """Return questions, about a picture of the folder if there is one."""
    images = (ImageRef(path="a.png"),) if folder else ()
    return [
        Question(
            sample=question(number, inputs={"question": f"{number}?"}, images=images),
            spec=get_task("slake-vqa"),
            source=folder or Path(),
        )
        for number in range(first, first + count)
    ]


@pytest.mark.parametrize(
    ("answer", "requests", "words"),
    [
        (Answer(body={"object": "error", "message": "The model is not loaded.", "code": 40301}), 1, "not loaded"),
        (Answer(body={"error": "something of its own"}), 3, "something of its own"),
        (Answer(body=b"The cluster is asleep", headers={"Content-Type": "text/plain"}), 8, "'The cluster is asleep'"),
        (Answer(body={"error": {"message": "busy", "code": 503}}), 8, "busy"),
        (Answer(body=b"<html><body>Sign in</body></html>", headers={"Content-Type": "text/html"}), 1, "'Sign in'"),
        (Answer(body=b"<!DOCTYPE html><title>Hi &amp; hello</title>"), 3, "(HTML) in place of JSON: 'Hi & hello'"),
        (Answer(body=b'data: {"error": {"message": "no such model"}}\n\n'), 1, "no such model"),
        (Answer(body=b'data: {"choices": [{"delta": {"content": "Y"}}]}\n\n'), 8, "ended before the answer did"),
    ],
)  # fmt: skip
def test_the_servers_words_arrive_and_what_lasts_is_not_asked_for_again(
    answer: Answer, requests: int, words: str
) -> None:
    with fault_server(lambda _: answer) as server:
        [finished] = answers(server, asked_of(1), attempts="8")
    assert words in finished.outcome.error
    assert (finished.attempts, len(server.seen)) == (requests, requests)


@pytest.mark.parametrize(
    "answer",
    [
        refusal(400, "The response was filtered due to Azure OpenAI's content management policy.", "content_filter"),
        refusal(403, "Your input was flagged for violence"),
        Answer(body={"error": {"message": "data_inspection_failed"}}),
    ],
)
def test_a_question_that_a_filter_holds_back_is_refused_by_the_service_and_no_failure(answer: Answer) -> None:
    with fault_server(lambda _: answer) as server:
        [finished] = answers(server, asked_of(1))
    assert finished.outcome.generation is not None
    assert (finished.outcome.error, finished.outcome.generation.text) == ("", "")
    assert finished.outcome.generation.served.withheld == "content filter"  # type: ignore[attr-defined]


def test_a_server_that_streams_unasked_answers_all_the_same() -> None:
    parts = [
        {"choices": [{"delta": {"content": text}, "finish_reason": end}]} for text, end in (("Ye", None), ("s", "stop"))
    ]
    body = "".join(f"data: {json.dumps(part)}\n\n" for part in parts).encode()
    with fault_server(lambda _: Answer(body=body, headers={"Content-Type": "text/event-stream"})) as server:
        finished = answers(server, asked_of(3))
        assert [asked.body["stream"] for asked in server.seen] == [False] * 3
    assert [one.outcome.generation and one.outcome.generation.text for one in finished] == ["Yes"] * 3


def test_a_server_that_streams_only_is_asked_for_a_stream() -> None:
    body = b'data: {"choices": [{"delta": {"content": "Yes"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    no = refusal(400, "This model only support stream mode, please enable the stream parameter to access the model.")
    with fault_server(lambda asked: Answer(body=body) if asked.body["stream"] else no) as server:
        finished = answers(server, asked_of(9), concurrency="1", max_concurrency="1")
        assert len(server.seen) == 10
        assert server.seen[-1].body["stream_options"] == {"include_usage": True}
        told_not_to = answers(server, asked_of(1), extra_body='{"stream": false}')
    assert [one.outcome.generation and one.outcome.generation.text for one in finished] == ["Yes"] * 9
    assert '"stream": true' in told_not_to[0].outcome.error


# Refusals of everything


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return tmp_path


def blind(of_all: Answer) -> Behaviour:
    return lambda asked: of_all if asked.pictures else Answer(body=completion("yes"))


def test_a_model_that_sees_nothing_ends_the_run_after_a_few_pictures(picture: Path) -> None:
    finished = list[Finished]()
    with fault_server(blind(refusal(400, "tiny is not a multimodal model"))) as server:
        asking = Fleet([served(f"tiny@{server.url}")], finished.append)
        with pytest.raises(RunError, match="refuses every question with images") as caught:
            asyncio.run(asking.ask([*asked_of(5), *asked_of(60, picture, first=5)]))
        assert sum(bool(asked.pictures) for asked in server.seen) < 12
    assert "is not a multimodal model" in caught.value.problem
    assert "choose tasks without any" in caught.value.hint
    assert sum(one.outcome.generation is not None for one in finished) == 5


def test_refusals_of_some_questions_end_nothing(picture: Path) -> None:
    with fault_server() as server:
        server.behave = lambda asked: (
            refusal(400, f"Question {asked.number} is wrong") if asked.number else Answer(body=completion("yes"))
        )
        assert len(answers(server, asked_of(30, picture), concurrency="1", max_concurrency="1")) == 30
        server.behave = lambda asked: refusal(400, "ab"[asked.number % 2])
        assert len(answers(server, asked_of(30), concurrency="1", max_concurrency="1")) == 30


def test_what_was_answered_in_an_earlier_part_of_a_run_counts() -> None:
    with fault_server(lambda _: refusal(400, "too odd")) as server:
        finished = list[Finished]()
        asking = Fleet([served(f"tiny@{server.url}")], finished.append, answered={False})
        asyncio.run(asking.ask(asked_of(30)))
    assert len(finished) == 30


def test_a_server_that_changes_while_it_answers_is_said_loudly() -> None:
    same = {"models": {"tiny": 9}, "fingerprints": {}}
    assert changes_in(same) == []
    other = {"models": {"tiny": 9, "tiny-2": 1}, "fingerprints": {"fp_1": 4, "fp_2": 6}}
    model, server = changes_in(other)
    assert "THE MODEL CHANGED" in model
    assert "tiny (9), tiny-2 (1)" in model
    assert "THE SERVER CHANGED" in server
    assert "fp_1 (4), fp_2 (6)" in server


MODELS = {
    "data": [
        {"id": "other", "root": "/models/other"},
        {
            "id": "tiny",
            "root": "/models/first",
            "owned_by": "vllm",
            "created": 1,
            "max_model_len": 4096,
            "permission": [],
        },
    ]
}


@pytest.mark.parametrize(
    ("told", "mark"),
    [
        ({}, ""),
        ({"/v1/models": MODELS}, "root=/models/first max_model_len=4096"),
        ({"/v1/models": MODELS, "/version": {"version": "0.11.0"}},
         "root=/models/first max_model_len=4096 vllm=0.11.0"),
        ({"/v1/models": {"data": [{"id": "tiny", "meta": {"n_params": 7, "size": 9}}]}}, "n_params=7 size=9"),
        ({"/v1/models": {"data": [{"id": "tiny", "created": 5, "owned_by": "me"}]}}, ""),
        ({"/v1/models": b"<html>Please sign in</html>"}, ""), ({"/v1/models": b" " * 5_000_000}, ""),
        ({"/v1/models": {"data": [3, {"id": "tiny", "root": ["x"]}]}}, ""), ({"/v1/models": b"[1]"}, ""),
    ],
)  # fmt: skip
def test_what_a_server_tells_of_itself_marks_its_answers(told: dict[str, Any], mark: str) -> None:
    with fault_server() as server:
        server.told = told
        finished = answers(server, asked_of(2))
    assert {one.reply.usage.fingerprint for one in finished} == {mark}


def test_what_a_server_tells_of_itself_makes_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with fault_server() as server:
        assert dict(served(f"tiny@{server.url}").made_of) == {}
        server.told = {"/v1/models": MODELS, "/version": {"version": "0.11.0"}}
        assert dict(served(f"tiny@{server.url}").made_of) == {
            "server": "root=/models/first max_model_len=4096 vllm=0.11.0", "profile": "vllm",
        }  # fmt: skip
        address = server.url
    monkeypatch.setattr(client, "_WAITS", (0.0,))
    with pytest.raises(RunError, match="cannot be reached"):
        _ = served(f"tiny@{address}").made_of


def test_the_server_is_asked_for_its_mark_from_within_a_running_loop_too() -> None:
    async def told(url: str) -> dict[str, str]:
        return dict(served(f"tiny@{url}").made_of)

    with fault_server() as server:
        server.told = {"/v1/models": MODELS}
        assert asyncio.run(told(server.url)) == {
            "server": "root=/models/first max_model_len=4096", "profile": "vllm",
        }  # fmt: skip


@pytest.mark.parametrize(("owner", "profile"), [("vllm", "vllm"), ("sglang", "sglang"), ("me", "compatible")])
def test_a_server_that_obeys_files_beside_its_weights_is_told_every_choice(owner: str, profile: str) -> None:
    with fault_server() as server:
        server.told = {"/v1/models": {"data": [{"id": "tiny", "owned_by": owner}]}}
        adapter = served(f"tiny@{server.url}")
        known = adapter.made_of.get("profile", "compatible")
        body = adapter.prepare(question(1), get_task("slake-vqa"), Path()).body
        chosen = served(f"tiny@{server.url}", profile="compatible")
        _ = chosen.made_of
        plain = chosen.prepare(question(1), get_task("slake-vqa"), Path()).body
    assert known == profile
    assert body.get("repetition_penalty") == (None if profile == "compatible" else 1)
    assert "repetition_penalty" not in plain


def test_a_mark_in_an_answer_goes_before_what_was_told_at_first() -> None:
    with fault_server(lambda _: Answer(body={**completion("yes"), "system_fingerprint": "fp_1"})) as server:
        server.told = {"/v1/models": MODELS}
        [finished] = answers(server, asked_of(1))
    assert finished.reply.usage.fingerprint == "fp_1"


# Certificates


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        reason = "no openssl to make a certificate with"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    folder = tmp_path_factory.mktemp("certificate")
    pair = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-out", pair[0], "-keyout", pair[1], "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


@pytest.fixture(autouse=True)
def machines_own_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def once(adapter: ServedModel) -> Reply:
    async def ask() -> Reply:
        async with adapter.session() as complete:
            return await complete(adapter.prepare(question(1), get_task("slake-vqa"), Path()))

    return asyncio.run(ask())


def test_a_certificate_that_nobody_vouches_for_is_refused_at_once_and_the_way_out_is_said(
    certificate: tuple[Path, Path],
) -> None:
    with fault_server(certificate=certificate) as server:
        with pytest.raises(RunError, match="certificate cannot be trusted: self-signed certificate") as caught:
            once(served(f"m@{server.url}"))
        assert "ca_file=PATH" in caught.value.hint
        assert server.seen == []


@pytest.mark.parametrize("way", ["ca_file", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_a_certificate_that_the_user_names_is_trusted(
    certificate: tuple[Path, Path], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = {"ca_file": str(certificate[0])} if way == "ca_file" else {}
    if not arguments:
        monkeypatch.setenv(way, str(certificate[0]))
    with fault_server(certificate=certificate) as server:
        assert once(served(f"m@{server.url}", **arguments)).generation is not None
        # Another name than the certificate has is refused all the same.
        with pytest.raises(RunError, match=r"certificate cannot be trusted: .*ismatch"):
            once(served(f"m@{server.url.replace('127.0.0.1', 'localhost')}", **arguments))


def test_a_server_that_speaks_no_https_is_told_from_one_with_a_wrong_certificate() -> None:
    with fault_server() as server, pytest.raises(RunError, match="does not speak https") as caught:
        once(served(f"m@{server.url.replace('http:', 'https:')}"))
    assert "Write http://" in caught.value.hint


def test_a_file_that_holds_no_certificates_is_named(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    for path in (certificate[1], tmp_path / "nowhere.pem"):
        with pytest.raises(UsageError, match="holds no certificates that can be read") as caught:
            served("m@https://127.0.0.1:1/v1", ca_file=str(path))
        assert str(path) in caught.value.problem
    with pytest.raises(UsageError, match="of no use with http"):
        served("m@http://127.0.0.1:1/v1", ca_file=str(certificate[0]))
