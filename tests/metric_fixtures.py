"""What the official code and the packages said of the texts and boxes of `fixtures/metrics`."""

import json
from typing import Any

from fixture_root import fixtures


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (fixtures() / "metrics" / name).read_text("utf-8").splitlines()]


def pairs(*kinds: str) -> list[dict[str, str]]:
    return [pair for pair in lines("pairs2000.jsonl") if not kinds or pair["kind"] in kinds]


def official() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((fixtures() / "metrics" / "official_unimed.json").read_text("utf-8"))
    return document


def scores(kind: str, name: str = "scores_unimed.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((fixtures() / "metrics" / name).read_text("utf-8"))["scores"][kind]
    return found
