"""The command line inside the test's own process, with the answer of a process."""

from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from subprocess import CompletedProcess

from medbench.harness.cli import answer


def medbench(*words: object) -> CompletedProcess[str]:
    """Run `medbench WORDS...` and return what it printed."""
    arguments = [str(word) for word in words]
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        code = answer(arguments)
    return CompletedProcess(arguments, code, out.getvalue(), err.getvalue())
