"""A listener that keeps what is said."""

from medbench.tasks.foundation.console import Silent


class Heard(Silent):
    """Keeps talk and warnings alike, in their order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.lines.append(text)
