"""What the engine is asked and what it answers."""

from dataclasses import dataclass
from pathlib import Path

from adapters.base import Generation, Prompt
from tasks.sample import Sample
from tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sample with its rendered prompt.

    Attributes:
        sample: The question.
        spec: Its task.
        source: Folder that the sample's image references start from.
        prompt: What the adapter rendered.
        length: Tokens of the prompt, visual ones included.
    """

    sample: Sample
    spec: TaskSpec
    source: Path
    prompt: Prompt
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a sample: a generation, or the reason why there is none."""

    task: str
    sample_id: str
    generation: Generation | None = None
    error: str = ""
