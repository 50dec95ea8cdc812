"""Runs a command until whoever started it is gone, however it went: started as a file, it knows nothing of medbench.

Its standard input is a pipe that ends when the starter closes it or dies; then the command and all that it started are
ended, first kindly, and its log goes. What ended by itself keeps its log: somebody will want to know why.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

_KIND_SECONDS = 15.0


def end(child: "subprocess.Popen[bytes]") -> None:
    """End a command and all of its group: asked to at first, then made to."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, sign)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_KIND_SECONDS)


def main() -> int:
    """Run the command behind the first argument, which is its log; return its exit code, 0 if nobody needs it now."""
    log, *command = sys.argv[1:]
    with Path(log).open("wb") as stream:
        child = subprocess.Popen(  # noqa: S603 - the user's command
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )

    def watch() -> None:
        # Unbuffered: a reader that holds a lock would keep Python from ending.
        os.read(0, 1)
        unneeded.set()
        end(child)

    unneeded = threading.Event()
    threading.Thread(target=watch, daemon=True).start()
    code = child.wait()
    # What it started may have outlived it.
    end(child)
    if not unneeded.is_set():
        return code
    Path(log).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
