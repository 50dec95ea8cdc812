"""A coroutine in a thread of its own, and what it brings, as it brings it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Work = Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]


def in_background(work: Work[T]) -> Generator[list[T], None, None]:
    """Yield what a coroutine puts, in lists of whatever came since the last one; raise what it raises.

    It runs in an event loop of a thread of its own: it goes on while the caller writes, an interrupt never hits the
    inside of the loop, and a caller that has a loop of its own (a notebook) may use it. If the caller is interrupted
    while it waits, the work is cancelled, what was put until then is yielded, and only then the interrupt goes on. A
    caller that leaves early must close the generator.

    Args:
        work: Gets a function to put things with.
    """
    box: SimpleQueue[T | _End] = SimpleQueue()
    running = _Running(work, box)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="asking") as pool:
        done = pool.submit(running.run)
        done.add_done_callback(lambda _: box.put(_END))
        try:
            yield from _batches(box)
        except KeyboardInterrupt:
            running.cancel()
            yield from _rest(done, box)
            raise
        finally:
            running.cancel()
    done.result()


class _End:
    """Says that nothing more will be put."""


_END = _End()


class _Running(Generic[T]):
    """A coroutine that can be cancelled from another thread."""

    def __init__(self, work: Work[T], box: "SimpleQueue[T | _End]") -> None:
        self._work = work
        self._box = box
        self._lock = threading.Lock()
        self._cancelled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Run it to its end."""
        asyncio.run(self._main())

    async def _main(self) -> None:
        with self._lock:
            if self._cancelled:
                return
            self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        await self._work(self._box.put)

    def cancel(self) -> None:
        """Cancel it; does nothing if it has ended."""
        with self._lock:
            self._cancelled = True
        if self._loop is not None and self._task is not None:
            # A loop that is closed by now has nothing left to cancel.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._task.cancel)


def _batches(box: "SimpleQueue[T | _End]") -> Iterator[list[T]]:
    ended = False
    while not ended:
        found = [box.get()]
        while not box.empty():
            found.append(box.get())
        ended = found[-1] is _END
        items = [item for item in found if not isinstance(item, _End)]
        if items:
            yield items


def _rest(done: "Future[None]", box: "SimpleQueue[T | _End]") -> Iterator[list[T]]:
    """Yield what was put before the work ended."""
    wait([done])
    items = []
    while not box.empty():
        item = box.get()
        if not isinstance(item, _End):
            items.append(item)
    if items:
        yield items
