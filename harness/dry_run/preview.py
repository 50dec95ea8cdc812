"""What a task would ask: its first prompt as the model reads it, and how long all are."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from medbench.adapters.base import Adapter, ImageSlot, LocalAdapter, Size
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.engine.requests import Request, Sampling, make_request
from medbench.harness.workload import TaskLoad
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import size_of_image
from medbench.tasks.sample import Sample

# What a token of English is long on average; it only serves an estimate.
_CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a task would ask.

    Attributes:
        task: Its name.
        samples: How many are asked.
        images: Different images that they show.
        first: Identity of the sample whose prompt is shown; empty if none can be asked.
        prompt: Its prompt, special tokens and places of images included.
        sizes: Sizes of its images.
        lengths: Tokens of every prompt that can be asked; empty where only a server counts them.
        longest_answer: Most tokens of an answer; 0 where the model alone decides.
        as_references: Tokens of all answers, were they as long as the references.
        failures: Samples that could not be asked.
        first_failure: Why the first of them could not.
    """

    task: str
    samples: int
    images: int
    first: str
    prompt: str
    sizes: tuple[Size, ...]
    lengths: tuple[int, ...] = ()
    longest_answer: int = 0
    as_references: int = 0
    failures: int = 0
    first_failure: str = ""


def preview_local(adapter: LocalAdapter, load: TaskLoad, choosing: Sampling) -> tuple[Preview, list[Request]]:
    """Return a preview, and all samples as requests; pictures are only read as far as a prompt depends on them."""
    requests: list[Request] = []
    failures: list[str] = []
    for sample in load.samples:
        try:
            requests.append(make_request(adapter, sample, load.spec, load.prepared.source, choosing))
        except SampleError as error:
            failures.append(f"{sample.sample_id}: {error}")
    first = requests[0] if requests else None
    longest = adapter.longest_answer(load.spec)
    preview = Preview(
        task=load.spec.name,
        samples=len(load.samples),
        images=_images(load),
        first=first.sample.sample_id if first else "",
        prompt=readable_prompt(adapter, first) if first else "",
        sizes=_sizes(load, first.sample) if first else (),
        lengths=tuple(request.length for request in requests),
        longest_answer=longest,
        as_references=sum(min(longest, _tokens_of(request.sample.reference)) for request in requests),
        failures=len(failures),
        first_failure=failures[0] if failures else "",
    )
    return preview, requests


def preview_first(adapter: Adapter, load: TaskLoad) -> Preview:
    """Return a preview of a model that is not driven here: only the first sample is prepared, nothing is sent."""
    first = load.samples[0]
    try:
        prompt, failure = _said_to(adapter, load, first), ""
    except SampleError as error:
        prompt, failure = "", f"{first.sample_id}: {error}"
    return Preview(
        task=load.spec.name, samples=len(load.samples), images=_images(load), first=first.sample_id, prompt=prompt,
        sizes=_sizes(load, first), failures=bool(failure), first_failure=failure,
    )  # fmt: skip


def _said_to(adapter: Adapter, load: TaskLoad, sample: Sample) -> str:
    if isinstance(adapter, RemoteAdapter):
        return adapter.readable(adapter.prepare(sample, load.spec, load.prepared.source))
    return load.spec.instruction(sample)


def readable_prompt(adapter: LocalAdapter, request: Request) -> str:
    """Return a prompt for people: text with its special tokens, and each image with the number of its tokens."""
    parts = []
    for image, own in groupby(request.prompt.segments, key=lambda one: getattr(one, "image", None)):
        if image is None:
            parts.append(adapter.readable([token for text in own for token in getattr(text, "ids", ())]))
        else:
            tokens = sum(slot.tokens for slot in own if isinstance(slot, ImageSlot))
            parts.append(f"⟨{image.path}: {f'{tokens} tokens' if tokens else 'read beside the text'}⟩")
    return "".join(parts)


def _images(load: TaskLoad) -> int:
    return len({image for sample in load.samples for image in sample.images})


def _sizes(load: TaskLoad, sample: Sample) -> tuple[Size, ...]:
    size_of = partial(size_of_image, load.prepared.source)
    try:
        return tuple(size_of(image) for image in sample.images)
    except SampleError:
        # What is wrong with them stands among the failures.
        return ()


def _tokens_of(text: str) -> int:
    return len(text) // _CHARACTERS_PER_TOKEN + 2


def unique_images(loads: Sequence[TaskLoad]) -> int:
    """Return the different images of several tasks, by their files."""
    return len({(load.prepared.source, image) for load in loads for sample in load.samples for image in sample.images})
