"""The model catalogue: names to entries, open to other distributions."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from medbench.adapters.base import AdapterEntry, Parser, answer_with_box
from medbench.tasks.answers.box_space import BoxSpace
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.registry import Registry

OF_VLLM = "vllm."
"""What arguments begin with that are vLLM's own, whatever the model."""
ADAPTERS: Registry[AdapterEntry] = Registry(
    "model",
    {
        "uni-med": "medbench.adapters.uni_med:ENTRY",
        "med-flamingo": "medbench.adapters.med_flamingo.entry:ENTRY",
        "radfm": "medbench.adapters.radfm.entry:ENTRY",
        "llava-med": "medbench.adapters.llava_med.entry:ENTRY",
        "xraygpt": "medbench.adapters.xraygpt.entry:ENTRY",
        "hf": "medbench.adapters.hf.entry:ENTRY",
        "openai": "medbench.adapters.openai.entry:ENTRY",
        "vllm": "medbench.adapters.vllm.entry:ENTRY",
        "blind": "medbench.adapters.blind:ENTRY",
        "mock": "medbench.adapters.mock:ENTRY",
    },
    group="medbench.adapters",
    expected=AdapterEntry,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenModel:
    """A model with everything that its user chose: its variant, and every argument, as given or by default."""

    entry: AdapterEntry
    variant: str
    arguments: Mapping[str, str]

    @property
    def identity(self) -> dict[str, str]:
        """The arguments that an answer may depend on: a run of others is another run."""
        declared = self.entry.arguments
        return {name: value for name, value in self.arguments.items() if declared[name].changes_answers}

    @property
    def boxes(self) -> BoxSpace | None:
        """How the model writes boxes."""
        spaces = self.entry.spaces
        return spaces[self.arguments["boxes"]] if spaces and "boxes" in self.arguments else self.entry.boxes

    @property
    def parse(self) -> Parser:
        """What a text of the model means."""
        space = self.boxes
        return self.entry.parse if space is None or space is self.entry.boxes else partial(answer_with_box, space)


def choose_model(model: str, arguments: Mapping[str, str]) -> ChosenModel:
    """Return the model that a user named; UsageError if there is no such model, variant, argument or value."""
    entry, variant = find_adapter(model)
    own = {name: value for name, value in arguments.items() if not name.startswith(OF_VLLM)}
    return ChosenModel(entry=entry, variant=variant, arguments=entry.settled(variant, own))


def find_adapter(model: str) -> tuple[AdapterEntry, str]:
    """Return the entry and the variant of `name` or `name:variant`; UsageError if there is none."""
    name, _, variant = model.partition(":")
    if not name:
        raise UsageError(f"{model!r} names no model.", "Write --model NAME; `medbench models` lists them.")
    entry = ADAPTERS.load(name)
    if variant and "*" not in entry.variants and variant not in entry.variants:
        allowed = ", ".join(f"{name}:{word}" for word in entry.variants) or f"{name} alone"
        raise UsageError(f"The model {name!r} has no variant {variant!r}.", f"Allowed: {allowed}.")
    return entry, variant
