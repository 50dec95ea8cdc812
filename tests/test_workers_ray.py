"""`medbench run --workers ray`: a real cluster of two nodes on loopback, whose workers, nodes and writer are killed."""

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen

import psutil
import pytest
from command_line import medbench_process, start_medbench
from ray.cluster_utils import Cluster
from test_workers_runs import assert_same_bytes, run_folder

from medbench.tasks.foundation.errors import EXIT_FAILED, EXIT_USAGE

STORE = 10**8


@pytest.fixture(scope="module", autouse=True)
def without_tokens() -> Iterator[None]:
    """Ray otherwise asks for what is in this user's home, and puts it there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        yield


@pytest.fixture(scope="module")
def cluster(without_tokens: None) -> Iterator[Cluster]:
    """A head that computes nothing, and two nodes that say that they have a GPU."""
    del without_tokens
    made = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    )
    for _ in range(2):
        made.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
    yield made
    made.shutdown()


def records(output: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in output.rglob("generations/*.jsonl"))


def when(output: Path, driver: "Popen[str]", at: int, do: Callable[[], object]) -> None:
    """Do something when so many records are written."""
    until = time.monotonic() + 200
    while records(output) < at:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < until, "nothing was answered"
        time.sleep(0.1)
    do()


def ray_workers() -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if "ray::Inside" in " ".join(one.info["cmdline"] or [])]


def remove_home(cluster: Cluster, worker: psutil.Process) -> None:
    """Remove the node that a worker is on: its raylet is the worker's parent."""
    parent = worker.ppid()
    [node] = [one for one in cluster.worker_nodes if one.all_processes["raylet"][0].process.pid == parent]
    cluster.remove_node(node, allow_graceful=False)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.xdist_group("ray")
def test_two_nodes_lose_a_writer_a_worker_and_a_node_and_no_answer(cluster: Cluster, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    words = ("run", "--model", "uni-med", "--tasks", "vqa,rec,qa,cls,slake-reg", "--output-dir")
    assert medbench_process(*words, one).returncode == 0
    total = records(one)
    ray = ("--workers", f"2@ray://{cluster.address}")
    first = start_medbench(*words, many, *ray)
    when(many, first, total // 5, lambda: os.kill(first.pid, signal.SIGKILL))
    first.communicate()
    before = records(many)
    second = start_medbench(*words, many, *ray)
    killed: list[psutil.Process] = []
    when(many, second, before + (total - before) // 4, lambda: killed.extend(ray_workers()))
    # The first of them dies alone, the other one with its node.
    killed[0].kill()
    when(many, second, before + (total - before) // 2, lambda: remove_home(cluster, killed[1]))
    said = second.communicate(timeout=400)[1]
    assert second.returncode == 0, said
    cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=STORE)
    assert "Workers: 2 on Ray, machines: 2, GPUs: 2." in said
    assert "Continuing: " in said
    assert_same_bytes(one, many)
    noted = json.loads((run_folder(many) / "env.json").read_text())["engine"]["workers"]
    assert (noted["count"], noted["deaths"]) == (2, 2)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_cluster_of_ones_own_comes_and_goes(small_data: Path, tmp_path: Path) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    words = ("run", "--tasks", "slake-*,cls", "--data-dir", small_data, "--output-dir")
    mock = ("--model", "mock:oracle")
    assert medbench_process(*words, one, *mock).returncode == 0
    ran = medbench_process(*words, many, *mock, "--workers", "2@ray")
    assert ran.returncode == 0, ran.stderr
    assert "Workers: 2 on Ray, machines: 1, GPUs: none." in ran.stderr
    assert_same_bytes(one, many)
    gpu = medbench_process(*words, many, "--workers", "ray", "--model", "uni-med", "--device", "cuda")
    assert gpu.returncode == EXIT_USAGE
    assert "the Ray cluster has no GPU" in gpu.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.usefixtures("cluster")
def test_auto_joins_the_cluster_that_runs_here(small_data: Path, tmp_path: Path) -> None:
    words = ("run", "--model", "mock:oracle", "--tasks", "cls", "--data-dir", small_data, "--output-dir", tmp_path)
    ran = medbench_process(*words, "--workers", "ray://auto")
    assert ran.returncode == 0, ran.stderr
    # A node that a test before this one killed may not be missed yet.
    assert re.search(r"Workers: \d on Ray, machines: \d, GPUs: none", ran.stderr)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_what_a_cluster_cannot_do_is_a_sentence(cluster: Cluster, small_data: Path, tmp_path: Path) -> None:
    words = ("run", "--tasks", "cls", "--data-dir", small_data, "--output-dir", tmp_path, "--workers")
    many = medbench_process(*words, f"9@ray://{cluster.address}", "--model", "mock:oracle")
    assert many.returncode == EXIT_USAGE
    assert re.search(r"asks for 9 workers, and the Ray cluster has \d processors", many.stderr), many.stderr
    gpu = medbench_process(*words, f"9@ray://{cluster.address}", "--model", "uni-med")
    assert gpu.returncode == EXIT_USAGE
    # A node that an earlier test ended may still be counted.
    assert re.search(r"asks for 9 workers, and the Ray cluster has \d GPUs, 1 for each", gpu.stderr), gpu.stderr
    wrong = medbench_process(*words, f"ray://{cluster.address}", "--model", "mock:oracle", "--checkpoint", "nowhere")
    assert wrong.returncode == EXIT_USAGE
    assert "does not take --checkpoint" in wrong.stderr
    assert "Traceback" not in many.stderr + gpu.stderr + wrong.stderr


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    ("address", "code", "told"),
    [
        ("ray://127.0.0.1:9", EXIT_FAILED, "Ray at 127.0.0.1:9 cannot be reached"),
        ("ray://some-host", EXIT_USAGE, "ray://some-host has no port"),
    ],
)
def test_a_cluster_that_is_not_there_is_a_sentence(
    address: str, code: int, told: str, small_data: Path, tmp_path: Path
) -> None:
    words = ("run", "--model", "mock:oracle", "--tasks", "cls", "--data-dir", small_data, "--output-dir", tmp_path)
    ran = medbench_process(*words, "--workers", address)
    assert ran.returncode == code
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr
