"""`medbench run --dry-run`: everything of a run but its answers, and nothing written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING, Any

from medbench.adapters.base import Adapter, ImageSlot, LocalAdapter, Size
from medbench.adapters.catalog import choose_model
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.checkpoints import LoadedModel, load_share, shares_of
from medbench.harness.engine.requests import ImageKey, Request, Sampling, make_request
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, load_workload
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import size_of_image
from medbench.tasks.sample import ImageRef, Sample

if TYPE_CHECKING:
    from medbench.harness.estimate import Estimate

_COLUMNS = ("task", "samples", "images", "prompt tokens", "longest", "answer at most", "cannot be asked")
# What a token of English is long on average; it only serves an estimate.
_CHARACTERS_PER_TOKEN = 4
_GIGA = 1e9
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a task would ask."""

    task: str
    samples: int
    images: int  # Different images that its samples show.
    first: str  # Identity of the sample whose prompt, and sizes of images, are shown; empty if none can be asked.
    prompt: str
    sizes: tuple[Size, ...]
    lengths: tuple[int, ...] = ()  # Tokens of every prompt that can be asked; empty where only a server counts them.
    longest_answer: int = 0  # Most tokens of an answer; 0 where the model alone decides.
    as_references: int = 0  # Tokens of all answers, were they as long as the references.
    failures: int = 0  # Samples that could not be asked.
    first_failure: str = ""


def show_dry_run(settings: Settings) -> None:
    """Load a model, render all prompts, measure on a few, show what was found; fail as the run would at its start."""
    model = choose_model(settings.model, settings.model_args)
    workload = load_workload(settings)
    workload.say_left_out()
    loaded = LoadedModel(lambda share: load_share(settings, model, workload, share))
    for share in shares_of(settings, workload):
        adapter, own = loaded.adapter(share), workload.only(share.tasks)
        loads = own.answerable(adapter.card.kinds)
        previews, estimate = _looked_at(adapter, loads, settings)
        for notice in (*workload.notices, *adapter.notices):
            warn(notice)
        emit("\n\n".join(_prompt_shown(preview) for preview in previews if preview.first))
        title = f"{adapter.title}, {adapter.dtype} on {adapter.device.partition(':')[0]}"
        emit_table(_COLUMNS, [_row(preview) for preview in previews], title=title)
        for preview in previews:
            if preview.failures:
                warn(f"Cannot be asked: {preview.task}, {preview.first_failure}")
        for line in _estimated(estimate):
            say(line)
        if unsupported := [load.spec.name for load in own.loads if load not in loads]:
            say(f"Not answered by this model: {', '.join(unsupported)}.")
        del adapter


def _looked_at(
    adapter: Adapter, loads: Sequence[TaskLoad], settings: Settings
) -> tuple[list[Preview], "Estimate | None"]:
    if not isinstance(adapter, LocalAdapter):
        return [preview_first(adapter, load) for load in loads], None
    from medbench.harness.estimate import estimate
    from medbench.harness.local import sampling_of

    looked = [preview_local(adapter, load, sampling_of(settings, adapter)) for load in loads]
    found = estimate(
        adapter,
        [request for _, requests in looked for request in requests],
        images=len(set().union(*map(_image_keys, loads))),
        as_references=sum(preview.as_references for preview, _ in looked),
        rows=settings.batch_size,
    )
    return [preview for preview, _ in looked], found


def preview_local(adapter: LocalAdapter, load: TaskLoad, sampling: Sampling) -> tuple[Preview, list[Request]]:
    """Return a preview, and all samples as requests; images are only read as far as a prompt depends on them."""
    requests: list[Request] = []
    failures: list[str] = []
    for sample in load.samples:
        try:
            requests.append(make_request(adapter, sample, load.spec, load.prepared.source, sampling))
        except SampleError as error:
            failures.append(f"{sample.sample_id}: {error}")
    first = requests[0] if requests else None
    longest = adapter.longest_answer(load.spec)
    references = (len(request.sample.reference) // _CHARACTERS_PER_TOKEN + 2 for request in requests)
    preview = _preview(
        load,
        first.sample if first else None,
        prompt=_readable(adapter, first) if first else "",
        lengths=tuple(request.length for request in requests),
        longest_answer=longest,
        as_references=sum(min(longest, tokens) for tokens in references),
        failures=len(failures),
        first_failure=failures[0] if failures else "",
    )
    return preview, requests


def preview_first(adapter: Adapter, load: TaskLoad) -> Preview:
    """Return a preview of a model that is not driven here: only the first sample is prepared, nothing is sent."""
    first = load.samples[0]
    prompt = failure = ""
    try:
        if isinstance(adapter, RemoteAdapter):
            prompt = adapter.readable(adapter.prepare(first, load.spec, load.prepared.source))
        else:
            prompt = load.spec.instruction(first)
    except SampleError as error:
        failure = f"{first.sample_id}: {error}"
    return _preview(load, first, prompt=prompt, failures=bool(failure), first_failure=failure)


def _preview(load: TaskLoad, first: Sample | None, **more: Any) -> Preview:
    return Preview(
        task=load.spec.name, samples=len(load.samples), images=len(_image_keys(load)),
        first=first.sample_id if first else "", sizes=_sizes(load, first.images) if first else (), **more,
    )  # fmt: skip


def _readable(adapter: LocalAdapter, request: Request) -> str:
    """Return a prompt for people: text with its special tokens, and each image with the number of its tokens."""
    parts = []
    for image, own in groupby(request.prompt.segments, key=lambda one: getattr(one, "image", None)):
        if image is None:
            parts.append(adapter.readable([token for text in own for token in getattr(text, "ids", ())]))
        else:
            tokens = sum(slot.tokens for slot in own if isinstance(slot, ImageSlot))
            parts.append(f"⟨{image.path}: {f'{tokens} tokens' if tokens else 'read beside the text'}⟩")
    return "".join(parts)


def _image_keys(load: TaskLoad) -> set[ImageKey]:
    return {(load.prepared.source, image) for sample in load.samples for image in sample.images}


def _sizes(load: TaskLoad, images: Sequence[ImageRef]) -> tuple[Size, ...]:
    try:
        return tuple(map(partial(size_of_image, load.prepared.source), images))
    except SampleError:
        # What is wrong with them stands among the failures.
        return ()


def _prompt_shown(preview: Preview) -> str:
    facts = [f"{preview.lengths[0]} tokens"] if preview.lengths else []
    if preview.sizes:
        facts.append(f"images {', '.join(f'{width} x {height}' for width, height in preview.sizes)}")
    told = f" ({'; '.join(facts)})" if facts else ""
    return f"--- {preview.task}, sample {preview.first}{told}\n{preview.prompt}"


def _row(preview: Preview) -> list[str]:
    lengths = preview.lengths
    return [
        preview.task,
        f"{preview.samples:,}",
        f"{preview.images:,}",
        f"{median(lengths):.0f}" if lengths else "-",
        str(max(lengths)) if lengths else "-",
        str(preview.longest_answer) if preview.longest_answer else "-",
        str(preview.failures),
    ]


def _estimated(found: "Estimate | None") -> Sequence[str]:
    """Return what time and memory are to be expected."""
    if found is None:
        return ["No estimate: nothing of this model runs here."]
    expected, most = duration(found.seconds_as_references), duration(found.seconds_at_most)
    held, more = found.held / _GIGA, found.keys_and_values / _GIGA
    return [
        f"Time: about {expected} if answers are as long as the references, {most} if all run to their limit.",
        f"      Measured on {found.probed} questions; with more in flight a run is faster.",
        f"Memory: {held:.2f} GB with the weights, up to {more:.2f} GB of keys and values (at most {found.rows} rows).",
        f"Prompts: {found.prompt_tokens:,} tokens are computed, what questions of one image share only once.",
    ]


def duration(seconds: float) -> str:
    """Return seconds for people."""
    if seconds < _MINUTE:
        return f"{max(1, round(seconds))} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"
