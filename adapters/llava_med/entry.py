"""LLaVA-Med behind the adapter contract: its card, what may be chosen, and how its authors put a question.

`llava-med` is version 1.5 in its published folder, and whatever else has the format of LLaVA 1.5 (HuatuoGPT-Vision,
LLaVA itself). `llava-med:v1.0` is LLaMA-7B with one of the published deltas, made whole by `medbench convert`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter

from medbench.adapters.base import AdapterEntry, Answer, ModelCard
from medbench.adapters.described import converter, described
from medbench.tasks.foundation.registry import imported_when_called
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A question with images, as text."""

    opening: str  # Text before the question and before images that precede it.
    closing: str  # Text behind all.
    images_first: bool = False  # Whether images precede the question, a line each, as in version 1.5.
    stops: tuple[str, ...] = ()  # Texts that end an answer.

    def parts(self, question: str, images: int) -> tuple[str, ...]:
        """Return the texts between which images stand, each to be tokenised by itself; 1.0 drops white space there."""
        if not images:
            return (f"{self.opening}{question}{self.closing}",)
        if self.images_first:
            return (self.opening, *["\n"] * (images - 1), f"\n{question}{self.closing}")
        return (f"{self.opening}{question}".rstrip(), *[""] * (images - 1), self.closing.lstrip())


CARD, ARGUMENTS, _TOLD = described(__file__)
CONVERTER = converter(CARD.name, _TOLD["convert"], "medbench.adapters.llava_med.convert:convert")
TOWERS: Mapping[str, Mapping[str, Any]] = _TOLD["towers"]
TEMPLATES = TypeAdapter(dict[str, dict[str, Template]]).validate_python(_TOLD["templates"])  # By variant.


def card_of(variant: str) -> ModelCard:
    """Return the card of a version; 14.1 GB of two bytes are the parameters of the first."""
    return replace(CARD, parameters=7_050_000_000, released="2023-06") if variant == "v1.0" else CARD


def defaults(variant: str) -> Mapping[str, str]:
    """Return the arguments that are others in a variant."""
    return {"template": "simple", "vision_source": "base"} if variant == "v1.0" else {}


def parse(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return what the model wrote, without a leading `Assistant:`, which version 1.0 writes itself."""
    return Answer(text=text.strip().removeprefix("Assistant:").strip())


ENTRY = AdapterEntry(
    card=CARD, load=imported_when_called("medbench.adapters.llava_med.model:load_llava_med"), parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}), variants=_TOLD["variants"], arguments=ARGUMENTS,
    defaults=defaults, card_of=card_of, converter="medbench.adapters.llava_med.entry:CONVERTER",
)  # fmt: skip
