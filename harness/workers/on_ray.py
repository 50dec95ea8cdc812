"""Workers on a Ray cluster, of this machine's own or of many: Ray finds them a place, carries words, and sees deaths.

Ray repeats nothing by itself here: whom to start again, and what to ask again, is the pool's to say. `ray.init()`
without an address would join whatever cluster it finds, so one is always given.
"""

import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from medbench.harness.workers.inside import Died, Inside, Job, Message, Work
from medbench.harness.workers.pool import Crew
from medbench.harness.workers.wanted import Wanted
from medbench.tasks.foundation.errors import RunError, UsageError

# Names and texts travel, no pictures.
_STORE_BYTES = 100 * 1000 * 1000
_KNOCK_SECONDS = 10.0
# What of the environment workers on other machines get too.
_TOLD = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_DISABLE_PROGRESS_BARS", "HF_HOME", "MEDBENCH_HOME")
_START_ONE = (
    "Start a cluster (`ray start --head`, on the other machines `ray start --address=HOST:6379`), and run this on one "
    "of its machines, with the same versions of Python and Ray. If the cluster asks for a token: RAY_AUTH_MODE=token."
)
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}


class OnRay(Crew):
    """Actors of Ray, each with so many GPUs, and `threads` where none is set; `ours` is a cluster that ends with us."""

    def __init__(self, what: str, *, count: int, gpus: int, sharers: int, threads: int, ours: bool) -> None:
        self.what, self.count, self.sharers = what, count, sharers
        self._ours = ours
        told = {name: os.environ[name] for name in _TOLD if name in os.environ}
        self._options: dict[str, Any] = {
            "num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0, "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": str(threads), **told}},
        }  # fmt: skip
        self._actors: dict[int, Any] = {}
        self._saying: dict[int, Any] = {}  # What a worker says to its last work, as a stream.

    def start(self, number: int, job: Job) -> None:
        """Ask for an actor, wherever there is room, and have it load the model."""
        actor_class: Any = ray.remote(Inside)
        self._actors[number] = actor_class.options(**self._options).remote(job)
        self._saying[number] = self._actors[number].load.options(num_returns="streaming").remote()

    def give(self, number: int, work: Work) -> None:
        """Send work to an actor."""
        self._saying[number] = self._actors[number].do.options(num_returns="streaming").remote(work)

    def hear(self, seconds: float) -> list[tuple[int, Message]]:
        """Return what each said next that has said something."""
        if not self._saying:
            time.sleep(seconds)
            return []
        streams = list(self._saying.values())
        ray.wait(streams, num_returns=1, timeout=seconds)
        ready, _ = ray.wait(streams, num_returns=len(streams), timeout=0)
        speaking = [number for number, stream in self._saying.items() if stream in ready]
        return [(number, message) for number in speaking if (message := self._next(number)) is not None]

    def _next(self, number: int) -> Message | None:
        try:
            message: Message = ray.get(next(self._saying[number]))
        except StopIteration:
            del self._saying[number]
            return None
        except RayError as error:
            self.end(number)
            return Died(reason=_reason(error))
        return message

    def end(self, number: int) -> None:
        """Kill an actor."""
        self._saying.pop(number, None)
        with suppress(RayError):
            ray.kill(self._actors.pop(number))

    def dismiss(self) -> None:
        """Kill all actors."""
        for number in list(self._actors):
            self.end(number)

    def close(self) -> None:
        """Kill all actors, and leave the cluster."""
        self.dismiss()
        if self._ours:
            ray.shutdown()


def _reason(error: RayError) -> str:
    """Return why a worker is gone, in a line."""
    if isinstance(error, RayTaskError):
        lines = str(error).splitlines()
    else:
        # Where Ray says it: in the last of many lines, behind which it only names logs.
        lines = [line for line in str(error).splitlines() if "dead because" in line or "died" in line]
    return " ".join((lines or [type(error).__name__])[-1].split())[:300]


def on_ray(asked: Wanted, gpus_of: Callable[[int], int] | None, needs_gpus: bool) -> OnRay:
    """Join or start the cluster that is asked for, and return its workers.

    `gpus_of` says how many GPUs each is to have where there are so many; without it they have none. UsageError if there
    is no such cluster, or it has no room for so many.
    """
    there = ray.is_initialized()
    if not there:
        _refuse_nobody(asked.address)
        _join(asked.address)
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    gpus = int(sum(node.get("GPU", 0) for node in nodes)) if gpus_of else 0
    if needs_gpus and not gpus:
        problem = "--device cuda: the Ray cluster has no GPU."
        raise UsageError(problem, "Leave --device out, or start Ray where they are.")
    each = gpus_of(gpus) if gpus_of and gpus else 0
    nodes = [node for node in nodes if not each or node.get("GPU", 0) >= each]
    room = sum(int(node.get("GPU", 0)) // each if each else int(node["CPU"]) for node in nodes)
    count = asked.count or (room if each else len(nodes))
    if not 0 < count <= room:
        has = f"{gpus} GPUs, {each} for each" if each else f"{room} processors"
        raise UsageError(f"--workers asks for {count} workers, and the Ray cluster has {has}.", f"At most {room} fit.")
    sharers = math.ceil(count / len(nodes))
    threads = max(1, int(min(node["CPU"] for node in nodes)) // sharers)
    what = f"{count} on Ray, machines: {len(nodes)}, GPUs: {count * each or 'none'}"
    return OnRay(what, count=count, gpus=each, sharers=sharers, threads=threads, ours=not there)


def _refuse_nobody(address: str) -> None:
    """Refuse an address at which nobody listens: Ray would wait there for minutes."""
    if address in {"", "auto"}:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(f"--workers ray://{address} has no port.", "Write ray://HOST:6379, or the port that Ray told.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"Ray at {address} cannot be reached: {error}.", _START_ONE) from error


def _join(address: str) -> None:
    own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _STORE_BYTES}
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", **_QUIET, **({} if address else own))
    except (ConnectionError, RuntimeError, ValueError) as error:
        line = " ".join(str(error).split())[:300]
        raise RunError(f"Ray at {address or 'this machine'} cannot be used: {line}", _START_ONE) from error
    finally:
        if in_main:
            # Ray would end the process without a word where we stop in order.
            signal.signal(signal.SIGTERM, handler)
