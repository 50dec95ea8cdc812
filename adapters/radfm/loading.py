"""Loading RadFM, from the authors' file or from a folder that `convert` made."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from medbench.adapters.radfm.model import RadFM, RadFMVision
from medbench.adapters.radfm.sizes import SIZES_FILE, RadFMSizes, read_sizes
from medbench.adapters.radfm.state import CHECKPOINT, read_state
from medbench.tasks.foundation.errors import UsageError
from medbench.tasks.foundation.memory import room_for
from medbench.tasks.foundation.model_files import identity_of
from medbench.tasks.foundation.stand_ins import refuse_stand_ins
from medbench.unimed.tokens import SegmentTokenizer, read_tokenizer, refuse_other_vocabulary
from medbench.unimed.weight_files import open_shards, read_tensors
from medbench.unimed.weights import fill, filled_llama

TOKENIZER_FILE = "tokenizer.model"
LANGUAGE_FOLDER, VISION_FILE = "language_model", "vision.safetensors"
State = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRadFM:
    """A model with its tokenizer and the identity of its files."""

    model: RadFM
    tokenizer: SegmentTokenizer
    fingerprint: str


def load_radfm(folder: Path, *, device: torch.device, dtype: torch.dtype) -> LoadedRadFM:
    """Load a folder with the authors' `pytorch_model.bin`, or one that the converter wrote.

    Args:
        folder: With tokenizer.model and either pytorch_model.bin or radfm.json, vision.safetensors, language_model/.
        device: Where the model goes.
        dtype: Of the language model; vision stays in float32.

    Raises:
        UsageError: If there is no such folder, or it holds no RadFM.
        DataError: If a file is missing or broken, or a weight is missing, unexpected or of another shape.
        RunError: If the device has no room for it.
    """
    _refuse_other_folder(folder)
    refuse_stand_ins(*(path for name in _parts(folder) if (path := folder / name).exists()))
    tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
    source = str(folder)
    with room_for(source):
        language, vision, sizes = _read(folder)
        refuse_other_vocabulary(folder / TOKENIZER_FILE, tokenizer, sizes.language_model.vocab_size)
        llama = filled_llama(LlamaForCausalLM, sizes.llama_config(), language, source, device=device, dtype=dtype)
        model = RadFM(language_model=llama, vision=_vision(sizes, vision, source, device), sizes=sizes)
    return LoadedRadFM(
        model=model,
        tokenizer=tokenizer,
        fingerprint=identity_of(
            {name: folder / name for name in _parts(folder) if (folder / name).exists()}
        ),
    )  # fmt: skip


def _read(folder: Path) -> tuple[State, State, RadFMSizes]:
    """Return the weights of the language model and of vision, and the sizes of both."""
    if (folder / CHECKPOINT).is_file():
        state = read_state(folder / CHECKPOINT)
        return state.language_model, state.vision, state.sizes
    shards = open_shards(folder / LANGUAGE_FOLDER)
    vision = read_tensors(folder / VISION_FILE, "Convert the checkpoint again.")
    return {name: shards.tensor(name) for name in shards.files}, vision, read_sizes(folder / SIZES_FILE)


def _vision(sizes: RadFMSizes, state: State, source: str, device: torch.device) -> RadFMVision:
    with torch.device("meta"):
        vision = RadFMVision(sizes)
    fill(vision, state, source, device=device, dtype=torch.float32)
    return vision


def _refuse_other_folder(folder: Path) -> None:
    hint = f"Give a folder with the authors' {CHECKPOINT} and {TOKENIZER_FILE}, or one that the converter wrote."
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", hint)
    if (folder / CHECKPOINT).is_file() or (folder / VISION_FILE).is_file():
        return
    archives = sorted(file.name for file in folder.glob("*.zip"))
    unpack = f"Unpack {archives[0]} first, which the authors publish it in. " if archives else ""
    raise UsageError(f"{folder} holds no RadFM: neither {CHECKPOINT} nor {VISION_FILE}.", unpack + hint)


def _parts(folder: Path) -> tuple[str, ...]:
    own = (CHECKPOINT,) if (folder / CHECKPOINT).is_file() else (LANGUAGE_FOLDER, VISION_FILE)
    return (*own, SIZES_FILE, TOKENIZER_FILE)
