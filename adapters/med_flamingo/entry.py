"""Med-Flamingo's line in the catalogue.

In bfloat16 its language model takes 15.7 GB (LLaMA-7B with 1.1 G parameters of gated blocks), its vision in float32
1.5 GB; the keys and values of one token 0.5 MB, those of one image 1 MB. A GPU of 24 GB is enough.
"""

from pathlib import Path
from typing import cast

from medbench.adapters.base import AdapterEntry, Argument, LoadOptions, LocalAdapter, ModelCard
from medbench.adapters.med_flamingo.prompts import answer_of

CARD = ModelCard(
    name="med-flamingo",
    title="Med-Flamingo",
    kinds=frozenset({"vqa", "report", "cls"}),
    weights=(
        "--checkpoint DIR with model.pt (med-flamingo/med-flamingo on the Hub, 5.2 GB), llama/ (the first LLaMA-7B, "
        "with tokenizer.model: huggyllama/llama-7b) and clip/ (openai/clip-vit-large-patch14)"
    ),
    licence="none stated for model.pt; LLaMA-1's non-commercial research licence; CLIP and OpenFlamingo's code MIT",
    # Its authors trained it on textbooks and PMC-OA; the six examples of a prompt are no training.
    trained_on=frozenset(),
    memory="17.2 GB: LLaMA-7B with gated blocks 15.7 GB, vision in float32 1.5 GB",
)
ARGUMENTS = {
    "media_rule": Argument(
        help="Which image a text sees: the previous one, as the paper says and current OpenFlamingo does, or the next, "
        "as the version does that the authors pinned.",
        default="previous",
        choices=("previous", "next"),
    ),
    "shots": Argument(
        help="Examples before the question: 6, 0, or (auto) six, the authors' for VQA if demo_images is given and else "
        "of the task's train split, none where that has none.",
        default="auto",
        choices=("auto", "0", "6"),
    ),
    "demo_images": Argument(
        help="Folder of the pictures of the authors' six examples (synpic50962.jpg, ...): img/ of the model's "
        "repository, or VQA-RAD's own."
    ),
    "bos_token_id": Argument(
        help="Id that begins a prompt: 0 as with the tokenizer that the authors name, 1 as with LLaMA's own.",
        default="0",
        choices=("0", "1"),
    ),
    "llama": Argument(help="Folder of the first LLaMA-7B, if it is not llama/ in the checkpoint."),
    "clip": Argument(help="Folder of CLIP ViT-L/14, if it is not clip/ in the checkpoint."),
}


def load(options: LoadOptions) -> LocalAdapter:
    """Load the trained weights on LLaMA-7B and CLIP.

    Raises:
        UsageError: If a part or a picture of the authors' examples is not there, or the device is not.
        DataError: If a file is broken, or a weight is missing, unexpected or of another shape.
        RunError: If the device has no room for it.
    """
    from medbench.adapters.med_flamingo.adapter import MedFlamingoAdapter
    from medbench.adapters.med_flamingo.examples import AUTHORS, ExampleSource, Shots, refuse_missing_pictures
    from medbench.adapters.med_flamingo.loading import load_med_flamingo, places_of
    from medbench.adapters.med_flamingo.looking import MediaRule
    from medbench.unimed.weights import device_and_dtype

    chosen = {name: argument.default for name, argument in ARGUMENTS.items()} | dict(options.arguments)
    places = places_of(options.checkpoint, chosen["llama"], chosen["clip"])
    folder = Path(chosen["demo_images"]).expanduser() if chosen["demo_images"] else None
    examples = ExampleSource(
        shots=cast("Shots", chosen["shots"]), demo_images=folder, train_samples=options.train_samples,
        source_of=options.source_of,
    )  # fmt: skip
    refuse_missing_pictures(examples)
    pictures = {name: folder / name for name, _, _ in AUTHORS} if folder and examples.shots != "0" else {}
    device, dtype = device_and_dtype(options.device, options.dtype)
    loaded = load_med_flamingo(places, device=device, dtype=dtype, more=pictures)
    return MedFlamingoAdapter(
        CARD.as_chosen(ARGUMENTS, chosen), loaded, media_rule=cast("MediaRule", chosen["media_rule"]),
        bos_id=int(chosen["bos_token_id"]), examples=examples,
    )  # fmt: skip


ENTRY = AdapterEntry(
    card=CARD, load=load, parse=answer_of, takes=frozenset({"checkpoint", "device", "dtype"}), arguments=ARGUMENTS
)
