"""The bundled mini suite: 12 small, licence-clean tasks in the native layout of their datasets."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
"""Folder of the built suite; `suite.json` in it says where each item comes from."""
