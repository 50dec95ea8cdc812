"""Which workers a run gets: one process for each GPU, several on the processors, or those of a Ray cluster."""

import math
import os
from importlib.util import find_spec

from medbench.adapters.catalog import ChosenModel
from medbench.harness.engine.choice import vllm_arguments
from medbench.harness.phases import Phases
from medbench.harness.settings import Settings
from medbench.harness.workers.pool import Crew, Pool
from medbench.harness.workers.processes import Processes
from medbench.harness.workers.wanted import wanted
from medbench.harness.workload import Workload
from medbench.tasks.foundation.errors import UsageError

_SPLIT = ("tensor_parallel_size", "pipeline_parallel_size")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def hired(settings: Settings, workload: Workload, model: ChosenModel, phases: Phases) -> Pool:
    """Return the workers that the settings ask for; UsageError if they are not to be had here."""
    asked = wanted(settings.workers or "1")
    if settings.device == "mps" or ":" in settings.device:
        problem = f"--device {settings.device} is one device, and --workers asks for several processes."
        hint = "Leave --device out: each worker gets a GPU of its own, or a share of the processors."
        raise UsageError(problem, hint)
    on_some = "device" in model.entry.takes and settings.device != "cpu"
    crew: Crew
    if asked.ray:
        if find_spec("ray") is None:
            raise UsageError("Ray is not installed here.", "pip install 'medbench[ray]', on every machine.")
        from medbench.harness.workers.on_ray import on_ray

        needed = on_some and settings.device == "cuda"
        crew = on_ray(asked, (lambda there: gpus_each(settings, asked.count, there)) if on_some else None, needed)
    else:
        count = asked.count or 1
        crew = Processes(count, local_gpus(count, settings) if on_some and on_gpus(settings) else None)
    return Pool(crew, settings, workload, model, phases)


def gpus_each(settings: Settings, count: int | None, there: int) -> int:
    """Return how many GPUs a worker needs: those among which vLLM splits the model, an equal share of all, or one."""
    if settings.device_map is not None and count is not None:
        return max(1, there // count)
    given = vllm_arguments(settings.model_args)
    sizes = [given.get(name, 1) for name in _SPLIT]
    return math.prod(size for size in sizes if isinstance(size, int) and size > 0)


def on_gpus(settings: Settings) -> bool:
    """Return whether workers of this machine are to have GPUs."""
    import torch

    if settings.device == "auto" and not torch.cuda.is_available() and torch.backends.mps.is_available():
        raise UsageError("This machine has one GPU for all.", "Leave --workers out, or add --device cpu.")
    return settings.device == "cuda" or torch.cuda.is_available()


def local_gpus(count: int, settings: Settings) -> list[str]:
    """Return the GPUs of each worker, as its `CUDA_VISIBLE_DEVICES`; UsageError if there are too few."""
    import torch

    there = torch.cuda.device_count()
    each = gpus_each(settings, count, there)
    if count * each > there:
        needed = f"--workers {count} needs {count * each} GPUs{f', {each} for each' if each > 1 else ''}"
        way_out = f"Give --workers {there // each}" if there >= each else "Leave --workers out"
        problem = f"{needed}; there {'is' if there == 1 else 'are'} {there}."
        raise UsageError(problem, f"{way_out}, or add --device cpu.")
    visible = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    names = visible[:there] or [str(number) for number in range(there)]
    return [",".join(names[first : first + each]) for first in range(0, count * each, each)]
