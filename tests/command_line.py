"""The command line: in this process, which costs little, or in one of its own where a kill or an exit is tested."""

import io
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from subprocess import CompletedProcess, Popen

import pytest

from medbench.harness.cli import answer

COMMAND = [sys.executable, "-m", "medbench"]


def medbench(*words: object, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run `medbench WORDS...` in this process to its end and return what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        code = answer([str(word) for word in words])
    return CompletedProcess(["medbench", *map(str, words)], code, out.getvalue(), err.getvalue())


def medbench_process(*words: object, env: Mapping[str, str] | None = None) -> CompletedProcess[str]:
    """Run `medbench WORDS...` in a process of its own: what it imports, how it exits, another search path."""
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
