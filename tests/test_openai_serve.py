"""`transformers serve` with a tiny random LLaVA says through the adapter what the library says at home."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from command_line import medbench
from tiny_vlms import llava

from medbench.adapters.base import LoadOptions
from medbench.adapters.openai.client import ServedModel
from medbench.adapters.openai.client import load_served as load
from medbench.tasks.catalog import get_task
from medbench.tasks.prepared import Prepared, load_prepared
from medbench.tasks.sample import Sample
from medbench.tasks.suite import prepare_mini_suite

pytestmark = pytest.mark.slow
NEEDED = ("fastapi", "uvicorn", "openai")
TASKS = ("slake-vqa", "slake-rec", "pubmedqa")
LIMIT = 2
# A busy machine takes its time to import what serves.
START_SECONDS = 120


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A running server with the folder of its model."""

    url: str
    model: Path


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        reason = f"`transformers serve` needs {', '.join(missing)}; install the extra `dev`"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    home = tmp_path_factory.mktemp("serving")
    (home / "hub").mkdir()
    model = llava(home / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["transformers.cli.transformers", "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "--dtype", "float32", "--default-seed", "0"],
            env={**os.environ, **offline}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", server, home / "log")
            yield Serving(url=f"http://127.0.0.1:{port}/v1", model=model)
        finally:
            server.kill()
            server.wait()


def _wait_for(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with opener.open(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"The server did not start: {log.read_text(errors='replace')[-2000:]}")


@pytest.fixture(scope="module")
def mini() -> dict[str, Prepared]:
    folder = prepare_mini_suite()
    return {task: load_prepared(folder, task) for task in TASKS}


def at_home(model: Path, messages: list[dict[str, Any]], length: int) -> str:
    """Return what the library itself writes, greedily, to the very messages that are sent."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = cast("Any", AutoProcessor).from_pretrained(model, backend="pil")
    weights = cast("Any", AutoModelForImageTextToText).from_pretrained(model, dtype=torch.float32)
    told = [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]
    inputs = processor.apply_chat_template(
        told, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.inference_mode():
        ids = weights.generate(**inputs, max_new_tokens=length, do_sample=False)
    return str(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


def adapter_for(serving: Serving, **arguments: str) -> ServedModel:
    variant = f"{serving.model}@{serving.url}"
    adapter = load(LoadOptions(variant=variant, arguments={"profile": "transformers", **arguments}))
    assert isinstance(adapter, ServedModel)
    return adapter


def expected(adapter: ServedModel, model: Path, prepared: Prepared, sample: Sample, length: int) -> str:
    request = adapter.prepare(sample, get_task(prepared.task), prepared.source)
    return at_home(model, request.body["messages"], length)


def run(serving: Serving, output: Path, *arguments: str) -> dict[str, dict[str, dict[str, Any]]]:
    """Run the real command line; return the records by task and sample."""
    given = [word for argument in ("profile=transformers", *arguments) for word in ("--model-arg", argument)]
    result = medbench(
        "run", "--model", f"openai:{serving.model}@{serving.url}", "--tasks", ",".join(TASKS), "--limit", LIMIT,
        "--output-dir", output, *given,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    [folder] = output.glob("*/generations")
    return {
        file.stem: {record["sample_id"]: record for record in map(json.loads, file.read_text().splitlines())}
        for file in folder.iterdir()
    }


def test_a_served_model_says_what_it_says_at_home(serving: Serving, mini: dict[str, Prepared], tmp_path: Path) -> None:
    records = run(serving, tmp_path, "max_tokens=24")
    adapter = adapter_for(serving)
    for task, prepared in mini.items():
        for sample in prepared.samples("test")[:LIMIT]:
            record = records[task][sample.sample_id]
            assert record["error"] == ""
            assert record["text"] == expected(adapter, serving.model, prepared, sample, 24), (task, sample.sample_id)
            assert record["stop"] == ("length" if record["output_tokens"] == 24 else "eos")
            assert record["served"]["model"].startswith(str(serving.model))
            assert record["prompt_tokens"] > 16
    texts = {record["text"] for task in records.values() for record in task.values()}
    assert len(texts) > 1


def test_a_stop_text_is_cut_here_where_the_server_cannot(
    serving: Serving, mini: dict[str, Prepared], tmp_path: Path
) -> None:
    prepared = mini["slake-vqa"]
    sample = prepared.samples("test")[0]
    whole = expected(adapter_for(serving), serving.model, prepared, sample, 24)
    letter = next(letter for letter in whole[4:] if letter.isalnum())
    record = run(serving, tmp_path, "max_tokens=24", f"stop={letter}")["slake-vqa"][sample.sample_id]
    assert (record["text"], record["stop"]) == (whole[: whole.index(letter)], "stop")
