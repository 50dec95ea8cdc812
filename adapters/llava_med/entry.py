"""LLaVA-Med behind the adapter contract.

`llava-med` is version 1.5 in its published folder, and whatever else has the format of LLaVA 1.5 (HuatuoGPT-Vision,
LLaVA itself). `llava-med:v1.0` is LLaMA-7B with one of the published deltas, made whole by
`medbench convert llava-med`. Each data set has a delta of its own; any such folder is a checkpoint here, so
a table with the fine-tuned models is made of one run per checkpoint. Say of each what it was tuned on:
`--model-arg trained_on=slake-vqa`.

What an answer is: what the model wrote up to its end token or `###`, without white space around it and without a
leading `Assistant:`, which version 1.0 writes itself since its prompt ends before that word. The authors leave the word
in. It is part of the turn, not of the answer, and it stays in the recorded text.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medbench.adapters.base import AdapterEntry, Answer, Argument, LoadOptions, ModelCard
from medbench.adapters.llava_med.templates import TEMPLATES
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from medbench.adapters.llava_med.adapter import LlavaMedAdapter

SPEAKER = "Assistant:"
CARD = ModelCard(
    name="llava-med",
    title="LLaVA-Med",
    kinds=frozenset({"vqa", "report"}),
    weights=(
        "--checkpoint DIR: v1.5 is microsoft/llava-med-v1.5-mistral-7b; v1.0 is LLaMA-7B with a published delta "
        "(general or fine-tuned on one data set), made by `medbench convert llava-med`, with "
        "openai/clip-vit-large-patch14 as --model-arg vision_tower=DIR"
    ),
    licence="v1.5: Apache-2.0 (Mistral's), for research; v1.0: Microsoft Research licence and LLaMA's, research only",
    memory="v1.5: 15.1 GB (Mistral-7B 14.5, CLIP 0.6); v1.0: 14.1 GB (LLaMA-7B 13.5, CLIP 0.6)",
)
ARGUMENTS: Mapping[str, Argument] = {
    "template": Argument(
        help="how the question is put; by default as the authors evaluate: mistral_instruct for v1.5 (or vicuna_v1), "
        "simple for v1.0 (or multimodal, llava_v1)",
        default="mistral_instruct",
        choices=tuple(name for templates in TEMPLATES.values() for name in templates),
    ),
    "vision_source": Argument(
        help="whose vision tower: the checkpoint's own (default of v1.5), or that of vision_tower (v1.0 has no other; "
        "what the authors' own loader takes for v1.5 too)",
        default="checkpoint",
        choices=("checkpoint", "base"),
    ),
    "vision_tower": Argument(
        help="folder of OpenAI's CLIP that the checkpoint was trained with; by default its sub-folder vision_tower"
    ),
    "preset": Argument(
        help="`greedy` with the task's own limit, or `author`: as the authors decode (v1.0 samples at temperature "
        "0.7), up to 1024 tokens",
        default="greedy",
        choices=("greedy", "author"),
    ),
    "trained_on": Argument(
        help="tasks that this checkpoint was fine-tuned on, separated by commas; `none` if it was on none of them"
    ),
}


def defaults(variant: str) -> Mapping[str, str]:
    """Return the arguments that are others in a variant."""
    return {"template": "simple", "vision_source": "base"} if variant == "v1.0" else {}


def load(options: LoadOptions) -> "LlavaMedAdapter":
    """Load a checkpoint folder."""
    from medbench.adapters.llava_med.loading import load_llava_med

    return load_llava_med(options)


def parse(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return what the model says, without the name of the speaker."""
    return Answer(text=text.strip().removeprefix(SPEAKER).strip())


ENTRY = AdapterEntry(
    card=CARD,
    load=load,
    parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}),
    variants={
        "v1.5": "Mistral-7B, the default",
        "v1.0": "LLaMA-7B with one of the published deltas",
    },
    arguments=ARGUMENTS,
    defaults=defaults,
    converter="medbench.adapters.llava_med.cli:convert_command",
)
