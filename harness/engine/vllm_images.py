"""vLLM's own classes for vision-language models: it sees and writes, fed with our prompts' ids and our own pixels.

Its own processors scale by torchvision, ours by PIL, and the two differ by a grey level. So prompts go in as what its
processors would have made of them: expanded ids, pixels of each image, and the places where visual tokens stand.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import BatchFeature

from medbench.adapters.base import ImageSlot, LocalAdapter, Pixels, Prompt, Published
from medbench.adapters.guarding import one_sample
from medbench.harness.engine.batching import RequestQueue
from medbench.harness.engine.budget import Budget, longest_read
from medbench.harness.engine.images import AHEAD, WORKERS, Images, digest_of
from medbench.harness.engine.requests import ImageKey, Outcome, PrefixedRequest, Request, failed, in_order
from medbench.harness.engine.vllm import (
    COMPARED,
    Prepared,
    Reference,
    Vllm,
    VllmBatching,
    VllmEngine,
    open_vllm,
    reference,
    usable,
)
from medbench.harness.phases import Phases
from medbench.tasks.foundation.errors import RunError, SampleError
from medbench.tasks.images import open_image

SEEN_BY_VLLM = frozenset({"glm4v", "qwen2_vl", "qwen2_5_vl", "qwen3_vl"})
"""Families (`model_type`) of which tests/in_vllm shows that vLLM's class answers as transformers' does.

Their images stand in grids or are read by later layers too, so a prompt of embeddings does not carry them.
"""
_TOKENS = "tokens"
_KEPT = 2 * AHEAD


def is_seen_by_vllm(adapter: LocalAdapter) -> bool:
    """Say whether vLLM may take a model as it was published, vision and all."""
    return adapter.published is not None and adapter.published.family in SEEN_BY_VLLM


def published_of(adapter: LocalAdapter) -> Published:
    """Return the checkpoint of a model that `is_seen_by_vllm`."""
    if adapter.published is None:
        raise RunError(f"{adapter.title} has no checkpoint that vLLM could load.", "Give --engine medbench.")
    return adapter.published


def start(adapter: LocalAdapter, budget: Budget, arguments: Mapping[str, object]) -> Vllm:
    """Return vLLM with the published model, which leaves the GPU here; UsageError if it does not start."""
    published = published_of(adapter)
    own = {
        # Our pixels are normalised already.
        "mm_device_do_normalize": False, "mm_processor_cache_gb": 0, "mm_processor_kwargs": dict(published.scaling),
        "limit_mm_per_prompt": {"video": 0},
    }  # fmt: skip
    if adapter.decoder.device.type == "cpu":
        # Its memory is told there, and need not be found out with images of the largest size.
        longest = longest_read(adapter.decoder)
        own |= {"skip_mm_profiling": True, "max_model_len": min(longest or budget.tokens, budget.tokens)}
    return open_vllm(published.folder, adapter, budget, {**own, **arguments}, [adapter.decoder])


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenImage:
    """An image as vLLM takes it."""

    digest: str
    tokens: int
    item: Any  # Its pixels, under the names that vLLM's class reads.


class Pictures(AbstractContextManager["Pictures"]):
    """Reads images ahead in threads, and keeps those that were asked for last; vLLM encodes and remembers them."""

    def __init__(self, llm: Vllm, adapter: LocalAdapter) -> None:
        self._processor = llm.llm_engine.renderer.get_mm_processor()
        self._adapter = adapter
        self._pool = ThreadPoolExecutor(max_workers=WORKERS, thread_name_prefix="images")
        self._expected: deque[ImageKey] = deque()
        self._kept: OrderedDict[ImageKey, Future[SeenImage]] = OrderedDict()
        self._ahead: set[ImageKey] = set()
        self.digests: set[str] = set()  # Of the images that were handed over.

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def expect(self, keys: Iterable[ImageKey]) -> None:
        """Note what will be asked for next; `AHEAD` images are read at most."""
        self._expected.extend(keys)
        self._read_ahead()

    def take(self, key: ImageKey) -> SeenImage:
        """Return an image; SampleError if it is missing or broken."""
        self._ahead.discard(key)
        reading = self._reading(key)
        self._read_ahead()
        image = reading.result()
        self.digests.add(image.digest)
        return image

    def prompt(self, request: Request) -> Vllm:
        """Return a request as vLLM's prompt; SampleError if an image cannot be read, or does not fit its place."""
        from vllm.inputs import mm_input
        from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

        image_token_id = published_of(self._adapter).image_token_id
        ids = expanded_ids(request.prompt, image_token_id)
        images = [self.take(key) for key in request.images]
        if not images:
            return {"prompt_token_ids": ids}
        ranges = []
        for start, mask in places_of(ids, image_token_id, [image.tokens for image in images]):
            seen = None if all(mask) else torch.tensor(mask)
            ranges.append(PlaceholderRange(offset=start, length=len(mask), is_embed=seen))
        items, digests = [image.item for image in images], [image.digest for image in images]
        return mm_input(ids, MultiModalKwargsItems({"image": items}), {"image": digests}, {"image": ranges})

    def _reading(self, key: ImageKey) -> "Future[SeenImage]":
        if key not in self._kept:
            self._kept[key] = self._pool.submit(self._read, key)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _read_ahead(self) -> None:
        while self._expected and len(self._ahead) < AHEAD:
            key = self._expected.popleft()
            if key not in self._kept:
                self._ahead.add(key)
                self._reading(key)

    def _read(self, key: ImageKey) -> SeenImage:
        from vllm.multimodal.inputs import MultiModalKwargsItems

        source, image = key
        opened = open_image(source, image)
        with one_sample(self._adapter, f"pixels() of {image.path}"):
            pixels = self._adapter.pixels(opened)
        inputs = BatchFeature(_tensors(pixels))
        fields = self._processor._get_mm_fields_config(inputs, {})  # noqa: SLF001 - what its own `apply` calls
        [item] = MultiModalKwargsItems.from_hf_inputs(inputs, fields)["image"]
        return SeenImage(digest=digest_of(source, image), tokens=int(pixels[_TOKENS]), item=item)


def _tensors(pixels: Pixels) -> dict[str, torch.Tensor]:
    return {name: value for name, value in pixels.items() if name != _TOKENS}


def expanded_ids(prompt: Prompt, image_token_id: int) -> list[int]:
    """Return the ids of a prompt, with the token of images once for every visual token."""
    return [
        token
        for one in prompt.segments
        for token in ([image_token_id] * one.tokens if isinstance(one, ImageSlot) else one.ids)
    ]


def places_of(ids: Sequence[int], image_token_id: int, counts: Sequence[int]) -> list[tuple[int, list[bool]]]:
    """Return where each image stands: its first place, and from there to its last which tokens are visual.

    SampleError if there are other visual tokens than the images have together.
    """
    places = [place for place, one in enumerate(ids) if one == image_token_id]
    if len(places) != sum(counts):
        raise SampleError(f"The prompt has {len(places)} visual tokens, its images have {list(counts)}.", kind="prompt")
    found = []
    for count in counts:
        own, places = places[:count], places[count:]
        found.append((own[0], [one == image_token_id for one in ids[own[0] : own[-1] + 1]]))
    return found


class VllmImagesEngine(VllmEngine):
    """Lets vLLM see and write."""

    def _run(self, requests: Iterable[Request], images: Images, *, search: bool = False) -> Iterator[list[Outcome]]:
        del search
        with Pictures(self.llm, self._adapter) as pictures:
            windows = in_order(requests, share=False, window_tokens=1)
            queue = RequestQueue(windows, pictures.expect)
            parts = (self._adapter, images, queue, self.budget, self._phases)
            yield from _ImagesBatching(self.llm, *parts, pictures=pictures).run()
            # Once each, as long as vLLM remembers them.
            self._phases.count("images encoded", len(pictures.digests))


def begin(
    adapter: LocalAdapter, requests: Sequence[Request], budget: Budget, phases: Phases, arguments: Mapping[str, object]
) -> tuple[VllmEngine, Sequence[Reference]]:
    """Return vLLM with the whole model, and what transformers writes to the first of `requests`."""
    wanted = references(adapter, requests)
    llm = start(adapter, budget, arguments)
    return VllmImagesEngine(adapter, budget, phases, llm), with_prompts(llm, adapter, wanted)


class _ImagesBatching(VllmBatching):
    """Hands requests over as ids and pixels."""

    def __init__(self, llm: Vllm, *parts: Any, pictures: Pictures) -> None:
        super().__init__(llm, *parts)
        self._pictures = pictures
        # What waits inside vLLM holds its pixels.
        self._most = AHEAD

    def _prepared(self, requests: Sequence[PrefixedRequest]) -> tuple[Prepared, list[Outcome]]:
        prepared: Prepared = []
        outcomes = []
        with self._phases.time("wait for images"):
            for one in requests:
                try:
                    prepared.append((one, self._pictures.prompt(one.request)))
                except SampleError as error:
                    outcomes.append(failed(one.request, str(error), error.kind))
        return prepared, outcomes


@torch.inference_mode()
def references(adapter: LocalAdapter, requests: Sequence[Request]) -> Sequence[Reference]:
    """Return what `generate` writes to the first sound requests, given whole to the model's own library.

    RunError if none is sound, logits are no numbers, or the library is given other ids or pixels than vLLM.
    """
    limit = longest_read(adapter.decoder)
    found: list[Reference] = []
    for request in requests:
        if len(found) == COMPARED:
            break
        if 0 < limit < request.longest:
            continue
        try:
            images = [open_image(request.source, image) for image in request.sample.images]
            inputs = adapter.inputs_whole(request.sample, request.spec, images)
            own = [adapter.pixels(image) for image in images]
        except SampleError:
            # The run's to report.
            continue
        refuse_other_inputs(adapter, request, inputs, own)
        found.append(reference(adapter, request, inputs))
    return usable(adapter, found)


def refuse_other_inputs(
    adapter: LocalAdapter, request: Request, inputs: Mapping[str, torch.Tensor], own: Sequence[Pixels]
) -> None:
    """Refuse a model whose library is given other ids or pixels for a request than vLLM would be; RunError."""
    differing = "ids" if inputs["input_ids"][0].tolist() != expanded_ids(
        request.prompt, published_of(adapter).image_token_id
    ) else ""  # fmt: skip
    for name in _tensors(own[0]) if own else ():
        together = torch.cat([pixels[name] for pixels in own])
        wanted = inputs[name].cpu()
        if together.shape != wanted.shape or not torch.equal(together.to(wanted.dtype), wanted):
            differing = differing or name
    if differing:
        raise RunError(
            f"vLLM would be given other {differing} for {'/'.join(request.name)} than {adapter.title}'s own library.",
            "Give --engine medbench.",
        )


def with_prompts(llm: Vllm, adapter: LocalAdapter, wanted: Sequence[Reference]) -> list[Reference]:
    """Return references with their prompts as vLLM takes them."""
    with Pictures(llm, adapter) as pictures:
        return [replace(one, prompt=pictures.prompt(one.request)) for one in wanted]
