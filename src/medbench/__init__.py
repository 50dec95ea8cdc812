"""Compare medical multimodal LLMs honestly and fast.

    >>> import medbench
    >>> run = medbench.run("blind", tasks=["pubmedqa"], limit=20)
    >>> run.to_pandas()

Nothing heavy is imported before it is needed; a mistake raises `MedbenchError`, whose message says what to do next.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medbench.api import Comparison, Run, Scores, audit, compare, import_predictions, load_run, run, score, task
    from medbench.harness.predictions.rows import Source
    from medbench.leaderboard.audit.document import Audit
    from medbench.tasks.foundation.errors import MedbenchError
    from medbench.tasks.prepared import Prepared

__all__ = [
    "Audit", "Comparison", "MedbenchError", "Prepared", "Run", "Scores", "Source", "audit", "compare",
    "import_predictions", "load_run", "run", "score", "task",
]  # fmt: skip

# transformers and peft import these wherever they are installed, which then talk of kernels for other machines.
for _name in ("bitsandbytes", "torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'medbench' has no attribute {name!r}")
    homes = {"MedbenchError": "medbench.tasks.foundation.errors", "Source": "medbench.harness.predictions.rows"}
    home = homes.get(name, "medbench.api")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__
