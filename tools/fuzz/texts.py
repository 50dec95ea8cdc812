"""What reads texts: of models, of servers, of datasets, of command lines; and what makes them fit to be shown."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from medbench.adapters.base import DEVICE
from medbench.adapters.catalog import ADAPTERS, choose_model
from medbench.adapters.hf.entry import known, short_name
from medbench.adapters.hf.loading import _sizes
from medbench.adapters.openai.entry import read_address, read_addresses, read_options
from medbench.adapters.openai.failures import failure_of, page_instead, retry_after, status_within
from medbench.adapters.openai.reading import Reading, assembled, is_stream, parse_json, read_reply
from medbench.adapters.openai.requests import ChatRequest
from medbench.adapters.remote import RetryableError
from medbench.harness.predictions.peers import marked_answer
from medbench.harness.settings import read_limits
from medbench.harness.shards import read_shard
from medbench.harness.verdicts import Judged, prompt_of, read_verdict
from medbench.harness.workers.wanted import wanted
from medbench.leaderboard.audit.normalise import norm_v1
from medbench.leaderboard.export.formats import checked_repo, read_datasets
from medbench.leaderboard.export.public import Scrubber
from medbench.leaderboard.render import html_document, latex_text, markdown_code, markdown_text
from medbench.leaderboard.report.document import inert_json
from medbench.tasks.answers.box_space import BOX_SPACES
from medbench.tasks.answers.box_text import find_box
from medbench.tasks.answers.box_tokens import items_of
from medbench.tasks.answers.choice import choice_beside, is_refusal, read_choice
from medbench.tasks.answers.closed import read_class, read_polar, says_alternative
from medbench.tasks.answers.texts import clean_prediction, first_words, normalise_answer, normalise_strictly, plain_text
from medbench.tasks.answers.thoughts import answer_fields, answer_itself, split_thought
from medbench.tasks.catalog import get_task, select_among, select_tasks
from medbench.tasks.cli import _parsed_options
from medbench.tasks.datasets.mimic_cxr import split_report
from medbench.tasks.datasets.mpx import case_of
from medbench.tasks.datasets.sa_med2d import SliceName
from medbench.tasks.foundation.files import inside, whole_characters
from medbench.tasks.foundation.printable import printable
from medbench.tasks.images import locate
from medbench.tasks.metrics.metric import Scorable
from medbench.tasks.prepared import parse_hash_lines
from medbench.tasks.protocols import PROTOCOLS, metrics_for, state_of
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind
from medbench.tasks.terms import checked_licence
from tools.fuzz.workers import Reader

_BESIDE, _LONGEST = "\x1f", 40_000
_ANSWERS = (
    "<think>The scan shows B.</think><answer>A</answer>", "The answer is (C), not B.", "A. Aspirin\nB. Kızamık", "Final answer: \\boxed{B}",
    '{"answer": "A", "why": "x"}', "Wait, no: it is B) or perhaps C.", "yes, but not really", "I cannot answer that.", "analysisIt isassistantfinalB", "",
)  # fmt: skip
_BOXES = ("[0.1, 0.2, 0.5, 0.9]", "<box>(12, 34), (56, 78)</box>", "{<12><30><45><60>}", "x1=1 y1=2 x2=30 y2=40", "left: 10%, top: 5%, right: 50 %, bottom: 90%",
          '{"bbox_2d": [1, 2, 3, 4]}', "<loc_12><loc_30><loc_45><loc_60>", "from (1, 2) to (3, 4) px")  # fmt: skip
_VERDICT = '{"reason": "It is.", "verdict": "correct"}'
_OPTIONS = (
    f"The answer is A{_BESIDE}warfarin{_BESIDE}Kızamık{_BESIDE}the liver", f"Kizamik{_BESIDE}aspirin{_BESIDE}Kızamık",
    f"not B, (C)\nD. x{_BESIDE}a{_BESIDE}A{_BESIDE}yes{_BESIDE}no", f"İ ſ{_BESIDE}i{_BESIDE}S{_BESIDE}ss",
)  # fmt: skip
_MODELS = (
    "openai:m@http://127.0.0.1:8000/v1",
    "hf:a/b",
    "mock:oracle",
    "uni-med",
    "vllm:x",
    "hf:/home/me/Qwen2.5-VL-7B",
)
_PAIRS = (
    f"The liver is bright.{_BESIDE}liver",
    f"yes{_BESIDE}no",
    f"{_BESIDE}",
    f"No acute finding in 2001.{_BESIDE}no acute findings , clear lungs",
)


def of_text(name: str, read: Callable[[str], object], *seeds: str, share: int = 10, **more: Any) -> Reader:
    """Return the reader of a text."""

    def reading(folder: Path) -> object:
        data = (folder / "input").read_bytes()
        try:
            text = data.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            text = data.decode("utf-8", "replace")
        return read(text[:_LONGEST])

    found = tuple(seed.encode("utf-8", "surrogatepass") for seed in seeds)
    return Reader(name=name, form="text", read=reading, seeds=found, share=share, **more)


def of_words(name: str, read: Callable[[str], object], *seeds: str) -> Reader:
    """Return the reader of a word of the command line, which the system bounds."""
    return of_text(name, lambda text: read(text[:2000]), *seeds)


def _choose(text: str) -> object:
    answer, *options = text.split(_BESIDE)
    choices = dict(zip("ABCDE", options, strict=False)) or {"yes": "yes", "no": "no"}
    return read_choice(answer, choices), choice_beside(answer, choices, "A")


def _score(kind: Kind) -> Callable[[str], object]:
    def scored(text: str) -> object:
        said, _, right = text.partition(_BESIDE)
        choices = {"yes": "yes", "no": "no"} if kind in {"qa", "cls"} else {}
        one = Scorable(prediction=said, reference=right, choices=choices, labels={"answer_type": "CLOSED"})
        used = (
            metric
            for protocol in PROTOCOLS
            for metric in metrics_for("", kind, protocol)
            if "meteor" not in metric.metric_id
        )
        return state_of(one, kind), [metric.compute(metric.statistics((one,)).sum(axis=0)) for metric in used]

    return scored


_SAMPLE = Sample(sample_id="s", task="medqa", split="test", reference="")
_SCRUBBER = Scrubber(roots=("/home/somebody/data", "/home/somebody"), secrets=("s3cr3t-s3cr3t",))
_REQUEST = ChatRequest(body={"messages": [{"role": "user", "content": "?"}], "max_tokens": 16})


def _responding(text: str) -> object:
    """Read a server's answer as the client does: its first line is the status and the type of the content."""
    head, _, body = text.partition("\n")
    status, _, kind = head.partition(" ")
    number = int(status) if status.isascii() and status.isdecimal() and 200 <= int(status[:4]) < 600 else 200
    content = body.encode("utf-8", "replace")
    response = httpx2.Response(
        number, headers={"content-type": kind.encode("ascii", "replace").decode()}, content=content
    )
    reading = Reading()
    if number >= 300:
        return failure_of(response, "server", reading, _REQUEST)
    document = assembled(content) if is_stream(content, kind) else parse_json(content, reading)
    return status_within(document) or read_reply(document, _REQUEST, reading)


def _reply(**message: object) -> str:
    return json.dumps(
        {
            "model": "m",
            "choices": [{"message": {"content": "The liver.", **message}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3},
        }
    )


_STREAM = 'data: {"choices": [{"delta": {"content": "The "}}]}\n\ndata: {"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
_REPLIES = (
    f"200 application/json\n{_reply(reasoning_content='t')}", f"200 text/event-stream\n{_STREAM}", "503 text/html\n<html><title>Sign in</title></html>",
    '400 application/json\n{"error": {"message": "too long", "code": 400}}', '200 application/json\n{"error": {"code": 429, "message": "slow"}}',
    f"200 application/json\n{_reply(content=[{'type': 'text', 'text': 'a'}], refusal='no', tool_calls=[{}])}",
)  # fmt: skip


def _headers(text: str) -> object:
    name, _, value = text.partition(":")
    return retry_after({name.lower(): value, "date": "Sun, 29 Nov 2026 07:00:00 GMT"})


def _judge(text: str) -> object:
    reply, _, answer = text.partition(_BESIDE)
    judged = Judged(question="?", reference=answer[::-1], answer=answer)
    return prompt_of(judged), read_verdict(reply, judged)


def readers() -> Iterator[Reader]:
    """Yield the readers of texts."""
    yield from _answers()
    yield from _shown()
    yield from _served_and_prepared()
    yield from _words()


def _answers() -> Iterator[Reader]:
    yield of_text("answers.choice", _choose, *_OPTIONS, share=40)
    yield of_text(
        "answers.thoughts",
        split_thought,
        *_ANSWERS,
        "<|channel|>analysis<|message|>a<|channel|>final<|message|>b",
        share=20,
    )
    yield of_text("answers.itself", answer_itself, *_ANSWERS)
    yield of_text("answers.fields", answer_fields, *_ANSWERS)
    yield of_text("answers.polar", read_polar, *_ANSWERS, share=20)
    yield of_text(
        "answers.class",
        lambda text: read_class(text, ("left lung", "liver", "femur-left")),
        "It is the left lung.",
        "liver, not lung",
        share=20,
    )
    yield of_text(
        "answers.alternative",
        lambda text: says_alternative(*text.partition(_BESIDE)[::2]),
        f"CT or MRI{_BESIDE}CT",
        *_PAIRS,
    )
    yield of_text("answers.refusal", is_refusal, *_ANSWERS)
    yield of_text("answers.judge", _judge, f"{_VERDICT}{_BESIDE}the liver", f"It says {_VERDICT}{_BESIDE}</think>{_VERDICT}",
                  f"<think>{_VERDICT}</think>{_VERDICT}{_BESIDE}")  # fmt: skip
    yield of_text("answers.box", lambda text: (find_box(text), find_box(text, y_first=True)), *_BOXES, share=30)
    yield of_text("answers.box_tokens", items_of, *_BOXES)
    yield of_text(
        "answers.box_spaces",
        lambda text: [space.read(text[:4000], (640, 480)) for space in BOX_SPACES.values()],
        *_BOXES,
        share=20,
    )
    yield of_text("answers.marked", marked_answer, *_ANSWERS)
    for form in (plain_text, normalise_answer, normalise_strictly, clean_prediction, first_words):
        yield of_text(f"texts.{form.__name__}", form, *_ANSWERS, "**T2\u2011weighted** $\\text{B}$ &amp; ~~x~~ 1,000")
    for kind in ("qa", "vqa", "report", "reg", "cls"):
        yield of_text(f"metrics.{kind}", _score(kind), *_PAIRS)
    yield of_text(
        "adapters.parse", lambda text: ADAPTERS.load("xraygpt").parse(text, _SAMPLE, get_task("medqa")), *_ANSWERS
    )


def _shown() -> Iterator[Reader]:
    yield of_text("audit.norm_v1", norm_v1, *_ANSWERS)
    for scrub in (_SCRUBBER.known, _SCRUBBER.text, _SCRUBBER.model, _SCRUBBER.leaks):
        yield of_text(
            f"scrubber.{scrub.__name__}",
            scrub,
            "see /home/somebody/data/x.jpg and https://me:key@node7/v1?k=hf_" + "a" * 24,
            "C:\\Users\\me\\x",
            "hf:/home/a/b@http://h/v1",
        )
    yield of_text("shown.printable", printable, *_ANSWERS)
    yield of_text(
        "shown.markdown", lambda text: (markdown_text(text), markdown_code(text)), *_ANSWERS, "[a](b) | `x` <img>"
    )
    yield of_text("shown.latex", latex_text, *_ANSWERS)
    yield of_text(
        "shown.html",
        lambda text: html_document("t", text[:4000]),
        "# a\n\n| a | b |\n| --- | --- |\n| `x` | **y** |\n\n- [a](b)\n",
    )
    yield of_text("shown.json", lambda text: list(inert_json({"a": text})), *_ANSWERS)


def _served_and_prepared() -> Iterator[Reader]:
    yield of_text("server.reply", _responding, *_REPLIES, share=30, declared=(RetryableError,))
    yield of_text(
        "server.retry_after",
        _headers,
        "retry-after:3",
        "retry-after:Sun, 29 Nov 2026 07:00:09 GMT",
        "retry-after-ms:12.5",
    )
    yield of_text(
        "server.page",
        lambda text: page_instead(text[:20_000], "server", Reading()),
        "<html><title>Sign in</title><script>x</script></html>",
    )
    yield of_text(
        "datasets.report",
        split_report,
        " FINAL REPORT\n INDICATION: ___\n\n FINDINGS:\n\n Clear.\n\n IMPRESSION: Normal.\n",
    )
    yield of_text("datasets.mpx_case", case_of, "MPX1001_synpic7.jpg")
    yield of_text("datasets.slice_name", SliceName.parse, "ct_00--Abdomen--Case_00001--z_0007")
    yield of_text("files.inside", lambda text: inside(Path("/data"), text), "a/b.png", "../x", "C:\\x")
    yield of_text("images.locate", lambda text: locate(Path("/data"), text).is_file(), "a/b.png", "../x")
    yield of_text(
        "files.whole_characters",
        lambda text: whole_characters(text.encode("utf-8", "replace")),
        '"\\ud83d\\u0041"',
        '"\\\\ud83d"',
    )
    yield of_text(
        "prepared.hashes",
        lambda text: parse_hash_lines(text, "hashes"),
        "a" * 64 + "  b.png\n",
        "\\" + "a" * 64 + "  b\\nc.png\n",
    )


def _words() -> Iterator[Reader]:
    yield of_words("words.model", lambda text: choose_model(text, {}), *_MODELS)
    yield of_words(
        "words.model_name", lambda text: (short_name(text), known(text, "llava")), *_MODELS, "models--a--b/snapshots/c"
    )
    yield of_words(
        "words.model_args",
        lambda text: choose_model("openai:m@http://h/v1", dict([text.partition("=")[::2]])),
        "boxes=permille",
        "timeout=3",
    )
    yield of_words(
        "words.server", read_address, "m@http://127.0.0.1:8000/v1", "a/b@https://[::1]/v1", "m@http://ü.example/x"
    )
    yield of_words(
        "words.servers",
        lambda text: read_addresses(read_address("m@http://a/v1"), text.split(",")),
        "http://b/v1,http://c:9/v1",
    )
    yield of_words(
        "words.server_options",
        _options,
        "timeout=3",
        'stop=["###"]',
        'extra_body={"top_k": 1}',
        "temperature=unset",
        "price_in=0.5",
        "max_pixels=100",
    )
    yield of_words("words.max_memory", _sizes, '{"0": "20GiB", "cpu": "60GiB"}', '{"cpu": 3}')
    yield of_words(
        "words.tasks",
        lambda text: (select_tasks(text), select_among(text, ("medqa",))),
        "all",
        "vqa,slake-*",
        "prepared,medqa",
    )
    yield of_words("words.limits", lambda text: read_limits([text]), "512", "report=512,vqa=2048")
    yield of_words("words.shard", read_shard, "2/8")
    yield of_words("words.workers", wanted, "2", "ray", "ray:2@auto", "ray@10.0.0.1:6379")
    yield of_words("words.device", DEVICE.fullmatch, "auto", "cuda:1")
    yield of_words("words.options", lambda text: _parsed_options(text.split(" ")), "seed=42", "seed=1 flag=x")
    yield of_words("words.datasets", lambda text: read_datasets([text]), "medqa=a/b", "a/b")
    yield of_words("words.repository", checked_repo, "owner/name")
    yield of_words("words.licence", lambda text: checked_licence(get_task("slake-vqa"), text), "CC BY 4.0")


def _options(text: str) -> object:
    name, _, value = text.partition("=")
    address = read_address("m@http://127.0.0.1/v1")
    given = choose_model("openai:m@http://127.0.0.1/v1", {name: value}).arguments
    return read_options(given, address)
