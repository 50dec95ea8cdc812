"""Arrays, pictures and records to bytes: small, and the same bytes each time."""

import json
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Grey = NDArray[np.uint8]


def jpeg(image: Image.Image, *, quality: int) -> bytes:
    """Return `image` as a JPEG with optimised tables and without metadata."""
    stream = BytesIO()
    image.save(stream, format="JPEG", quality=quality, optimize=True)
    return stream.getvalue()


def png(image: Image.Image) -> bytes:
    """Return `image` as an optimised PNG without metadata."""
    stream = BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def grey_image(values: NDArray[np.floating[Any]]) -> Image.Image:
    """Return a grey picture of an array [height, width] of intensities between 0 and 1."""
    levels: Grey = np.clip(np.rint(values * 255.0), 0, 255).astype(np.uint8)
    return Image.fromarray(levels)


def compact_json(value: object) -> bytes:
    """Return `value` as JSON without spaces, keys in their native order."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def json_rows(rows: list[dict[str, Any]]) -> bytes:
    """Return the rows as JSON lines, keys in their native order."""
    return b"".join(compact_json(row) + b"\n" for row in rows)
