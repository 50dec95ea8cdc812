"""Are weaknesses known of the packages that are locked? `make audit-packages`.

It fails if there is one. Where the index cannot be asked, or knows of no weakness in packages that are known to have
some, that is said and nothing fails: a silent index is not a clean bill.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from medbench.tasks.foundation.console import say

LOCK = Path(__file__).parent.parent / "requirements.lock"
# Both have had known weaknesses for years.
CONTROL = "jinja2==2.4.1\npyyaml==5.3\n"
_SECONDS = 300
_UNTOLD = "The index does not answer about known weaknesses here: nothing was audited."


def known(program: str, requirements: Path, *words: str) -> dict[str, list[str]] | None:
    """Return the weaknesses that are known of packages, by name and version; None if nobody could be asked."""
    command = [program, "-r", str(requirements), "--disable-pip", "-f", "json", "--progress-spinner", "off", *words]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)  # noqa: S603
        document: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError):
        return None
    asked = [one for one in document["dependencies"] if "skip_reason" not in one]
    return {f"{one['name']} {one['version']}": [found["id"] for found in one["vulns"]] for one in asked} or None


def audit(program: str) -> tuple[int, str]:
    """Return the exit code and what to say of the locked packages."""
    with tempfile.TemporaryDirectory() as folder:
        control = Path(folder) / "control.txt"
        control.write_text(CONTROL, encoding="utf-8")
        weak = known(program, control, "--no-deps")
    if not weak or not any(weak.values()):
        return 0, _UNTOLD
    found = known(program, LOCK, "--require-hashes")
    if found is None:
        return 0, _UNTOLD
    named = [f"{package}: {', '.join(ids)}" for package, ids in sorted(found.items()) if ids]
    return (
        (1, "Known weaknesses:\n" + "\n".join(named)) if named else (0, f"No known weakness in {len(found)} packages.")
    )


if __name__ == "__main__":
    code, told = audit(sys.argv[1])
    say(told)
    sys.exit(code)
