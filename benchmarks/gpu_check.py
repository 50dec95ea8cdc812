"""What only a GPU can show, in under eight minutes: `make gpu-check`, by a person who has one.

The engine's ids against `generate` in float32, how many agree in bfloat16, its speed against `generate` and, where it
is installed, vLLM, how many long rows a 7B decoder's memory holds, and how often the host waits in a step. All weights
are random. Prints a table and writes `benchmarks/gpu/NAME.json`, to be committed: no figure of a GPU stands in the docs
that is not in such a file. `--rehearse` goes through it on a CPU in a minute, with small sizes, and writes nothing.
"""

import argparse
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine_loads import LOADS, make_requests
from benchmarks.engine_model import MidSize
from benchmarks.engine_peers import Answers, engine_answers, one_by_one, sorted_batches, vllm_answers
from medbench.adapters.base import Dtype, LocalAdapter
from medbench.harness.engine import vllm
from medbench.harness.engine.budget import auto_budget
from medbench.harness.engine.pages import kernel_for
from medbench.harness.engine.requests import Request
from medbench.harness.identity import installed_version
from medbench.harness.phases import Phases
from medbench.tasks.foundation.console import emit_table, say

FOLDER = Path(__file__).parent / "gpu"
MOST_SECONDS = 450
# The decoders of TinyLlama-1.1B and of LLaMA-7B, by their published sizes.
ONE_B = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4,
}  # fmt: skip
SEVEN_B = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
BYTES_OF_SEVEN_B = 48 << 30  # Made in float32, then converted, beside some rows.
LONG_ROW = 2048
Part = Callable[["Check"], dict[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Where it runs, and how much of everything is asked."""

    device: str
    folder: Path  # Of pictures.
    rehearsed: bool

    def requests(self, name: str, every: int) -> list[Request]:
        """Return every so manyth request of a load, all questions of an image; a few when it is rehearsed."""
        [load] = [one for one in LOADS if one.name == name]
        asked = make_requests(load, self.folder)[::every]
        return [_short(one) for one in asked[:4]] if self.rehearsed else asked

    def model(self, dtype: Dtype = "float32", **sizes: int) -> MidSize:
        """Return a model of these sizes."""
        return MidSize(self.device, dtype, **({} if self.rehearsed else sizes))


def _short(request: Request) -> Request:
    few = min(6, request.decoding.max_new_tokens)
    return replace(request, decoding=replace(request.decoding, max_new_tokens=few))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all parts that there is time for, print and write what they found; 1 if answers differ in float32."""
    parser = argparse.ArgumentParser(description="Check the engine on a GPU, and measure it.")
    parser.add_argument("--rehearse", action="store_true", help="go through it on a CPU with small sizes")
    rehearsed = parser.parse_args(arguments).rehearse
    if not rehearsed and not torch.cuda.is_available():
        say("PyTorch sees no GPU here (torch.cuda.is_available() is false). `--rehearse` goes through it on the CPU.")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    began, found = time.perf_counter(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        check = Check(device="cpu" if rehearsed else "cuda:0", folder=Path(folder), rehearsed=rehearsed)
        for part in (about, equality, agreement, waits, speed, memory):
            if time.perf_counter() - began > MOST_SECONDS:
                found[part.__name__] = {"skipped": f"{MOST_SECONDS} seconds were over"}
                continue
            say(f"{part.__name__} ...")
            try:
                found[part.__name__] = part(check)
            except torch.OutOfMemoryError as error:
                found[part.__name__] = {"failed": str(error).splitlines()[0]}
            if not rehearsed:
                torch.cuda.empty_cache()
    rows = [[part, name, str(value)] for part, values in found.items() for name, value in values.items()]
    emit_table(["part", "what", "found"], rows)
    if not rehearsed:
        _write(found)
    return int(any(row["equal"] != row["of"] for row in found["equality"].values() if "of" in row))


def _write(found: dict[str, Any]) -> None:
    name = re.sub(r"[^a-z0-9]+", "-", str(found["about"]["device"]).lower()).strip("-")
    path = FOLDER / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    say(f"Written to {path}: commit it.")


def about(check: Check) -> dict[str, Any]:
    """Return what it runs on, and what reads the pages."""
    device = torch.device(check.device)
    reasons = {str(dtype): kernel_for(device, dtype)[1] for dtype in (torch.bfloat16, torch.float16)}
    gpu: dict[str, Any] = {"device": "CPU (rehearsed)"}
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
        gpu = {"device": torch.cuda.get_device_name(device), "capability": capability, "bytes": total, "free": free}
    return {
        **gpu, "torch": torch.__version__, "CUDA": torch.version.cuda,
        "transformers": installed_version("transformers"), "vllm": vllm.installed() or "not installed",
        **{f"attention in {dtype}": why or "flash attention over pages" for dtype, why in reasons.items()},
    }  # fmt: skip


def equality(check: Check) -> dict[str, Any]:
    """Return how many float32 answers are those of `generate`, one by one, with ids that never end early."""
    return _compared(check, check.model(), {"slake": 4, "rec": 4, "report": 16, "medqa": 8})


def agreement(check: Check) -> dict[str, Any]:
    """Return the same in bfloat16, where sums in another order decide close calls: random weights have many."""
    return _compared(check, check.model("bfloat16"), {"slake": 4, "report": 16})


def _compared(check: Check, model: MidSize, loads: dict[str, int]) -> dict[str, Any]:
    found = {}
    for name, every in loads.items():
        asked = check.requests(name, every)
        ours = engine_answers(model, asked, auto_budget(model.decoder), Phases())
        alone = one_by_one(model, asked)
        prefixes = [_alike(ours[key], ids) for key, ids in alone.items()]
        found[name] = {
            "equal": sum(ours[key] == ids for key, ids in alone.items()), "of": len(alone),
            "alike until token, on average": round(sum(prefixes) / len(prefixes), 1),
        }  # fmt: skip
    return found


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(second))


def waits(check: Check) -> dict[str, Any]:
    """Return how often the host waits for the GPU, by PyTorch's own watch; at most once a pass is meant."""
    model, phases = check.model("bfloat16"), Phases()
    asked = check.requests("slake", 1)
    engine_answers(model, asked[:4], auto_budget(model.decoder), Phases())
    with _watched(check.device) as met:
        engine_answers(model, asked, auto_budget(model.decoder), phases)
    passes, images = phases.counts["passes"], phases.counts["images encoded"]
    return {"waits": len(met), "passes": passes, "images": images, "each pass": round(len(met) / max(1, passes), 2)}


@contextmanager
def _watched(device: str) -> Iterator[list[str]]:
    met: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if device != "cpu":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield met
        finally:
            if device != "cpu":
                torch.cuda.set_sync_debug_mode("default")
        met += [str(one.message) for one in caught if "synchroniz" in str(one.message)]


def speed(check: Check) -> dict[str, Any]:
    """Return tokens a second of a 1B decoder in bfloat16, by wall clock, and how many times those of others."""
    model = check.model("bfloat16", **ONE_B)
    budget = auto_budget(model.decoder)
    ways: dict[str, tuple[Callable[[LocalAdapter, Sequence[Request]], Answers], int]] = {
        "ours": (lambda model, asked: engine_answers(model, asked, budget, Phases()), 1),
        "generate, batches of 40 by length": (sorted_batches, 1),
        "generate, one by one": (one_by_one, 16),
    }
    if vllm.installed() and not check.rehearsed:
        small = replace(budget, tokens=budget.tokens // 3)
        llm = vllm.start(model, small, {"gpu_memory_utilization": 0.3})
        ways["vllm"] = (lambda model, asked: vllm_answers(model, asked, small, llm), 1)
    found: dict[str, Any] = {}
    for name in ("slake", "report"):
        asked = check.requests(name, 1)
        rates = {}
        for way, (answer, every) in ways.items():
            answer(model, asked[:8])
            rates[way] = _rate(check, lambda some, answer=answer: answer(model, some), asked[::every])  # type: ignore[misc]
        found |= {
            f"{name}: {way}": f"{rate:.0f} tokens/s, ours {rates['ours'] / rate:.2f} times"
            for way, rate in rates.items()
        }
    return found


def _rate(check: Check, answer: Callable[[Sequence[Request]], Answers], asked: Sequence[Request]) -> float:
    def done() -> float:
        if check.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    started = done()
    written = sum(map(len, answer(asked).values()))
    return written / (done() - started)


def memory(check: Check) -> dict[str, Any]:
    """Return how many rows of 2,048 tokens a 7B decoder in bfloat16 holds here, and what answering reports peaks at."""
    if not check.rehearsed and torch.cuda.mem_get_info()[0] < BYTES_OF_SEVEN_B:
        return {"skipped": f"a 7B decoder is made where {BYTES_OF_SEVEN_B >> 30} GiB are free"}
    model = check.model("bfloat16", **SEVEN_B)
    budget, phases = auto_budget(model.decoder), Phases()
    if not check.rehearsed:
        torch.cuda.reset_peak_memory_stats()
    engine_answers(model, check.requests("report", 4), budget, phases)
    peak = 0 if check.rehearsed else torch.cuda.max_memory_allocated()
    return {
        "budget": asdict(budget), f"rows of {LONG_ROW} tokens": budget.tokens // LONG_ROW,
        "out of memory": phases.counts["out of memory"], "peak bytes": peak,
        "keys and values": phases.notes["keys and values"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
