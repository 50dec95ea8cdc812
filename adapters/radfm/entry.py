"""RadFM's line in the catalogue.

In bfloat16 its weights take 26 GB (13.0 G parameters of LLaMA), and its vision in float32 0.43 GB; the keys and values
of one token 0.8 MB. A GPU of 40 GB is enough; in float32 it takes 53 GB.
"""

from typing import cast

from medbench.adapters.base import AdapterEntry, Argument, LoadOptions, LocalAdapter, ModelCard, plain_answer
from medbench.tasks.foundation.errors import UsageError

CARD = ModelCard(
    name="radfm",
    title="RadFM",
    kinds=frozenset({"vqa", "report", "cls"}),
    weights=(
        "--checkpoint DIR with pytorch_model.bin (chaoyi-wu/RadFM on the Hub, 53 GB) and tokenizer.model (from "
        "Quick_demo/Language_files of its repository), or a folder that `medbench convert radfm` made of them"
    ),
    licence="none stated for the weights; code MIT",
    memory="26.5 GB: LLaMA-13B 26.1 GB, vision in float32 0.4 GB",
    # Its authors' training lists name the train splits of Slake and MedPix and the chest X-rays of MIMIC-CXR.
    trained_on=frozenset({"slake-vqa", "mpx-single", "mimic-cxr", "mimic-cxr-impression", "mimic-cxr-both"}),
)
ARGUMENTS = {
    "image_position": Argument(
        help="Where images stand: before the question, before its last character, or (auto) there for chest reports "
        "only, which the authors always wrote so; for other questions they tossed a coin.",
        default="auto",
        choices=("auto", "start", "end"),
    ),
    "crop": Argument(
        help="Which part of a picture is seen: all of it, or (random) the authors' random 80 to 100 %, by --seed.",
        default="none",
        choices=("none", "random"),
    ),
}


def load(options: LoadOptions) -> LocalAdapter:
    """Load the authors' checkpoint, or a converted folder.

    Raises:
        UsageError: If no checkpoint was given, or the folder or the device is not there.
        DataError: If a file is missing or broken, or a weight is missing, unexpected or of another shape.
        RunError: If the device has no room for it.
    """
    from medbench.adapters.radfm.adapter import RadFMAdapter
    from medbench.adapters.radfm.loading import load_radfm
    from medbench.adapters.radfm.prompts import Position
    from medbench.unimed.weights import device_and_dtype

    if options.checkpoint is None:
        raise UsageError("RadFM needs weights.", f"Give {CARD.weights}.")
    chosen = {name: argument.default for name, argument in ARGUMENTS.items()} | dict(options.arguments)
    device, dtype = device_and_dtype(options.device, options.dtype)
    loaded = load_radfm(options.checkpoint, device=device, dtype=dtype)
    return RadFMAdapter(
        CARD.as_chosen(ARGUMENTS, chosen),
        loaded,
        position=cast("Position", chosen["image_position"]),
        crop_seed=options.seed if chosen["crop"] == "random" else None,
    )


ENTRY = AdapterEntry(
    card=CARD,
    load=load,
    parse=plain_answer,
    takes=frozenset({"checkpoint", "device", "dtype"}),
    arguments=ARGUMENTS,
    converter="medbench.adapters.radfm.cli:convert_command",
)
