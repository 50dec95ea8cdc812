"""A small server on this machine that plays the part of the Hugging Face Hub that takes uploads."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class WritableHub:
    """What was asked of it, and what it is to refuse.

    Attributes:
        status: Refuse everything with this status.
        files: Content of what was committed, by repository and path.
        created: Bodies of the requests that made repositories.
        tokens: What the requests said of who asks.
    """

    url: str = ""
    status: int = 0
    files: dict[str, dict[str, str]] = field(default_factory=dict)
    created: list[dict[str, Any]] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)


class _Handler(BaseHTTPRequestHandler):
    hub: WritableHub

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        del format, arguments

    def do_GET(self) -> None:
        self.hub.requests.append(f"GET {self.path}")
        self._send(404, {})

    def do_POST(self) -> None:
        hub, body = self.hub, self.rfile.read(int(self.headers.get("Content-Length", "0")))
        hub.requests.append(f"POST {self.path}")
        hub.tokens.add(self.headers.get("Authorization", ""))
        if hub.status:
            self._send(hub.status, {"error": "so it was wished"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            hub.created.append(asked)
            self._send(200, {"url": f"{hub.url}/datasets/{asked.get('organization', 'me')}/{asked['name']}"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self._send(200, {"files": modes})
        else:
            self._commit(body)

    def _commit(self, body: bytes) -> None:
        repo = self.path.removeprefix("/api/datasets/").partition("/commit/")[0]
        for line in body.splitlines():
            item = json.loads(line)
            if item["key"] == "file":
                content = base64.b64decode(item["value"]["content"]).decode()
                self.hub.files.setdefault(repo, {})[item["value"]["path"]] = content
        self._send(200, {"commitUrl": f"{self.hub.url}/datasets/{repo}/commit/{'a' * 40}", "commitOid": "a" * 40})

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def writable_hub() -> Iterator[WritableHub]:
    """Serve on a free port of this machine."""
    hub = WritableHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
