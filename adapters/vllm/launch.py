"""Starts `vllm serve` for the time of one run, waits until it is ready, and leaves nothing behind."""

import math
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path

import httpx2
from pydantic import SecretStr

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai.client import ServedModel
from medbench.adapters.openai.entry import ARGUMENTS as OF_SERVERS
from medbench.adapters.openai.entry import read_address, read_options
from medbench.adapters.vllm import guard
from medbench.adapters.vllm.entry import CARD
from medbench.tasks.foundation.confidential import SECRET_NAME
from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import RunError, UsageError
from medbench.tasks.foundation.files import fingerprint
from medbench.tasks.foundation.model_files import identity_of
from medbench.unimed.weights import find_folder

# What a server of our own must do: obey no file about sampling, and remember the beginnings of prompts. Said before the
# user's options, whose last word counts.
_ALWAYS = ("--generation-config", "vllm", "--enable-prefix-caching", "--enable-prompt-tokens-details")
_POLL_SECONDS = 1.0
_TOLD_EVERY = 30
_TOLD_LINES = 12


class Server:
    """A server on a free port of this machine, run by a guard that ends it when this process is gone."""

    def __init__(self, command: Sequence[str], most_seconds: float) -> None:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port: int = found.getsockname()[1]
        self._command = [*command, "--host", "127.0.0.1", "--port", str(self.port)]
        self._most_seconds = most_seconds
        self._guard: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it if it does not run, and wait until it answers; RunError, with the end of its log, if it does not."""
        if self._guard is not None:
            return
        descriptor, log = tempfile.mkstemp(prefix="medbench-vllm-", suffix=".log")
        os.close(descriptor)
        say(f"Starting vLLM; it writes to {log}.")
        self._guard = subprocess.Popen(  # noqa: S603 - the user's command
            [sys.executable, guard.__file__, log, *self._command], stdin=subprocess.PIPE, start_new_session=True
        )
        with ExitStack() as unless_ready:
            unless_ready.callback(self.stop)
            self._wait(self._guard, Path(log))
            unless_ready.pop_all()

    def stop(self) -> None:
        """End it and all of its processes; the log of one that still ran goes too."""
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
            self._guard.wait()
        self._guard = None

    def _wait(self, guarded: "subprocess.Popen[bytes]", log: Path) -> None:
        started = time.monotonic()
        for turn in count(1):
            if guarded.poll() is not None:
                raise _failed(f"The server ended with exit code {guarded.returncode} before it was ready", log)
            with suppress(httpx2.HTTPError):
                if httpx2.get(f"http://127.0.0.1:{self.port}/health", timeout=5).is_success:
                    return
            spent = time.monotonic() - started
            if spent > self._most_seconds:
                raise _failed(f"The server was not ready within {self._most_seconds:g} seconds", log)
            if turn % _TOLD_EVERY == 0:
                say(f"vLLM is starting ({spent:.0f} s).")
            time.sleep(_POLL_SECONDS)


def _failed(problem: str, log: Path) -> RunError:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TOLD_LINES:]
    return RunError(
        "\n    ".join([f"{problem}. It wrote last:", *lines]),
        "Options of the server go to --model-arg serve_args='...', a longer start to --model-arg "
        "start_timeout=SECONDS.",
    )


class ModelInVllm(ServedModel):
    """A served model whose server is this run's own; it is known by its files and options, not by an address."""

    card = CARD
    telling = ("max_model_len",)  # Its name and folder are ours.

    def __init__(self, server: Server, name: str, options: LoadOptions, *, weights: str) -> None:
        address = read_address(f"{name}@http://127.0.0.1:{server.port}/v1")
        given = {key: value for key, value in options.arguments.items() if key in OF_SERVERS}
        chosen = read_options({"profile": "vllm", **given}, address)
        super().__init__(address, chosen, key=SecretStr(""), seed=options.seed)
        self.weights_fingerprint = fingerprint(
            {"files": weights, "seed": options.seed, "serve_args": options.arguments["serve_args"]}
            | chosen.changing_answers()
        )
        self._server = server
        # Where nobody closes it, as in a notebook.
        weakref.finalize(self, server.stop)

    @property
    def title(self) -> str:
        """Name of the model, and what serves it."""
        return f"{self._address.model} (vLLM)"

    def close(self) -> None:
        """End the server."""
        self._server.stop()

    def wake(self) -> None:
        """Start the server, if it does not run."""
        self._server.start()


def load_in_vllm(options: LoadOptions) -> ModelInVllm:
    """Return a model whose `vllm serve` starts with the first question; UsageError without model or command."""
    arguments = options.arguments
    command, more = shlex.split(arguments["command"]), shlex.split(arguments["serve_args"])
    if not command or shutil.which(command[0]) is None:
        raise UsageError(
            f"There is no command {command[0]!r} to start vLLM with." if command else "The command of vLLM is empty.",
            "Install vLLM (pip install vllm, best in an environment of its own), and say where it is: "
            "--model-arg command='/path/to/that/environment/bin/vllm serve'.",
        )
    if not options.variant:
        raise UsageError("`vllm` names no model.", "Write --model vllm:OWNER/NAME or --model vllm:FOLDER.")
    if any(one.startswith("--") and SECRET_NAME.fullmatch(one.partition("=")[0].lstrip("-")) for one in more):
        way_out = "Leave it out: the server is asked from this machine alone. Others are named by variables (HF_TOKEN)."
        raise UsageError("serve_args has a key, which would be written into the run's files.", way_out)
    most = _seconds(arguments["start_timeout"])
    folder, _ = find_folder(
        options.variant, revision=arguments["revision"], files=["*"], what=repr(options.variant),
        hint="Write vllm:FOLDER or vllm:OWNER/NAME; gated models need `hf auth login` first.",
    )  # fmt: skip
    name = Path(options.variant.rstrip("/")).name
    server = Server([*command, str(folder), "--served-model-name", name, *_ALWAYS, *more], most)
    return ModelInVllm(server, name, options, weights=identity_of({"checkpoint": folder}))


def _seconds(text: str) -> float:
    try:
        most = float(text)
    except ValueError:
        most = math.nan
    if not most > 0:
        raise UsageError(f"--model-arg start_timeout={text} is no number of seconds.", "Give one above 0, like 1800.")
    return most
