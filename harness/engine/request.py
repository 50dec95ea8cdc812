"""What the engine is asked and what it answers."""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from medbench.adapters.base import Generation, LocalAdapter, Prompt
from medbench.adapters.guarding import rendered
from medbench.harness.engine.layout import layout_of
from medbench.tasks.images import size_of_image
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Choosing:
    """How tokens are chosen.

    Attributes:
        temperature: Of sampling; 0 takes the likeliest token.
        top_k: Sample among this many likeliest tokens; 0 for all.
        top_p: Sample among the likeliest tokens that together have this probability.
        repetition_penalty: Divides the positive and multiplies the negative scores of tokens already written, as
            transformers does when it is given embeddings.
        beams: Width of the beam search; more than one is left to transformers, batch by batch.
        seed: Of sampling; every sample draws from a generator of its own.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    beams: int = 1
    seed: int = 0

    @property
    def greedy(self) -> bool:
        """Whether every token is simply the likeliest."""
        return self.temperature == 0 and self.repetition_penalty == 1 and self.beams == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding(Choosing):
    """How tokens are chosen and when an answer ends.

    Attributes:
        max_new_tokens: Longest answer, the end token included.
        end_ids: Token ids that end an answer.
        stop_strings: Texts that end an answer; it is cut before the first of them.
    """

    max_new_tokens: int
    end_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()


GREEDY = Choosing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sample with its rendered prompt.

    Attributes:
        sample: The question.
        spec: Its task.
        source: Folder that the sample's image references start from.
        prompt: What the adapter rendered.
        length: Tokens of the prompt, visual ones included.
        shift: Positions of the prompt minus its tokens; less than 0 where images stand in grids.
        decoding: How it is answered.
    """

    sample: Sample
    spec: TaskSpec
    source: Path
    prompt: Prompt
    length: int
    decoding: Decoding
    shift: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a sample: a generation, or the reason why there is none."""

    task: str
    sample_id: str
    generation: Generation | None = None
    error: str = ""


def make_request(
    adapter: LocalAdapter, sample: Sample, spec: TaskSpec, source: Path, choosing: Choosing = GREEDY
) -> Request:
    """Return a sample as a request, answered until one of the adapter's end tokens or stop strings.

    Raises:
        SampleError: If it cannot be rendered.
    """
    prompt = rendered(adapter, sample, spec, partial(size_of_image, source))
    decoding = Decoding(
        max_new_tokens=adapter.longest_answer(spec), end_ids=adapter.end_ids, stop_strings=adapter.stop_strings(spec),
        **asdict(choosing),
    )  # fmt: skip
    return Request(
        sample=sample, spec=spec, source=source, prompt=prompt, length=prompt.length, decoding=decoding,
        shift=layout_of(prompt.segments, "causal").shift,
    )  # fmt: skip


def failed(request: Request, error: str) -> Outcome:
    """Return the outcome of a request that got no answer."""
    return Outcome(task=request.spec.name, sample_id=request.sample.sample_id, error=error)


def out_of_memory(request: Request) -> Outcome:
    """Return the outcome of a request that was too much for the memory even alone."""
    return failed(request, f"Memory ran out on this sample alone ({request.length} tokens).")


def refuse_too_long(request: Request, limit: int) -> Outcome | None:
    """Return an error if prompt and answer exceed `limit` tokens (0: none); the model never saw such positions."""
    longest = request.decoding.max_new_tokens
    if not limit or request.length + longest <= limit:
        return None
    return failed(
        request,
        f"The prompt has {request.length} tokens and the answer may have {longest}, but the model reads {limit}.",
    )
