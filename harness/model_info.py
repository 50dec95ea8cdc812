"""What is said of a model in a run's files."""

from dataclasses import dataclass

from pydantic import ConfigDict

from medbench.tasks.catalog import benchmark_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """Which model the numbers belong to.

    Attributes:
        name: On the command line.
        title: In tables.
        weights: Identity of the weights.
        device: Where it ran.
        dtype: Type of its weights.
        trained_on: Tasks whose train splits these weights have seen.
        declared: Whether that was said at all; an empty list says nothing otherwise.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    title: str
    weights: str
    device: str
    dtype: str
    trained_on: tuple[str, ...]
    declared: bool = False

    def is_zero_shot_on(self, task: str) -> bool:
        """Return whether the model is known not to have seen a task's train split, in whatever way it was asked."""
        seen = {benchmark_of(name) for name in self.trained_on}
        return self.declared and benchmark_of(task) not in seen
