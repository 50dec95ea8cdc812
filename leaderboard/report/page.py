"""The document of a report as one HTML file that runs its own script and no other."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from medbench.leaderboard.policy import hash_source

_ASSETS = Path(__file__).parent / "assets"
SCRIPTS = (
    "dom.js", "data.js", "route.js", "plots.js", "summary.js", "filter.js", "list.js", "sample.js", "samples.js",
    "compare.js", "facts.js", "main.js",
)  # fmt: skip
"""In the order in which they are joined: one scope, no modules, since a file opened from disk may import none."""
# What could end the element early or, in older readers, a line; surrogates cannot be written as UTF-8.
_UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
_SLOT = re.compile(r"\{\{(\w+)\}\}")


def render_page(document: Mapping[str, object], images: Sequence[str]) -> str:
    """Return the report.

    Args:
        document: What is shown, as `medbench.leaderboard.report.document` makes it; JSON-compatible, without NaN.
        images: Data URIs that the document refers to by place.

    Nothing of `document` becomes markup: it is embedded as inert JSON, and the script shows it as text. The
    Content-Security-Policy admits exactly this script and this style, no other source of anything, and with Trusted
    Types no text as markup. The same arguments give the same bytes.
    """
    style, script = _assets()
    parts = {
        "policy": _policy(style, script),
        "style": style,
        "script": script,
        "document": inert_json(document),
        "images": inert_json(list(images)),
    }
    template = (_ASSETS / "page.html").read_text(encoding="utf-8")
    return _SLOT.sub(lambda slot: parts[slot[1]], template)


def inert_json(value: object) -> str:
    """Return JSON that no HTML parser reads as anything but text.

    Raises:
        ValueError: If a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@cache
def _assets() -> tuple[str, str]:
    style = (_ASSETS / "report.css").read_text(encoding="utf-8")
    script = "\n".join((_ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    return style, f'"use strict";\n(() => {{\n{script}\n}})();\n'


def _policy(style: str, script: str) -> str:
    rules = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": hash_source(style),
        "script-src": hash_source(script),
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
