"""The 12 benchmarks of medbench: declarations, data, metrics. The names below are the public interface.

Every name is imported when it is first used, so that a light command does not pay for numpy or pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medbench.tasks.catalog import get_task, select_tasks, task_names
    from medbench.tasks.images import image_digest, open_image
    from medbench.tasks.prepare import prepare_suite, prepare_task
    from medbench.tasks.prepared import Manifest, Prepared, load_prepared
    from medbench.tasks.sample import Box, ImageRef, Sample, Split
    from medbench.tasks.spec import Kind, Reader, Reading, Skipped, TaskSpec

__all__ = [
    "Box",
    "ImageRef",
    "Kind",
    "Manifest",
    "Prepared",
    "Reader",
    "Reading",
    "Sample",
    "Skipped",
    "Split",
    "TaskSpec",
    "get_task",
    "image_digest",
    "load_prepared",
    "open_image",
    "prepare_suite",
    "prepare_task",
    "select_tasks",
    "task_names",
]

_MODULES = {
    "Box": "medbench.tasks.sample",
    "ImageRef": "medbench.tasks.sample",
    "Kind": "medbench.tasks.spec",
    "Manifest": "medbench.tasks.prepared",
    "Prepared": "medbench.tasks.prepared",
    "Reader": "medbench.tasks.spec",
    "Reading": "medbench.tasks.spec",
    "Sample": "medbench.tasks.sample",
    "Skipped": "medbench.tasks.spec",
    "Split": "medbench.tasks.sample",
    "TaskSpec": "medbench.tasks.spec",
    "get_task": "medbench.tasks.catalog",
    "image_digest": "medbench.tasks.images",
    "load_prepared": "medbench.tasks.prepared",
    "open_image": "medbench.tasks.images",
    "prepare_suite": "medbench.tasks.prepare",
    "prepare_task": "medbench.tasks.prepare",
    "select_tasks": "medbench.tasks.catalog",
    "task_names": "medbench.tasks.catalog",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
