"""How fast `medbench audit data` looks through training data, and how much memory that takes.

Ten thousand invented test texts of 50 words against 100,000 and more training rows; ten thousand invented test images
against a hundredth as many images of 224 x 224 pixels, which are fingerprinted and compared with all. Prints rows per
second, what a million rows would take, and the growth of memory between the first tenth and the end, which should be
none. `python -m benchmarks.audit_data [ROWS]`; a million rows take some minutes.
"""

import random
import resource
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import psutil
from PIL import Image

from medbench.leaderboard.audit.data.items import Item, TaskItems
from medbench.leaderboard.audit.data.scan import ItemIndex, Scan
from medbench.tasks.alike import ImageIndex, Print, Printer, print_of
from medbench.tasks.foundation.console import emit_table, say

TEST_ROWS = 10_000
ROWS = 100_000
PLANTED_EVERY = 1000
IMAGES_PER_ROW = 100
IMAGE_SIZE = (224, 224)
MILLION = 1_000_000
VOCABULARY = 20_000
WORDS = 50
TEMPLATE = "the heart size is normal and there is no focal consolidation pleural effusion or pneumothorax"


def main() -> None:
    """Measure texts and images and print one row for each."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    say(f"{TEST_ROWS} test rows, {rows} training rows, one process; a fifth of the texts begins with one template")
    emit_table(
        ["what", "rows", "seconds", "rows/s", "min per million", "found", "MB grown", "MB peak"],
        [_texts(rows), _images(rows // IMAGES_PER_ROW)],
    )


def _texts(rows: int) -> list[str]:
    tests = [_text(random.Random(f"test {number}")) for number in range(TEST_ROWS)]
    task = TaskItems(
        task="invented",
        kind="report",
        family="invented",
        decisive="image",
        items=tuple(Item(item_id=str(number), texts=(text,), answer=text) for number, text in enumerate(tests)),
    )
    scan = Scan(ItemIndex([task], Printer(enabled=False)), Printer(enabled=False))
    scan.feed(_rows(tests, rows // 10, start=0))
    before, start = _resident(), time.perf_counter()
    tally = scan.feed(_rows(tests, rows - rows // 10, start=rows // 10))[""]
    seconds = time.perf_counter() - start
    return _row("texts: equal, contained", rows - rows // 10, seconds, int(tally.shared["near_text"].sum()), before)


def _rows(tests: Sequence[str], count: int, *, start: int) -> Iterator[Item]:
    for number in range(start, start + count):
        planted = number % PLANTED_EVERY == 0
        text = tests[number // PLANTED_EVERY % len(tests)] if planted else _text(random.Random(number))
        yield Item(item_id=str(number), texts=(text,))


def _text(draw: random.Random) -> str:
    words = [f"w{int(VOCABULARY * draw.random() ** 3)}" for _ in range(WORDS)]
    return " ".join([TEMPLATE, *words] if draw.random() < 1 / 5 else words)


def _images(rows: int) -> list[str]:
    draw = np.random.default_rng(0)
    tests = [_print(draw) for _ in range(TEST_ROWS)]
    planted = _image(draw)
    index = ImageIndex([*tests, print_of(planted)])
    before, seconds, found = _resident(), 0.0, 0
    for place in range(rows):
        image = planted if place % (PLANTED_EVERY // IMAGES_PER_ROW) == 0 else _image(draw)
        begun = time.perf_counter()
        found += sum(match.how != "review" for match in index.match([print_of(image)]))
        seconds += time.perf_counter() - begun
    return _row("images: fingerprinted, compared in three views", rows, seconds, found, before)


def _image(draw: np.random.Generator) -> Image.Image:
    return Image.fromarray(draw.integers(0, 256, (*IMAGE_SIZE, 3), dtype=np.uint8))


def _print(draw: np.random.Generator) -> Print:
    views = draw.integers(0, 2**64, (3, 4), dtype=np.uint64)
    return Print(views.tobytes().hex(), views, flat=False, comparable=True)


def _row(name: str, rows: int, seconds: float, found: int, before: float) -> list[str]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rate = rows / seconds
    numbers = [f"{seconds:.1f}", f"{rate:.0f}", f"{MILLION / rate / 60:.1f}", str(found)]
    return [name, str(rows), *numbers, f"{_resident() - before:.0f}", f"{peak:.0f}"]


def _resident() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


if __name__ == "__main__":
    main()
