"""Stopping a training between two steps, where its state is whole."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class StopRequest:
    """Whether the user asked to stop."""

    def __init__(self) -> None:
        self.given = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Remember the first signal; the second one stops at once."""
        if self.given:
            signal.default_int_handler(number, frame)
        self.given = True


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Let Ctrl-C and a polite kill end the training after the step that is being taken."""
    request = StopRequest()
    before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
