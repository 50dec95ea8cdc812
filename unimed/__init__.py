"""Uni-Med (arXiv 2409.17508) as a transformers model; usable without the harness.

The names below are imported when they are first used, so that `import medbench.unimed` stays instant.
"""

from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from medbench.unimed.configuration import UniMedConfig
    from medbench.unimed.modeling import UniMedForConditionalGeneration
    from medbench.unimed.processing import UniMedProcessor

__all__ = ["UniMedConfig", "UniMedForConditionalGeneration", "UniMedProcessor"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'unimed' has no attribute {name!r}")
    home = ("configuration", "modeling", "processing")[__all__.index(name)]
    return cast("object", getattr(import_module(f"medbench.unimed.{home}"), name))
