"""The 12 benchmarks of medbench: declarations, data, metrics. The names below are the public interface.

Every name is imported when it is first used, so that a light command does not pay for numpy or pydantic.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tasks.catalog import get_task, select_tasks, task_names
    from tasks.images import image_digest, open_image
    from tasks.prepare import prepare_suite, prepare_task
    from tasks.prepared import Manifest, Prepared, load_prepared
    from tasks.sample import Box, ImageRef, Sample, Split
    from tasks.spec import Kind, Reader, Reading, Skipped, TaskSpec

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
    "Box": "tasks.sample",
    "ImageRef": "tasks.sample",
    "Kind": "tasks.spec",
    "Manifest": "tasks.prepared",
    "Prepared": "tasks.prepared",
    "Reader": "tasks.spec",
    "Reading": "tasks.spec",
    "Sample": "tasks.sample",
    "Skipped": "tasks.spec",
    "Split": "tasks.sample",
    "TaskSpec": "tasks.spec",
    "get_task": "tasks.catalog",
    "image_digest": "tasks.images",
    "load_prepared": "tasks.prepared",
    "open_image": "tasks.images",
    "prepare_suite": "tasks.prepare",
    "prepare_task": "tasks.prepare",
    "select_tasks": "tasks.catalog",
    "task_names": "tasks.catalog",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
