"""A stand-in for Java: METEOR's program and the PTB tokenizer in one, that die or hang where a text says so.

A word of a text says what happens: `die` (it ends), `kill` (it ends as if the system had killed it), `memory` (it ends
with Java's own words), `hang`. What is named in the file FAKE_JAVA_ONCE happens once and never again. With
FAKE_JAVA_BROKEN it ends on every line, and says why.
"""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path


def misbehave(line: str) -> None:
    words = set(line.split())
    once = os.environ.get("FAKE_JAVA_ONCE")
    if words & {"die", "kill", "memory", "hang"} and once:
        if Path(once).exists():
            return
        Path(once).touch()
    if "FAKE_JAVA_BROKEN" in os.environ:
        sys.exit(os.environ["FAKE_JAVA_BROKEN"])
    if "die" in words:
        sys.exit("it died")
    if "kill" in words:
        os.kill(os.getpid(), signal.SIGKILL)
    if "memory" in words:
        sys.exit("java.lang.OutOfMemoryError: Java heap space")
    if "hang" in words:
        time.sleep(600)


def scored(line: str) -> str:
    """Return METEOR's numbers of `SCORE ||| reference ||| prediction`: every word that both have is an exact match."""
    reference, prediction = (part.split() for part in line.split("|||")[1:])
    common = sum((Counter(reference) & Counter(prediction)).values())
    stages = [common, common, *[0] * 14]
    numbers = [len(prediction), len(reference), 0, 0, *stages, 1, common, common]
    return " ".join(f"{number:.1f}" for number in numbers)


def main() -> None:
    if "Meteor" in sys.argv:
        for line in sys.stdin:
            misbehave(line)
            sys.stdout.write(scored(line) + "\n")
            sys.stdout.flush()
        return
    for line in sys.stdin:
        sys.stdout.write(line.lower())


if __name__ == "__main__":
    main()
