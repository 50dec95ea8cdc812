"""`vllm:FOLDER` with vLLM's real server: a tiny LLaVA answers all 12 tasks, and nothing is left behind."""

import sys
from pathlib import Path

import psutil
import pytest
import tiny_vlms
from command_line import medbench
from safetensors.torch import load_file, save_file

from medbench.tasks.foundation.files import read_json

SERVER = f"{sys.executable} -m vllm.entrypoints.openai.api_server --model"
OPTIONS = "--block-size 32 --dtype float32 --enforce-eager --max-num-seqs 32 --kv-cache-memory-bytes 1073741824"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A LLaVA with heads that vLLM takes and the weights' published names, which transformers 5 no longer writes."""
    folder = tiny_vlms.llava(tmp_path / "tiny-llava", head_dim=32)
    weights = load_file(folder / "model.safetensors")
    renamed = {name.replace("vision_tower.", "vision_tower.vision_model.", 1): one for name, one in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.timeout(900)
def test_a_tiny_model_is_served_for_all_tasks(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    common = [
        "--model-arg",
        f"command={SERVER}",
        "--model-arg",
        f"serve_args={OPTIONS}",
        "--tasks",
        "all",
        "--limit",
        "4",
    ]
    ran = medbench("run", "--model", f"vllm:{published}", *common, "--output-dir", tmp_path / "runs")
    assert ran.returncode == 0, ran.stderr
    [folder] = [file.parent for file in (tmp_path / "runs").glob("*/results.json")]
    results, served = read_json(folder / "results.json"), read_json(folder / "env.json")["engine"]["server"]
    assert len(results["tasks"]) == 12
    assert all(task["states"].get("error", 0) == 0 for task in results["tasks"].values())
    assert served["answered"] == 48
    # What the questions of one image share is computed once.
    assert served["cached_tokens"] > 0
    left = [one for one in psutil.process_iter(["cmdline"]) if str(published) in " ".join(one.info["cmdline"] or [])]
    assert not left
