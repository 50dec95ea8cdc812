"""Makes docs/report.webp, the picture in README.md, from the report of `make demo`: `make picture`."""

import sys
import tempfile
import time
from pathlib import Path

from browser import chromium
from PIL import Image

from medbench.tasks.foundation.console import say

TARGET = Path(__file__).parent.parent / "docs" / "report.webp"
SIZE = (1280, 800)
WHAT = "#/samples/slake-rec"
_DRAWN = 1.0


def main(report: Path) -> None:
    """Open a report where two runs' boxes differ most, and keep what is seen."""
    with tempfile.TemporaryDirectory() as folder, chromium() as page:
        width, height = SIZE
        page.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1.5, mobile=False)
        page.open(report, WHAT)
        page.run("document.querySelector('.filter-box').open = false")
        time.sleep(_DRAWN)
        shot = Path(folder) / "shot.png"
        page.screenshot(shot)
        Image.open(shot).convert("RGB").save(TARGET, "WEBP", quality=82, method=6)
    say(f"Written to {TARGET} ({TARGET.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
