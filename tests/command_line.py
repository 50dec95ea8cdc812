"""The real command line in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from subprocess import CompletedProcess, Popen

COMMAND = [sys.executable, "-m", "medbench.harness.cli"]


def medbench(*words: object, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run `medbench WORDS...` to its end and return what it printed."""
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
        env={**os.environ, **(env or {})},
    )


def start_medbench(*words: object) -> Popen[str]:
    """Start `medbench WORDS...` and return at once."""
    return Popen([*COMMAND, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
