"""`medbench run --dry-run`: everything of a run but its answers, and nothing written."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from statistics import median
from typing import TYPE_CHECKING

from medbench.adapters.base import Adapter, ImageSlot, LocalAdapter
from medbench.adapters.catalog import choose_model
from medbench.adapters.remote import RemoteAdapter
from medbench.harness.engine.requests import ImageKey, Request, Sampling, make_request
from medbench.harness.models import LoadedModel, load_share, shares_of
from medbench.harness.settings import Settings
from medbench.harness.workload import TaskLoad, load_workload
from medbench.tasks.foundation.console import emit, emit_table, say, warn
from medbench.tasks.foundation.errors import SampleError
from medbench.tasks.images import size_of_image
from medbench.tasks.sample import Sample

if TYPE_CHECKING:
    from medbench.harness.trials import Estimate

_COLUMNS = ("task", "samples", "images", "prompt tokens", "longest", "answer at most", "cannot be asked")
# What a token of English is long on average; it only serves an estimate.
_CHARACTERS_PER_TOKEN = 4
_MINUTE, _HOUR = 60, 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """What a task would ask."""

    load: TaskLoad
    first: Sample | None  # The sample whose prompt, and sizes of images, are shown; None if none can be asked.
    prompt: str
    requests: tuple[Request, ...] = ()  # All that can be asked; none where only a server counts their tokens.
    longest_answer: int = 0  # Most tokens of an answer; 0 where the model alone decides.
    failures: tuple[str, ...] = ()  # Why samples cannot be asked.

    def shown(self) -> str:
        """Return the first prompt for people."""
        first, source = self.first, self.load.prepared.source
        if first is None:
            return ""
        facts = [f"{self.requests[0].length} tokens"] if self.requests else []
        try:
            sizes = [f"{width} x {height}" for width, height in map(partial(size_of_image, source), first.images)]
            facts += [f"images {', '.join(sizes)}"] if sizes else []
        except SampleError:
            # What is wrong with them stands among the failures.
            pass
        told = f" ({'; '.join(facts)})" if facts else ""
        return f"--- {self.load.spec.name}, sample {first.sample_id}{told}\n{self.prompt}"

    def row(self) -> list[str]:
        """Return its line of the table."""
        lengths = [request.length for request in self.requests]
        tokens = (f"{median(lengths):.0f}", str(max(lengths))) if lengths else ("-", "-")
        return [
            self.load.spec.name, f"{len(self.load.samples):,}", f"{len(_images_of(self.load)):,}", *tokens,
            str(self.longest_answer or "-"), str(len(self.failures)),
        ]  # fmt: skip


def show_dry_run(settings: Settings) -> None:
    """Load a model, render all prompts, measure on a few, show what was found; fail as the run would at its start."""
    model = choose_model(settings.model, settings.model_args)
    workload = load_workload(settings)
    workload.say_left_out()
    loaded = LoadedModel(lambda share: load_share(settings, model, workload, share))
    for share in shares_of(settings, workload):
        adapter, own = loaded.adapter(share), workload.only(share.tasks)
        loads = own.answerable(adapter.card.kinds)
        previews, estimated = _looked_at(adapter, loads, settings)
        for notice in (*workload.notices, *adapter.notices):
            warn(notice)
        emit("\n\n".join(filter(None, (preview.shown() for preview in previews))))
        title = f"{adapter.title}, {adapter.dtype} on {adapter.device.partition(':')[0]}"
        emit_table(_COLUMNS, [preview.row() for preview in previews], title=title)
        for preview in (preview for preview in previews if preview.failures):
            warn(f"Cannot be asked: {preview.load.spec.name}, {preview.failures[0]}")
        for line in _estimated(estimated):
            say(line)
        if unsupported := [load.spec.name for load in own.loads if load not in loads]:
            say(f"Not answered by this model: {', '.join(unsupported)}.")
        del adapter


def _looked_at(
    adapter: Adapter, loads: Sequence[TaskLoad], settings: Settings
) -> tuple[list[Preview], "Estimate | None"]:
    if not isinstance(adapter, LocalAdapter):
        return [preview_first(adapter, load) for load in loads], None
    from medbench.harness.local import sampling_of
    from medbench.harness.trials import estimate

    previews = [preview_local(adapter, load, sampling_of(settings, adapter)) for load in loads]
    requests = [request for preview in previews for request in preview.requests]
    words = [(adapter.longest_answer(one.spec), len(one.sample.reference) // _CHARACTERS_PER_TOKEN) for one in requests]
    images, total = len(set().union(*map(_images_of, loads))), sum(min(most, tokens + 2) for most, tokens in words)
    return previews, estimate(adapter, requests, images=images, as_references=total, rows=settings.batch_size)


def preview_local(adapter: LocalAdapter, load: TaskLoad, sampling: Sampling) -> Preview:
    """Return a preview with all samples as requests; images are only read as far as a prompt depends on them."""
    requests: list[Request] = []
    failures: list[str] = []
    for sample in load.samples:
        try:
            requests.append(make_request(adapter, sample, load.spec, load.prepared.source, sampling))
        except SampleError as error:
            failures.append(f"{sample.sample_id}: {error}")
    return Preview(
        load=load, first=requests[0].sample if requests else None, requests=tuple(requests), failures=tuple(failures),
        prompt=_readable(adapter, requests[0]) if requests else "", longest_answer=adapter.longest_answer(load.spec),
    )  # fmt: skip


def preview_first(adapter: Adapter, load: TaskLoad) -> Preview:
    """Return a preview of a model that is not driven here: only the first sample is prepared, nothing is sent."""
    first = load.samples[0]
    try:
        if isinstance(adapter, RemoteAdapter):
            prompt = adapter.readable(adapter.prepare(first, load.spec, load.prepared.source))
        else:
            prompt = load.spec.instruction(first)
    except SampleError as error:
        return Preview(load=load, first=first, prompt="", failures=(f"{first.sample_id}: {error}",))
    return Preview(load=load, first=first, prompt=prompt)


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


def _images_of(load: TaskLoad) -> set[ImageKey]:
    return {(load.prepared.source, image) for sample in load.samples for image in sample.images}


def _estimated(found: "Estimate | None") -> Sequence[str]:
    """Return what time and memory are to be expected."""
    if found is None:
        return ["No estimate: nothing of this model runs here."]
    expected, most = duration(found.seconds_as_references), duration(found.seconds_at_most)
    held, more = f"{found.held / 1e9:.2f} GB", f"{found.keys_and_values / 1e9:.2f} GB"
    return [
        f"Time: about {expected} if answers are as long as the references, {most} if all run to their limit.",
        f"      Measured on {found.probed} questions; with more in flight a run is faster.",
        f"Memory: {held} with the weights, up to {more} of keys and values (at most {found.rows} rows).",
        f"Prompts: {found.prompt_tokens:,} tokens are computed, what questions of one image share only once.",
    ]


def duration(seconds: float) -> str:
    """Return seconds for people."""
    if seconds < _MINUTE:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < _HOUR else f"{seconds / _HOUR:.1f} h"
