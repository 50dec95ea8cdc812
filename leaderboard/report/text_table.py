"""Every text of a report once: samples refer to it by number."""


class TextTable:
    """Texts without repetition.

    Attributes:
        texts: In the order in which they came.
    """

    NONE = -1

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._places: dict[str, int] = {}

    def place(self, text: str | None) -> int:
        """Return the number of a text, `NONE` for None or an empty one."""
        if not text:
            return self.NONE
        if text not in self._places:
            self._places[text] = len(self.texts)
            self.texts.append(text)
        return self._places[text]
