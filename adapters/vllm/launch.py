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
from dataclasses import dataclass
from pathlib import Path

import httpx2
from pydantic import SecretStr

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai.client import ServedModel
from medbench.adapters.openai.entry import ARGUMENTS as OF_SERVERS
from medbench.adapters.openai.entry import read_address, read_options
from medbench.adapters.vllm import guard
from medbench.adapters.vllm.entry import CARD
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that is starting or runs: its guard, where it is asked, and where it writes what it does."""

    guard: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def stop(self) -> None:
        """End the server and all of its processes; the log of one that still ran goes too."""
        if self.guard.stdin is not None:
            self.guard.stdin.close()
        self.guard.wait()

    def wait(self, most: float) -> None:
        """Wait until the server answers. Raises RunError, with the end of its log, if it ends or takes too long."""
        started = time.monotonic()
        for turn in range(1, sys.maxsize):
            if self.guard.poll() is not None:
                code = self.guard.returncode
                raise self._failed(f"The server ended with exit code {code} before it was ready; see {self.log}.")
            try:
                if httpx2.get(f"http://127.0.0.1:{self.port}/health", timeout=5).is_success:
                    return
            except httpx2.HTTPError:
                pass
            spent = time.monotonic() - started
            if spent > most:
                raise self._failed(f"The server was not ready within {most:g} seconds.")
            if turn % _TOLD_EVERY == 0:
                say(f"vLLM is starting ({spent:.0f} s); it writes to {self.log}.")
            time.sleep(_POLL_SECONDS)

    def _failed(self, problem: str) -> RunError:
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TOLD_LINES:]
        end = "".join(f"\n    {line}" for line in lines)
        return RunError(
            f"{problem} It wrote last:{end}",
            "Options of the server go to --model-arg serve_args='...', a longer start to --model-arg "
            "start_timeout=SECONDS.",
        )


def start(command: Sequence[str]) -> Server:
    """Start a server on a free port of this machine; its own child, which ends it when this process ends."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    descriptor, log = tempfile.mkstemp(prefix="medbench-vllm-", suffix=".log")
    os.close(descriptor)
    process = subprocess.Popen(  # noqa: S603 - the user's command
        [sys.executable, guard.__file__, log, *command, "--host", "127.0.0.1", "--port", str(port)],
        stdin=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    return Server(guard=process, port=port, log=Path(log))


class ModelInVllm(ServedModel):
    """A served model whose server is this run's own; it is known by its files and options, not by an address."""

    card = CARD

    def __init__(self, server: Server, name: str, options: LoadOptions, *, weights: str) -> None:
        address = read_address(f"{name}@http://127.0.0.1:{server.port}/v1")
        given = {key: value for key, value in options.arguments.items() if key in OF_SERVERS}
        chosen = read_options({"profile": "vllm", **given}, address)
        super().__init__(address, chosen, key=SecretStr(""), seed=options.seed)
        self.weights_fingerprint = fingerprint(
            {"files": weights, "seed": options.seed, "serve_args": options.arguments["serve_args"]}
            | chosen.changing_answers()
        )
        self._stop = weakref.finalize(self, server.stop)

    @property
    def title(self) -> str:
        """Name of the model, and what serves it."""
        return f"{self._address.model} (vLLM)"


def load_in_vllm(options: LoadOptions) -> ModelInVllm:
    """Start `vllm serve` with the model of a folder or a repository, and return it when it is ready.

    UsageError if there is no such model or no such command; RunError if the server does not start.
    """
    arguments = options.arguments
    command, more = shlex.split(arguments["command"]), shlex.split(arguments["serve_args"])
    if not command or shutil.which(command[0]) is None:
        raise UsageError(
            f"There is no command {command[:1] or 'at all'} to start vLLM with.",
            "Install vLLM (pip install vllm, best in an environment of its own), and say where it is: "
            "--model-arg command='/path/to/that/environment/bin/vllm serve'.",
        )
    if not options.variant:
        raise UsageError("`vllm` names no model.", "Write --model vllm:OWNER/NAME or --model vllm:FOLDER.")
    most = _seconds(arguments["start_timeout"])
    folder, _ = find_folder(
        options.variant, revision=arguments["revision"], files=["*"], what=repr(options.variant),
        hint="Write vllm:FOLDER or vllm:OWNER/NAME; gated models need `hf auth login` first.",
    )  # fmt: skip
    name = Path(options.variant.rstrip("/")).name
    server = start([*command, str(folder), "--served-model-name", name, *_ALWAYS, *more])
    try:
        say(f"Starting vLLM with {name}.")
        server.wait(most)
    except BaseException:
        server.stop()
        raise
    return ModelInVllm(server, name, options, weights=identity_of({"checkpoint": folder}))


def _seconds(text: str) -> float:
    try:
        most = float(text)
    except ValueError:
        most = math.nan
    if not most > 0:
        raise UsageError(f"--model-arg start_timeout={text} is no number of seconds.", "Give one above 0, like 1800.")
    return most
