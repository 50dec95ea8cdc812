"""Served models: addresses, keys, options, what is sent, and what the answers mean."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fault_server import Answer, Asked, Behaviour, completion, fault_server, refusal
from PIL import Image
from pydantic import SecretStr
from task_helpers import question

from medbench.adapters.base import LoadOptions
from medbench.adapters.catalog import choose_model
from medbench.adapters.openai.client import ServedModel
from medbench.adapters.openai.client import load_served as load
from medbench.adapters.openai.entry import (
    ARGUMENTS,
    BOXES,
    ENTRY,
    SPACES,
    Options,
    profile_of,
    read_address,
    read_key,
    read_options,
    without_key,
)
from medbench.adapters.openai.requests import ChatRequest, messages_of
from medbench.adapters.remote import Reply, RetryableError
from medbench.adapters.wording import question_of
from medbench.tasks.catalog import get_task
from medbench.tasks.foundation.errors import SampleError, UsageError
from medbench.tasks.prepared import load_prepared
from medbench.tasks.sample import Box, ImageRef, Sample

HERE = "my-model@http://127.0.0.1:8000/v1"
SECRET = "sk-very-secret-0123456789"


def model(address: str = HERE, **arguments: str) -> ServedModel:
    adapter = load(LoadOptions(variant=address, arguments=arguments, seed=3))
    assert isinstance(adapter, ServedModel)
    return adapter


def options(**given: str) -> Options:
    return read_options(given, read_address(HERE))


def prepared(sample: Sample, folder: Path | None = None, **arguments: str) -> ChatRequest:
    return model(HERE, **arguments).prepare(sample, get_task("slake-vqa"), folder or Path())


# Addresses and keys


@pytest.mark.parametrize(
    ("variant", "name", "url", "host", "here"),
    [
        (HERE, "my-model", "http://127.0.0.1:8000/v1/chat/completions", "127.0.0.1", True),
        ("org/m@http://localhost", "org/m", "http://localhost/v1/chat/completions", "localhost", True),
        ("m@main@https://[::1]:9/x/", "m@main", "https://[::1]:9/x/chat/completions", "::1", True),
        ("gpt@https://API.openai.com/v1", "gpt", "https://api.openai.com/v1/chat/completions", "api.openai.com", False),
        ("m@http://10.0.0.7:80", "m", "http://10.0.0.7:80/v1/chat/completions", "10.0.0.7", False),
    ],
)
def test_a_model_of_a_server_is_named(variant: str, name: str, url: str, host: str, here: bool) -> None:
    address = read_address(variant)
    assert (address.model, f"{address.base}/chat/completions") == (name, url)
    assert (address.host, address.on_this_machine) == (host, here)
    assert address.encrypted == url.startswith("https")


@pytest.mark.parametrize(
    ("variant", "says"),
    [
        ("", "needs a model's name and a server's base URL"),
        ("gpt-4o", "needs a model's name"),
        ("@http://127.0.0.1/v1", "needs a model's name"),
        ("m@ftp://127.0.0.1/v1", "needs a model's name"),
        ("m@httpx://127.0.0.1/v1", "no http or https URL"),
        ("m@http://", "no http or https URL"),
        ("m@http://127.0.0.1:99999/v1", "no http or https URL"),
        ("m@http://a b/v1", "no http or https URL"),
        ("m@http://a..b/v1", "no http or https URL"),
        (f"m@http://{'a' * 64}.org/v1", "no http or https URL"),
        ("m@http://[::zz]/v1", "no http or https URL"),
        ("m@https://me:hunter2secret@example.org/v1", "carries credentials"),
        ("m@https://example.org/v1?api-key=hunter2secret", "has a query"),
        ("m@https://example.org/v1#x", "has a query or a fragment"),
        ("m@https://example.org/v1/chat/completions", "which is added to it"),
    ],
)
def test_what_is_no_address_is_refused_and_secrets_in_it_are_not_repeated(variant: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        read_address(variant)
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint


def test_a_name_that_no_server_can_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(UsageError, match="is none"):
        model("m@https://\u2603.example/v1")


def test_the_key_comes_from_the_named_variable_and_shows_itself_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f"{SECRET}\n")
    key = read_key("MY_KEY", read_address("m@https://example.org"))
    assert key.get_secret_value() == SECRET
    assert SECRET not in f"{key!r} {key}"
    assert without_key(key, f"Wrong key: {SECRET}!") == "Wrong key: [key]!"


def test_short_words_that_stand_for_no_key_leave_texts_alone() -> None:
    assert without_key(SecretStr("EMPTY"), "EMPTY stomach") == "EMPTY stomach"


@pytest.mark.parametrize("name", [SECRET, "sk", "my key", "", "A" * 65])
def test_a_key_in_place_of_its_name_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(UsageError, match="not the name of an environment variable") as caught:
        read_key(name, read_address(HERE))
    assert SECRET not in str(caught.value)


def test_only_a_server_of_this_machine_may_do_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert not read_key("OPENAI_API_KEY", read_address(HERE))
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        read_key("OPENAI_API_KEY", read_address("m@https://example.org"))
    monkeypatch.setenv("OPENAI_API_KEY", "two words")
    with pytest.raises(UsageError, match="characters that no key has") as caught:
        read_key("OPENAI_API_KEY", read_address(HERE))
    assert "two words" not in str(caught.value)


# Options


def test_every_option_has_a_default_that_is_allowed() -> None:
    chosen = options()
    assert (chosen.temperature, chosen.max_pixels, chosen.retry_policy.max_concurrency) == (0.0, None, 64)
    assert options(**{name: argument.default for name, argument in ARGUMENTS.items()}) == chosen
    assert ENTRY.arguments is ARGUMENTS


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", "hot"), ("temperature", "-1"), ("temperature", "nan"), ("top_p", "1.5"), ("max_tokens", "0"),
        ("max_tokens", "1.5"), ("max_pixels", "many"), ("concurrency", "0"), ("attempts", "-3"), ("timeout", "0"),
        ("deadline", "inf"), ("backoff", "-1"), ("price_in", "cheap"), ("send_seed", "maybe"), ("stop", '["", "a"]'),
        ("stop", "[1]"), ("extra_body", "[1]"), ("extra_body", "{"), ("boxes", "inches"), ("credentialed", "yes"),
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_is_named(name: str, value: str) -> None:
    with pytest.raises(UsageError, match=name) as caught:
        options(**{name: value})
    assert caught.value.hint


@pytest.mark.parametrize(
    ("profile", "fields", "says"),
    [
        ("vllm", {"messages": []}, "has messages, which the adapter sends itself"),
        ("vllm", {"stream": "yes"}, "does not take"),
        ("vllm", {"n": 2}, "has n"),
        ("vllm", {"temperature": 1}, "has temperature"),
        ("openai", {"top_k": 3}, "does not take top_k"),
        ("transformers", {"top_k": 3}, "does not take top_k"),
        ("vllm", {"api_key": SECRET}, "seems to hold a key"),
        ("sglang", {"Authorization": SECRET}, "seems to hold a key"),
        ("vllm", {"vllm_xargs": [{"hf_token": SECRET}]}, "seems to hold a key"),
    ],
)
def test_fields_that_must_not_be_added_are_refused(profile: str, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        options(extra_body=json.dumps(fields), profile=profile)
    assert SECRET not in str(caught.value)


def test_boxes_in_pixels_and_smaller_pictures_do_not_go_together() -> None:
    with pytest.raises(UsageError, match="mean those of the original image"):
        options(boxes="pixels", max_pixels="1000")


def test_the_profile_follows_from_the_host_alone() -> None:
    hosts = {
        "m@https://api.openai.com/v1": "openai", "m@https://x.openai.azure.com/openai/v1": "openai",
        "m@https://notopenai.com/v1": "compatible", HERE: "compatible",
    }  # fmt: skip
    assert {address: profile_of("auto", read_address(address)).name for address in hosts} == hosts
    assert profile_of("sglang", read_address(HERE)).name == "sglang"


def test_what_changes_answers_changes_the_fingerprint_and_nothing_else_does() -> None:
    plain = model().weights_fingerprint
    same = {"concurrency": "1", "attempts": "2", "price_in": "3", "key_env": "OTHER_KEY", "timeout": "9"}
    assert model(**same).weights_fingerprint == plain
    others = {
        "temperature": "0.5", "top_p": "0.9", "system": "Be brief.", "max_tokens": "9", "stop": "#", "boxes": "percent",
        "max_pixels": "100", "extra_body": '{"top_k": 2}', "profile": "sglang", "send_seed": "no",
    }  # fmt: skip
    prints = {model(**{name: value}).weights_fingerprint for name, value in others.items()}
    assert len({plain, model("other@http://127.0.0.1:8000/v1").weights_fingerprint, *prints}) == len(others) + 2


OTHER = {
    "boxes": "fraction", "system": "Be brief.", "temperature": "0.5", "top_p": "0.9", "send_seed": "no",
    "max_tokens": "7", "stop": "###", "max_pixels": "1000", "extra_body": '{"top_k": 1}', "credentialed": "send",
    "key_env": "OTHER_KEY", "price_in": "1", "price_cached": "1", "price_out": "1", "concurrency": "2",
    "servers": "http://b/v1",
    "max_concurrency": "9", "ca_file": "/a.pem", "attempts": "2", "timeout": "5", "deadline": "6", "backoff": "7",
}  # fmt: skip


def test_every_argument_is_looked_at() -> None:
    assert set(OTHER) | {"profile"} == set(ARGUMENTS)


@pytest.mark.parametrize("name", OTHER)
def test_what_is_sent_is_the_runs_identity_and_nothing_else(name: str) -> None:
    same_answers = options().changing_answers() == options(**{name: OTHER[name]}).changing_answers()
    same_run = (
        choose_model(f"openai:{HERE}", {}).identity == choose_model(f"openai:{HERE}", {name: OTHER[name]}).identity
    )
    assert same_answers == same_run == (not ARGUMENTS[name].changes_answers)


def test_a_model_is_loaded_without_torch_or_an_http_library() -> None:
    check = (
        "import sys; import medbench.adapters.openai.entry; import medbench.adapters.remote; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'openai', 'httpx2', 'numpy')))"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


def test_a_server_elsewhere_is_said_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    assert model().notices == ()
    assert "go to api.openai.com." in model("m@https://api.openai.com/v1").notices[0]
    assert "unencrypted" in model("m@http://example.org/v1").notices[0]
    assert model("org/m-7b@https://example.org/v1").title == "m-7b (example.org)"


# What is sent


def test_a_request_has_the_fields_that_all_servers_know(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2), (1, 2, 3)).save(tmp_path / "a.png")
    sample = question(1, images=(ImageRef(path="a.png"),), inputs={"question": "Is it <image>red?"})
    body = prepared(sample, tmp_path, system="Be brief.").body
    text = "Based on the image, respond to this question with a short answer: Is it red?"
    [system, user] = body.pop("messages")
    assert body == {"model": "my-model", "max_tokens": 100, "temperature": 0, "seed": 3, "stream": False}
    assert system == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in user["content"]] == ["image_url", "text"]
    assert user["content"][1]["text"] == text
    assert user["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")


NEUTRAL = {
    "top_p": 1, "top_k": -1, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"profile": "openai"}, {"max_completion_tokens": 100, "temperature": 0, "seed": 3}),
        (
            {"temperature": "0.7", "top_p": "0.9", "stop": '["###", "\\n"]', "max_tokens": "7"},
            {"max_tokens": 7, "temperature": 0.7, "top_p": 0.9, "seed": 3, "stop": ["###", "\n"]},
        ),
        ({"profile": "transformers", "stop": "###"}, {"max_tokens": 100, "temperature": 0, "seed": 3}),
        ({"temperature": "unset", "send_seed": "no"}, {"max_tokens": 100}),
        (
            {"profile": "sglang", "extra_body": '{"top_k": 1, "regex": "a+"}'},
            {"max_tokens": 100, "temperature": 0, "seed": 3, **NEUTRAL, "top_k": 1, "regex": "a+"},
        ),
        (
            {"profile": "vllm", "top_p": "0.9"},
            {"max_tokens": 100, "temperature": 0, "seed": 3, **NEUTRAL, "top_p": 0.9},
        ),
        (
            {"profile": "transformers", "extra_body": '{"stream": true}'},
            {"max_tokens": 100, "temperature": 0, "seed": 3, "stream": True},
        ),
    ],
)
def test_what_is_sent_follows_the_profile_and_the_options(arguments: dict[str, str], expected: dict[str, Any]) -> None:
    body = prepared(question(1), None, **arguments).body
    sent = {name: value for name, value in body.items() if name not in {"model", "messages"}}
    assert sent == {"stream": False} | expected
    assert isinstance(body["messages"][0]["content"], str)


def test_the_field_that_asks_for_no_stream_can_be_left_out() -> None:
    assert "stream" not in prepared(question(1), None, extra_body='{"stream": null}').body


def test_choices_are_told_where_the_instruction_lacks_them() -> None:
    spec = get_task("slake-vqa")
    told = question(1, inputs={"question": "Is it: yes or no?"}, choices={"yes": "yes", "no": "no"})
    untold = replace(told, inputs={"question": "Is it known?"})
    lettered = replace(told, inputs={"question": "Which?"}, choices={"A": "warfarin", "B": "heparin"})
    assert question_of(told, spec, BOXES).endswith("Is it: yes or no?")
    assert question_of(untold, spec, BOXES).endswith("Is it known?\nChoose one of: yes, no.")
    assert question_of(lettered, spec, BOXES).endswith(
        "Which?\nA. warfarin\nB. heparin\nAnswer with the letter of the right option."
    )


@pytest.mark.parametrize("name", ["medqa", "pubmedqa", "dermamnist", "organsmnist", "slake-vqa", "mimic-cxr"])
def test_our_own_tasks_say_all_there_is_to_say(name: str, small_data: Path) -> None:
    spec = get_task(name)
    for sample in load_prepared(small_data, name).samples("test"):
        assert question_of(sample, spec, BOXES) == spec.instruction(sample)


@pytest.mark.parametrize(
    ("space", "form", "box"),
    [
        ("permille", "[left, top, right, bottom] in whole numbers from 0 to 1000", "[100, 250, 500, 1000]"),
        ("permille-yxyx", "[top, left, bottom, right] in whole numbers from 0 to 1000", "[250, 100, 1000, 500]"),
        ("fraction", "[left, top, right, bottom] in numbers from 0 to 1", "[0.1, 0.25, 0.5, 1.0]"),
        ("pixels", "in pixels of the image, which is 200 wide and 40 high", "[20, 10, 100, 40]"),
        ("pixels-xywh", "[left, top, width, height] in pixels", "[20, 10, 80, 30]"),
    ],
)
def test_how_boxes_are_written_is_told_and_read(space: str, form: str, box: str) -> None:
    sample = question(1, inputs={"object": "liver"}, box=Box(20, 10, 100, 40), image_size=(200, 40), reference="liver")
    find, name = get_task("slake-rec"), get_task("slake-reg")
    asked = question_of(sample, find, SPACES[space])
    assert asked.startswith("give me the location of liver\nAnswer with the bounding box alone, as [")
    assert form in asked
    assert f"what object is in this location {box}" in question_of(sample, name, SPACES[space])
    chosen = choose_model(f"openai:{HERE}", {"boxes": space})
    read = chosen.parse(f"It is {box}.", sample, find)
    assert read.box == pytest.approx((20, 10, 100, 40))
    assert chosen.boxes is SPACES[space]


def test_questions_of_one_picture_begin_alike(tmp_path: Path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "a.png")
    image = (ImageRef(path="a.png"),)
    adapter = model(system="Be brief.")
    bodies = [
        json.dumps(adapter.prepare(question(1, images=image, inputs=inputs), get_task(task), tmp_path).body["messages"])
        for task, inputs in (("slake-vqa", {"question": "?"}), ("slake-rec", {"object": "liver"}))
    ]
    common = next(place for place, (a, b) in enumerate(zip(*bodies, strict=False)) if a != b)
    assert "data:image/png" in bodies[0][:common]
    assert adapter.images.encoded == 1


# Pictures


# One request


def complete(behaviour: Behaviour, **arguments: str) -> Reply:
    with fault_server(behaviour) as server:
        adapter = model(f"m@{server.url}", **arguments)

        async def once() -> Reply:
            async with adapter.session() as ask:
                return await ask(adapter.prepare(question(1), get_task("slake-vqa"), Path()))

        return asyncio.run(once())


def test_a_question_is_answered_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    seen: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked)
        return Answer(body=completion("yes"))

    reply = complete(answer)
    assert reply.generation is not None
    assert reply.generation.text == "yes"
    assert seen[0].headers["authorization"] == f"Bearer {SECRET}"


def test_the_environment_of_the_sdk_reaches_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORG_ID", "PROJECT_ID", "ADMIN_KEY", "WEBHOOK_SECRET"):
        monkeypatch.setenv(f"OPENAI_{name}", SECRET)
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"X-Mine: {SECRET}\nAuthorization: {SECRET}")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    seen: list[Asked] = []

    def answer(asked: Asked) -> Answer:
        seen.append(asked)
        return Answer(body=completion("yes"))

    assert complete(answer).generation is not None
    [asked] = seen
    assert SECRET not in repr(asked.headers)
    assert asked.headers["user-agent"] == "medbench"
    assert not {"authorization", "openai-organization", "x-stainless-os"} & asked.headers.keys()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(body=completion("yes"), cut="half"), "cut off"),
        (Answer(cut="silent"), "cut off"),
        (Answer(body=b'{"choices": [{"mess'), "malformed"),
        (Answer(body=b"not gzip", headers={"Content-Encoding": "gzip"}), "cut off"),
        (refusal(429, Retry_After="3"), "rate limit"),
        (Answer(status=200, body={"error": {"message": "busy", "code": 503}}), "overloaded"),
    ],
)
def test_a_broken_answer_is_asked_again(answer: Answer, reason: str) -> None:
    with pytest.raises(RetryableError) as caught:
        complete(lambda _: answer)
    assert caught.value.reason == reason


def test_a_server_that_is_not_there_is_unreachable() -> None:
    async def once() -> None:
        adapter = model("m@http://127.0.0.1:9/v1")
        async with adapter.session() as ask:
            await ask(adapter.prepare(question(1), get_task("slake-vqa"), Path()))

    with pytest.raises(RetryableError, match="cannot be reached") as caught:
        asyncio.run(once())
    assert caught.value.reason == "unreachable"


def test_an_endless_answer_is_given_up() -> None:
    with pytest.raises(SampleError, match="longer than 16 MiB"):
        complete(lambda _: Answer(body=b" " * (17 * 2**20)))


def test_a_key_that_a_server_echoes_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    echo = {**completion(f"Your key is {SECRET}"), "model": SECRET, "system_fingerprint": SECRET}
    reply = complete(lambda _: Answer(body=echo))
    assert SECRET not in repr(reply)
    assert "Your key is [key]" in repr(reply)


def test_images_go_before_the_text() -> None:
    [message] = messages_of("What?", ["data:a", "data:b"], "")
    assert [part.get("text") or part["image_url"]["url"] for part in message["content"]] == [
        "data:a",
        "data:b",
        "What?",
    ]
