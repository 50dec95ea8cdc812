"""A server on this machine that speaks chat completions, well or badly."""

import hashlib
import json
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from medbench.adapters.openai.requests import ChatRequest, messages_of


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server does with one request.

    Attributes:
        status: HTTP status.
        body: What is sent; a mapping as JSON.
        headers: Headers beside the usual ones.
        hang: Wait until the server stops before answering.
        cut: Promise the whole body, send half of it and close the connection; `silent` closes it before any byte.
    """

    status: int = 200
    body: Mapping[str, Any] | bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    cut: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it came in: its number, the question in it, how often that came before, and all else."""

    number: int
    question: str
    pictures: tuple[str, ...]
    before: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]
    under_way: int


Behaviour = Callable[[Asked], Answer]


def completion(text: str | None, finish_reason: str | None = "stop", **message: Any) -> dict[str, Any]:
    """Return a well-formed completion; token counts follow from the text."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "tiny-2024-05-01",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "finish_reason": finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": 100,
            "completion_tokens": len((text or "").split()) + 1,
            "prompt_tokens_details": {"cached_tokens": 40},
        },
    }


def chat(
    *, limit: int = 10, images: int = 0, fields: frozenset[str] = frozenset(), system: bool = False,
    length_field: str = "max_tokens",
) -> ChatRequest:  # fmt: skip
    """Return a request of so many images, whose answer may have so many tokens."""
    uris = ["data:image/png;base64,AAAA"] * images
    body = {"messages": messages_of("What?", uris, "Be brief." * system), length_field: limit}
    return ChatRequest(body=body, length_field=length_field, user_fields=fields)


def say(text: str) -> Behaviour:
    return lambda _: Answer(body=completion(text))


def echo(asked: Asked) -> Answer:
    """Answer with a digest of the question and its pictures: the same for the same request, other for another."""
    digest = hashlib.sha256("".join((asked.question, *asked.pictures)).encode()).hexdigest()[:12]
    return Answer(body=completion(f"answer {digest}"))


def failing_first(*failures: Answer, then: Behaviour = echo) -> Behaviour:
    """Meet each question's first requests with failures, in order, the next one well."""
    return lambda asked: failures[asked.before] if asked.before < len(failures) else then(asked)


def in_turn(*answers: Answer, then: Behaviour = echo) -> Behaviour:
    """Meet the first requests, whatever they ask, with these answers."""
    return lambda asked: answers[asked.number] if asked.number < len(answers) else then(asked)


def refusal(status: int, message: str = "no", code: str | None = None, **headers: str) -> Answer:
    body = {"error": {"message": message, "type": "some_error", "code": code}}
    return Answer(status=status, body=body, headers={name.replace("_", "-"): text for name, text in headers.items()})


@dataclass
class FaultServer:
    """The running server and what it saw.

    Attributes:
        url: Base URL.
        behave: What it does.
        told: What is to be read at a path, by GET.
        seconds: How long every answer takes.
        seen: Requests in the order in which they came.
        most: Most requests at the same time.
    """

    url: str = ""
    behave: Behaviour = echo
    told: dict[str, Mapping[str, Any] | bytes] = field(default_factory=dict)
    seconds: float = 0.0
    seen: list[Asked] = field(default_factory=list)
    most: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    dead: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _times: Counter[str] = field(default_factory=Counter)
    _under_way: int = 0

    def enter(self, body: Mapping[str, Any], headers: Mapping[str, str]) -> Asked:
        question, pictures = parts_of(body["messages"])
        key = "".join((question, *pictures))
        with self._lock:
            self._under_way += 1
            self.most = max(self.most, self._under_way)
            asked = Asked(
                number=len(self.seen), question=question, pictures=pictures, before=self._times[key], body=body,
                headers=headers, under_way=self._under_way,
            )  # fmt: skip
            self._times[key] += 1
            self.seen.append(asked)
        return asked

    def leave(self) -> None:
        with self._lock:
            self._under_way -= 1

    def times(self) -> list[int]:
        """Return how often each question was asked."""
        return sorted(self._times.values())

    def die(self) -> None:
        """End as a killed process does: whoever asks is refused, and who waits for an answer gets none."""
        self.dead.set()

    def forget(self) -> None:
        self.seen.clear()
        self._times.clear()
        self.most = 0


def parts_of(messages: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[str, ...]]:
    """Return the text of the last message and its data URIs."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content, ()
    texts = [part["text"] for part in content if part["type"] == "text"]
    return "".join(texts), tuple(part["image_url"]["url"] for part in content if part["type"] == "image_url")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    faults: FaultServer

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        del format, arguments

    def do_GET(self) -> None:
        told = self.faults.told.get(self.path)
        self.send(Answer(status=404, body={"detail": "Not Found"}) if told is None else Answer(body=told))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            self.send(Answer(status=404, body={"detail": "Not Found"}))
            return
        asked = self.faults.enter(body, {name.lower(): text for name, text in self.headers.items()})
        try:
            time.sleep(self.faults.seconds)
            answer = self.faults.behave(asked)
            if answer.hang:
                self.faults.stopped.wait(60)
        finally:
            self.faults.leave()
        self.send(answer)

    def send(self, answer: Answer) -> None:
        content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        if answer.cut == "silent" or self.faults.dead.is_set():
            self.close_connection = True
            return
        try:
            self.send_response(answer.status)
            for name, text in {"Content-Type": "application/json", **answer.headers}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if answer.cut else content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
        if answer.cut:
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        # A client that hangs up is part of the play.
        del request, client_address


@contextmanager
def fault_server(
    behave: Behaviour = echo, seconds: float = 0.0, certificate: tuple[Path, Path] | None = None, port: int = 0
) -> Iterator[FaultServer]:
    """Run a server on a port of this machine, a free one by default; with a certificate and its key it speaks https."""
    faults = FaultServer(behave=behave, seconds=seconds)
    server = _Server(("127.0.0.1", port), type("Handler", (_Handler,), {"faults": faults}))
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    faults.url = f"http{'s' if certificate else ''}://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()

    def end() -> None:
        faults.dead.wait()
        server.shutdown()
        server.server_close()

    threading.Thread(target=end, daemon=True).start()
    try:
        yield faults
    finally:
        faults.stopped.set()
        server.shutdown()
        server.server_close()
        thread.join()
