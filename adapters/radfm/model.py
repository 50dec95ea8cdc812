"""RadFM, loaded from the authors' file or from a folder that `convert` made, and how it reads images and prompts.

An image becomes a square by a bicubic resize that does not keep its shape, in [0, 1], and stands as four equal slices.
The authors cut a random part of 80 to 100 % out of every image, in testing too; that is `crop=random`, and no default
here, since an answer must not depend on a draw.
"""

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from medbench.adapters.base import ImageSlot, LoadOptions, ModelCard, Pixels, Prompt, SizeOf, TextAdapter, TextSegment
from medbench.adapters.radfm.entry import CARD, ENTRY, prompt_parts
from medbench.adapters.radfm.vision import SIZES_FILE, LanguageSizes, RadFMVision, read_sizes
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed import weights
from medbench.unimed.tokens import BOS_ID, EOS_ID, SegmentTokenizer, read_tokenizer, refuse_other_vocabulary
from medbench.unimed.weights import open_shards, read_tensors

LANGUAGE, VISION = "lang_model.", "embedding_layer."
"""What the names of the two halves begin with in the published checkpoint."""
CHECKPOINT, TOKENIZER_FILE = "pytorch_model.bin", "tokenizer.model"
LANGUAGE_FOLDER, VISION_FILE = "language_model", "vision.safetensors"
LONGEST_ANSWER = 200
"""The authors' limit for every question."""
SLICES = 4
"""Of an image."""
_COPY, _ORIGINAL = f"{VISION}weight", f"{LANGUAGE}model.embed_tokens.weight"
_PRETRAINING = tuple(
    f"{VISION}{part}."
    for part in (
        "bert_model", "bert_projection_fc", "output_upscaling", "transformer_decoder", "transformer_decoder_mlp",
        "cls_head",
    )
)  # fmt: skip
"""The text encoder and heads of vision's pre-training, which no answer needs."""
_TRIES, _AREA, _SHAPE = 10, (0.8, 1.0), (3 / 4, 4 / 3)


def read_published(path: Path) -> tuple[weights.State, weights.State]:
    """Return the weights that answer, still on the disk: those of `LlamaForCausalLM` and of `RadFMVision`.

    DataError if the file cannot be read, its two copies of the embeddings differ, or it holds something unknown.
    """
    state = weights.unwrapped(read_tensors(path))
    if _COPY in state and _ORIGINAL in state:
        weights.refuse_different(str(path), [(_COPY, state.pop(_COPY), state[_ORIGINAL])])
    rotary = {name for name in state if name.startswith(LANGUAGE) and name.endswith(weights.ROTARY)}
    state = {name: one for name, one in state.items() if name not in rotary and not name.startswith(_PRETRAINING)}
    strangers = [name for name in state if not name.startswith((LANGUAGE, VISION))]
    if strangers:
        raise DataError(
            f"{path} holds what no RadFM has: {weights.some_of(strangers)}.",
            "Give the state dictionary that RadFM's authors publish as pytorch_model.bin.",
        )
    return weights.part_of(state, LANGUAGE), weights.part_of(state, VISION)


def llama_config(sizes: LanguageSizes) -> LlamaConfig:
    """Return the configuration of the language model. Its end token is 2, which it was taught, not upstream's 1.

    DataError if transformers knows no LLaMA of these sizes.
    """
    try:
        return LlamaConfig(**asdict(sizes), bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=None)
    except (StrictDataclassError, ValueError, TypeError, ZeroDivisionError) as error:
        raise DataError(f"The sizes of the language model cannot be: {error}", f"Correct {SIZES_FILE}.") from error


def load_radfm(options: LoadOptions) -> "RadFMAdapter":
    """Load a folder with the authors' `pytorch_model.bin`, or one that the converter wrote; vision stays in float32.

    UsageError if there is no such folder or device, or the folder holds no RadFM; DataError if a file is missing or
    broken, or a weight is missing, unexpected or of another shape; RunError if the device has no room for it.
    """
    folder = options.folder_of(CARD)
    files = _files(folder)
    device, dtype = weights.device_and_dtype(options.device, options.dtype)
    refuse_stand_ins(*files.values())
    tokenizer = read_tokenizer(folder / TOKENIZER_FILE)
    source, sizes = str(folder), read_sizes(folder)
    refuse_other_vocabulary(folder / TOKENIZER_FILE, tokenizer, sizes.language_model.vocab_size)
    config = llama_config(sizes.language_model)
    with room_for(source):
        state, seeing = read_published(folder / CHECKPOINT) if CHECKPOINT in files else _read_converted(folder)
        language = weights.filled_llama(LlamaForCausalLM, config, state, source, device=device, dtype=dtype)
        with torch.device("meta"):
            vision = RadFMVision(sizes)
        weights.fill(vision, seeing, source, device=device, dtype=torch.float32)
    chosen = ENTRY.settled(options.variant, options.arguments)
    return RadFMAdapter(
        CARD.as_chosen(ENTRY.arguments, chosen), language, vision, tokenizer,
        fingerprint=identity_of(files), image_position=chosen["image_position"],
        crop_seed=options.seed if chosen["crop"] == "random" else None,
    )  # fmt: skip


def _files(folder: Path) -> dict[str, Path]:
    """Return the files and folders that are there by their names."""
    published, converted = folder / CHECKPOINT, folder / VISION_FILE
    if not published.is_file() and not converted.is_file():
        archives = sorted(file.name for file in folder.glob("*.zip"))
        unpack = f"Unpack {archives[0]} first, which the authors publish it in. " if archives else ""
        raise UsageError(
            f"{folder} holds no RadFM: neither {CHECKPOINT} nor {VISION_FILE}.",
            f"{unpack}Give a folder with the authors' {CHECKPOINT} and {TOKENIZER_FILE}, or one that `medbench convert "
            "radfm` wrote.",
        )
    own = (CHECKPOINT,) if published.is_file() else (LANGUAGE_FOLDER, VISION_FILE)
    return {name: folder / name for name in (*own, SIZES_FILE, TOKENIZER_FILE) if (folder / name).exists()}


def _read_converted(folder: Path) -> tuple[weights.State, weights.State]:
    shards = open_shards(folder / LANGUAGE_FOLDER)
    language = {name: shards.tensor(name) for name in shards.files}
    return language, read_tensors(folder / VISION_FILE, "Convert the checkpoint again.")


class RadFMAdapter(TextAdapter[SegmentTokenizer]):
    """RadFM: images as 32 latents between two brackets, at the beginning of the question or near its end.

    Vision is in float32 whatever the type of the language model: 0.43 GB. Where images stand (`image_position`) is
    `auto`, `start` or `end`; `crop_seed` is that of the authors' random crop, None for the whole image.
    """

    def __init__(
        self, card: ModelCard, language: LlamaForCausalLM, vision: RadFMVision, tokenizer: SegmentTokenizer, *,
        fingerprint: str, image_position: str = "auto", crop_seed: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(language, tokenizer, fingerprint)
        self.card = card
        self.vision = vision
        self._image_position = image_position
        self._crop_seed = crop_seed

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return BOS and the question with the images in it."""
        del size_of
        segments = (
            ImageSlot(image=part, tokens=self.vision.image_tokens)
            if isinstance(part, ImageRef)
            else TextSegment(ids=part)
            for part in self.tokens.encode(prompt_parts(sample, spec, self._image_position))
            if part
        )
        return Prompt(segments=(TextSegment(ids=(BOS_ID,)), *segments))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return an image as uint8 [3, S, S]; it becomes a volume where it is encoded, at a sixteenth of the bytes."""
        return square(image, self.vision.image_size, crop_seed=self._crop_seed)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return latents [32, C] of images, uint8 [3, S, S]."""
        together = torch.stack(list(pixels)).to(self.decoder.device, non_blocking=True)
        return list(self.vision.latents((together.float() / 255)[..., None].expand(-1, -1, -1, -1, SLICES)))

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [34, D] of the latents [32, C] of each: bracket, projected latents, bracket."""
        del kind
        return list(self.vision.tokens(torch.stack(list(features))).to(self.decoder.dtype))

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the authors' 200, whatever the task."""
        del spec
        return LONGEST_ANSWER


def square(image: Image.Image, side: int, *, crop_seed: int | None = None) -> torch.Tensor:
    """Return an image as uint8 [3, side, side].

    With a seed it is a random part of it, whose draw depends on the image and the seed alone: 80 to 100 % of the area
    in a shape between 3:4 and 4:3, like `RandomResizedCrop` of the authors' transforms.
    """
    colour = image.convert("RGB")
    if crop_seed is not None:
        digest = hashlib.sha256(f"{crop_seed}/{colour.width}x{colour.height}/".encode() + colour.tobytes()).digest()
        colour = colour.crop(_part(colour.width, colour.height, random.Random(int.from_bytes(digest[:8], "big"))))
    resized = colour.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def _part(width: int, height: int, draw: random.Random) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of a random part; the largest middle part of a lawful shape if none fits."""
    for _ in range(_TRIES):
        area = width * height * draw.uniform(*_AREA)
        shape = math.exp(draw.uniform(math.log(_SHAPE[0]), math.log(_SHAPE[1])))
        wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < wide <= width and 0 < high <= height:
            left, top = draw.randint(0, width - wide), draw.randint(0, height - high)
            return left, top, left + wide, top + high
    wide, high = min(width, round(height * _SHAPE[1])), min(height, round(width / _SHAPE[0]))
    left, top = (width - wide) // 2, (height - high) // 2
    return left, top, left + wide, top + high
