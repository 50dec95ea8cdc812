"""A stand-in for `vllm serve`: it takes the same command line, starts a child as vLLM does, and answers everything.

`own_server.py MODE serve MODEL --port N ...`; the mode is `well`, `never` (it is never ready) or `ends` (with code 3).
"""

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Handler(BaseHTTPRequestHandler):
    """Says `yes` to every question."""

    def do_GET(self) -> None:
        models = {"object": "list", "data": [{"id": argument("--served-model-name"), "owned_by": "vllm"}]}
        self.send(models if self.path.endswith("/models") else {"version": "0.0.1"})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        message = {"role": "assistant", "content": "yes"}
        self.send({"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})

    def send(self, document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no line for every request."""


def argument(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def main() -> None:
    sys.stdout.write(f"loading {' '.join(sys.argv[2:])}\n")
    sys.stdout.flush()
    if sys.argv[1] == "ends":
        sys.exit(3)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "child-of-own-server", argument("--port")])
    if sys.argv[1] == "never":
        time.sleep(600)
    ThreadingHTTPServer((argument("--host"), int(argument("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
