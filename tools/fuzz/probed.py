"""What probing a model leaves (its document, the states, a run's scores, the rows for a leaderboard), and ablations."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import test_probing_page as probing_page

from medbench.harness.ablation.grid import Base, read_base
from medbench.harness.probing.document import read_probed
from medbench.harness.probing.states import _left
from medbench.harness.probing.targets import Asked, Parts, Target
from medbench.harness.probing.work import answers_of
from medbench.leaderboard.ablation.document import Ablation, RowScores, Worth, read_ablation
from medbench.leaderboard.probing.summary import probing_of
from tools.fuzz.workers import Reader

_NOBODY = np.zeros(0, dtype=np.intp)
_NO_TARGET = Target(
    asked=Asked(task="t"), kind="class", right=np.zeros(0), classes=(), clusters=np.zeros(0, dtype=np.str_),
    parts=Parts(train=_NOBODY, validation=_NOBODY, test=_NOBODY), needs_question=False, left_out={},
)  # fmt: skip


def _json(value: Any) -> bytes:  # noqa: ANN401 - any JSON
    return json.dumps(value).encode()


def probing() -> Iterator[Reader]:
    """Yield the readers of what probing a model left."""
    mode = {"target": "t", "model": "m", "weights": "w", "mode": "vision", "verdict": "shown", "first": "a",
            "second": "b", "difference": 0.5, "low": 0.1, "high": None, "p": 0.01, "would_show": 0.1, "why": ""}  # fmt: skip
    seeds = (_json({"schema": 1, "rows": [mode]}),)
    probed = asdict(probing_page.model(probing_page.target("dermamnist"), probing_page.target("busi")))
    yield Reader(name="probing", form="json", read=read_probed, file="probing.json", seeds=(_json(probed),))
    place = {"name": "vision 1", "module": "vision", "readout": "image", "width": 4}
    index = {"of": "x", "places": [place], "digests": ["a", ""]}
    yield Reader(
        name="states", form="json", read=lambda at: _left(at / "s.json", "x"), file="s.json", seeds=(_json(index),)
    )
    line = {"sample_id": "a", "strict": {"accuracy": {"statistics": [1, 1], "value": 1.0}}}
    yield Reader(
        name="answers of a run", form="lines", file="s.jsonl", seeds=(_json(line),),
        read=lambda at: answers_of(at / "s.jsonl", "accuracy", (), _NO_TARGET),
    )  # fmt: skip
    yield Reader(name="probed.json", form="json", read=probing_of, file="probed.json", seeds=seeds)


_BASE = Base(recipe="r", changes=(), steps=1, samples=1, seed=0, key="k")


def _ablation() -> dict[str, Any]:
    """Return a table of one row, made as the product makes it: a new field is asked for by the type checker."""
    row = RowScores(
        name="MLP", over="", parameters=1, scores={"slake-vqa": Worth(value=0.5)}, by_seed={"slake-vqa": (0.5,)},
        gains={}, p=None, p_adjusted=None, detectable=None, verdict="baseline", reported={},
    )  # fmt: skip
    return Ablation(
        table="2a", source="s", suite="mini", base=_BASE, seeds=1, metrics=(("slake-vqa", "bleu1"),),
        protocols={"paper": (row,)}, missing=(), notices=(), runs={"MLP": ("r",)},
    ).as_json()  # fmt: skip


def ablations() -> Iterator[Reader]:
    """Yield the readers of what a grid of trainings left."""
    yield Reader(
        name="ablation.json", form="json", read=lambda at: read_ablation(at / "input"), seeds=(_json(_ablation()),)
    )
    base = asdict(_BASE)
    yield Reader(name="base.json", form="json", read=lambda at: read_base(at / "input"), seeds=(_json(base),))
