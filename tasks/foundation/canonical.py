"""Values that JSON can hold."""

import math
from typing import Any


def finite(value: Any) -> Any:  # noqa: ANN401 - any JSON
    """Return a document with None in place of every number that is none."""
    if isinstance(value, dict):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
