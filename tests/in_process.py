"""The command line inside the test's own process: what it prints, and its exit code."""

import shlex
from dataclasses import dataclass

import pytest

from medbench.harness.cli import answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


class Terminal:
    """Runs commands and keeps what they print apart from the test's own output."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *words: object) -> Told:
        """Run `medbench WORDS...`."""
        self._capture.readouterr()
        code = answer([str(word) for word in words])
        said = self._capture.readouterr()
        return Told(code=code, out=said.out, err=said.err)

    def line(self, text: str) -> Told:
        """Run a line as a shell would read it."""
        return self(*shlex.split(text, comments=True)[1:])
