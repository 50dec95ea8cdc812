"""What is still to be answered, some of it looked ahead at."""

from collections import deque
from collections.abc import Iterator, Sequence

from medbench.harness.engine.grouping import Beginning, Member
from medbench.harness.engine.pictures import AHEAD, Pictures
from medbench.harness.engine.vision import image_keys


class Upcoming:
    """Members in their order; their pictures are read ahead, and who still needs a beginning is known."""

    def __init__(self, windows: Iterator[list[Member]], pictures: Pictures | None) -> None:
        self._windows = windows
        self._pictures = pictures
        self._members: deque[Member] = deque()
        self._users: dict[Beginning, set[Member]] = {}

    def peek(self) -> Member | None:
        """Return the next member, or None if there is none left."""
        while len(self._members) < AHEAD:
            window = next(self._windows, None)
            if window is None:
                break
            self._members.extend(window)
            if self._pictures is not None:
                self._pictures.expect(image_keys(member.request for member in window))
            self._note_users(window)
        return self._members[0] if self._members else None

    def take(self) -> Member:
        """Return the next member and remove it."""
        return self._members.popleft()

    def put_back(self, members: Sequence[Member]) -> None:
        """Let members come again, first of all."""
        self._members.extendleft(reversed(members))
        self._note_users(members)

    def forget(self, members: Sequence[Member]) -> list[Beginning]:
        """Return the beginnings that nobody needs any more, now that these members are answered or failed."""
        idle: list[Beginning] = []
        for member in members:
            if member.beginning is not None:
                users = self._users[member.beginning]
                users.discard(member)
                if not users:
                    del self._users[member.beginning]
                    idle.append(member.beginning)
        return idle

    def _note_users(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.beginning is not None:
                self._users.setdefault(member.beginning, set()).add(member)
