"""`hf:FOLDER` or `hf:OWNER/NAME`: what a user may choose, and what is known of some models."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from medbench.adapters.base import AdapterEntry, Argument, LoadOptions, ModelCard, plain_answer
from medbench.adapters.hf.families import asked_family, family_of, known
from medbench.tasks.answers.box_space import BOX_SPACES

if TYPE_CHECKING:
    from medbench.adapters.hf.adapter import HfAdapter

CARD = ModelCard(
    name="hf",
    title="Hugging Face model",
    kinds=frozenset({"qa", "vqa", "report", "rec", "reg", "cls"}),
    weights="hf:FOLDER or hf:OWNER/NAME of any AutoModelForImageTextToText with a processor",
    licence="of the model; see its card",
    memory="2 GB for each thousand million parameters; `medbench models hf:FOLDER` counts them",
)


def defaults(variant: str) -> Mapping[str, str]:
    """Return the arguments that follow from what a model is."""
    boxes = known(variant, family_of(variant) or asked_family(variant)).boxes
    return {"boxes": boxes} if boxes else {}


def load(options: LoadOptions) -> "HfAdapter":
    """Load a model of transformers."""
    from medbench.adapters.hf.adapter import load_adapter

    return load_adapter(options)


def card_of(variant: str) -> ModelCard:
    """Return what is known of a model by its name and, if it lies on this machine, by its files."""
    from medbench.adapters.hf.sizes import memory_of

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
        "date": Argument(
            help="The day that a chat template with a date in it is told, so that prompts stay what they are.",
            default="2024-07-26",
        ),
        "revision": Argument(
            help="Commit, tag or branch of the repository; the commit that it means enters the run's identity.",
            default="main",
            changes_answers=False,
        ),
    },
    defaults=defaults,
    card_of=card_of,
    spaces=BOX_SPACES,
)
