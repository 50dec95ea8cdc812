"""XrayGPT behind the adapter contract: reports on chest X-rays.

The question is the task's own instruction. That of MIMIC-CXR, "Describe the given chest x-ray image in detail.", is the
first of the 15 questions which the authors' test program draws from at random; one that changes from sample to sample
would only add noise. What an answer is says `medbench.adapters.xraygpt.prompts.answer_in`.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from medbench.adapters.base import AdapterEntry, Answer, Argument, LoadOptions, ModelCard
from medbench.adapters.xraygpt.prompts import TEMPLATES, answer_in
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec

if TYPE_CHECKING:
    from medbench.adapters.xraygpt.adapter import XrayGptAdapter

CARD = ModelCard(
    name="xraygpt",
    title="XrayGPT",
    kinds=frozenset({"report"}),
    weights=(
        "--checkpoint DIR with eva_vit_g.pth and blip2_pretrained_flant5xxl.pth (both from LAVIS), "
        "xraygpt_pretrained1.pth and the folder Vicuna_Radiology_fp16 (both from the authors), or made of them once by "
        "`medbench convert xraygpt`"
    ),
    licence="CC BY-NC-SA 4.0, with LLaMA's and MIMIC-CXR's own terms",
    memory="16 GB: Vicuna-7B 13.5 GB, EVA ViT-G/14 2 GB, the query transformer in float32 below 1 GB",
    trained_on=frozenset({"mimic-cxr", "mimic-cxr-impression", "mimic-cxr-both"}),
)
ARGUMENTS: Mapping[str, Argument] = {
    "template": Argument(
        help="how the question is put: as the authors' demo does, or as their test program does",
        default="demo",
        choices=tuple(TEMPLATES),
    ),
    "preset": Argument(
        help="`greedy` with the task's own limit, or `author`: sampling with top_p 0.9 up to 300 tokens",
        default="greedy",
        choices=("greedy", "author"),
    ),
}


def load(options: LoadOptions) -> "XrayGptAdapter":
    """Load the authors' four files or a converted folder."""
    from medbench.adapters.xraygpt.adapter import load_xraygpt

    return load_xraygpt(options)


def parse(text: str, _sample: Sample, _spec: TaskSpec) -> Answer:
    """Return what the model says in its own turn."""
    return Answer(text=answer_in(text))


ENTRY = AdapterEntry(
    card=CARD,
    load=load,
    parse=parse,
    takes=frozenset({"checkpoint", "device", "dtype"}),
    arguments=ARGUMENTS,
    converter="medbench.adapters.xraygpt.cli:convert_command",
)
