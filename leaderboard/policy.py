"""What a page's Content-Security-Policy needs to know of its own style and script."""

import base64
import hashlib


def hash_source(text: str) -> str:
    """Return the source expression that admits exactly this inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
