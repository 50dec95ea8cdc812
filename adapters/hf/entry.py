"""`hf:FOLDER` or `hf:OWNER/NAME`: what a user may choose, and what is known of some models."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from adapters.base import AdapterEntry, Argument, LoadOptions, ModelCard, plain_answer
from tasks.answers.box_space import BOX_SPACES

if TYPE_CHECKING:
    from adapters.hf.adapter import HfAdapter

CARD = ModelCard(
    name="hf",
    title="Hugging Face model",
    kinds=frozenset({"qa", "vqa", "report", "rec", "reg", "cls"}),
    weights="hf:FOLDER or hf:OWNER/NAME of any AutoModelForImageTextToText with a processor",
    licence="of the model; see its card",
    memory="2 GB for each thousand million parameters; `medbench models hf:FOLDER` counts them",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a published model says of itself.

    Attributes:
        boxes: How it writes boxes.
        find: The words with which it was taught to find an `{object}`, answered in `boxes`. A model without such words
            is told how to write.
        trained_on: Tasks of ours whose datasets its card or paper names among the training data.
        licence: Of its weights.
    """

    boxes: str = ""
    find: str = ""
    trained_on: frozenset[str] | None = None
    licence: str = ""


_SLAKE = frozenset({"slake-vqa"})
KNOWN: Mapping[str, Known] = {
    # By a part of the name, the most specific first. What is not here is not known, which is not the same as no.
    "medgemma": Known(
        boxes="permille-yxyx",
        trained_on=_SLAKE | {"mimic-cxr"},
        licence="Health AI Developer Foundations terms",
    ),
    "lingshu": Known(boxes="pixels-28", trained_on=_SLAKE | {"path-vqa", "mimic-cxr", "medqa"}, licence="MIT"),
    "huatuogpt-vision": Known(licence="Apache-2.0"),
    "llava-med": Known(boxes="fraction", licence="Apache-2.0, on Mistral's and CLIP's weights"),
    "qwen2.5-vl": Known(boxes="pixels-28"),
    "qwen2-vl": Known(boxes="permille"),
    "qwen3-vl": Known(boxes="permille"),
    "internvl": Known(
        boxes="permille",
        find="Please provide the bounding box coordinate of the region this sentence describes: <ref>{object}</ref>",
    ),
    "paligemma": Known(boxes="loc1024", find="detect {object}"),
    "gemma-3": Known(boxes="permille-yxyx"),
}


def known(name: str) -> Known:
    """Return what is known of a model by its name."""
    plain = name.lower()
    return next((found for part, found in KNOWN.items() if part in plain), Known())


def defaults(variant: str) -> Mapping[str, str]:
    """Return the arguments that follow from a model's name."""
    boxes = known(variant).boxes
    return {"boxes": boxes} if boxes else {}


def load(options: LoadOptions) -> "HfAdapter":
    """Load a model of transformers."""
    from adapters.hf.adapter import load_adapter

    return load_adapter(options)


def card_of(variant: str) -> ModelCard:
    """Return what is known of a model by its name and, if it lies on this machine, by its files."""
    from adapters.hf.sizes import memory_of

    found = known(variant)
    return replace(
        CARD, title=variant, licence=found.licence or CARD.licence, trained_on=found.trained_on,
        memory=memory_of(variant) or CARD.memory,
    )  # fmt: skip


ENTRY = AdapterEntry(
    card=CARD,
    load=load,
    parse=plain_answer,
    takes=frozenset({"device", "dtype"}),
    variants={"*": "a folder, or the name of a repository on the Hub"},
    arguments={
        "boxes": Argument(
            help="How the model writes boxes; name it to score REC, since it is never guessed from answers.",
            default="fraction",
            choices=tuple(sorted(BOX_SPACES)),
        ),
        "system": Argument(help="A system message before the question."),
        "chat": Argument(help='JSON of what the chat template takes, e.g. {"enable_thinking": false}.', default="{}"),
        "images": Argument(
            help='JSON of what the image processor takes, e.g. {"do_pan_and_scan": true}.', default="{}"
        ),
        "revision": Argument(help="Commit, tag or branch of the repository.", default="main"),
    },
    defaults=defaults,
    card_of=card_of,
    spaces=BOX_SPACES,
)
