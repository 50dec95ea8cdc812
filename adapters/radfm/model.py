"""RadFM, from the authors' file or a converted folder: how it is loaded and converted, reads images and prompts.

An image becomes a square by a bicubic resize that does not keep its shape, in [0, 1], and stands as four equal slices.
The authors cut a random part out of every image, in testing too; an answer must not depend on a draw by default.
"""

import hashlib
import math
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from medbench.adapters.base import ImageSlot, LoadOptions, Pixels, Prompt, SizeOf, TextSegment
from medbench.adapters.families import TextAdapter, new_folder, usable
from medbench.adapters.low_rank import with_lora
from medbench.adapters.radfm.entry import CARD, ENTRY, prompt_parts
from medbench.adapters.radfm.vision import SIZES_FILE, LanguageSizes, RadFMSizes, RadFMVision, read_sizes
from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import canonical_json
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import ImageRef, Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed import weights
from medbench.unimed.tokens import BOS_ID, EOS_ID, SegmentTokenizer, read_tokenizer
from medbench.unimed.weights import SHARD_BYTES, open_shards, read_tensors, write_shards

LANGUAGE, VISION = "lang_model.", "embedding_layer."  # How names of the two halves begin, as published.
CHECKPOINT, TOKENIZER_FILE = "pytorch_model.bin", "tokenizer.model"
LANGUAGE_FOLDER, VISION_FILE = "language_model", "vision.safetensors"
DTYPES = ("bfloat16", "float16", "float32")
SLICES = 4  # Of an image.
_COPY, _ORIGINAL = f"{VISION}weight", f"{LANGUAGE}model.embed_tokens.weight"
# The text encoder and heads of vision's pre-training, which no answer needs.
_HEADS = ("bert_model", "bert_projection_fc", "output_upscaling", "transformer_decoder", "transformer_decoder_mlp")
_PRETRAINING = tuple(f"{VISION}{part}." for part in (*_HEADS, "cls_head"))
_TRIES, _AREA, _SHAPE = 10, (0.8, 1.0), (3 / 4, 4 / 3)


def read_published(path: Path) -> tuple[weights.State, weights.State]:
    """Return LLaMA's and vision's weights, still on the disk; DataError if others are there, or its copies differ."""
    state = weights.unwrapped(read_tensors(path))
    if _COPY in state and _ORIGINAL in state:
        weights.refuse_different(str(path), [(_COPY, state.pop(_COPY), state[_ORIGINAL])])
    rotary = {name for name in state if name.startswith(LANGUAGE) and name.endswith(weights.ROTARY)}
    state = {name: one for name, one in state.items() if name not in rotary and not name.startswith(_PRETRAINING)}
    strangers = [name for name in state if not name.startswith((LANGUAGE, VISION))]
    if strangers:
        problem = f"{path} holds what no RadFM has: {weights.some_of(strangers)}."
        raise DataError(problem, "Give the state dictionary that RadFM's authors publish as pytorch_model.bin.")
    return weights.part_of(state, LANGUAGE), weights.part_of(state, VISION)


def llama_config(sizes: LanguageSizes) -> LlamaConfig:
    """Return LLaMA of these sizes, ended by 2, as it was taught, not by upstream's 1; DataError if there is none."""
    with usable("The sizes of the language model cannot be", f"Correct {SIZES_FILE}."):
        return LlamaConfig(**asdict(sizes), bos_token_id=BOS_ID, eos_token_id=EOS_ID, pad_token_id=None)


def load_radfm(options: LoadOptions) -> "RadFMAdapter":
    """Load the authors' file or the converter's folder; vision stays in float32. See `families` for what it raises."""
    folder = options.folder_of(CARD)
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
    files = {name: folder / name for name in (*own, SIZES_FILE, TOKENIZER_FILE) if (folder / name).exists()}
    device, dtype = weights.device_and_dtype(options.device, options.dtype)
    refuse_stand_ins(*files.values())
    tokenizer, sizes = _tokenizer(folder)
    config, source = llama_config(sizes.language_model), str(folder)
    with room_for(source):
        if CHECKPOINT in files:
            state, seeing = read_published(published)
        else:
            shards = open_shards(folder / LANGUAGE_FOLDER)
            state = {name: shards.tensor(name) for name in shards.files}
            seeing = read_tensors(converted, "Convert the checkpoint again.")
        language = weights.filled_llama(LlamaForCausalLM, config, state, source, device=device, dtype=dtype)
        with torch.device("meta"):
            vision = RadFMVision(sizes)
        weights.fill(vision, seeing, source, device=device, dtype=torch.float32)
    return with_lora(RadFMAdapter(language, vision, tokenizer, identity_of(files), options), options.lora)


def _tokenizer(folder: Path) -> tuple[SegmentTokenizer, RadFMSizes]:
    sizes = read_sizes(folder)
    return read_tokenizer(folder / TOKENIZER_FILE, rows=sizes.language_model.vocab_size), sizes


class RadFMAdapter(TextAdapter[SegmentTokenizer]):
    """RadFM: images as 32 latents between two brackets, at the beginning of the question or near its end."""

    longest = 200  # The authors' limit for every question.

    def __init__(
        self, language: LlamaForCausalLM, vision: RadFMVision, tokenizer: SegmentTokenizer, fingerprint: str,
        options: LoadOptions,
    ) -> None:  # fmt: skip
        # Bracket, projected latents, bracket: [N, 34, D] of latents [N, 32, C].
        super().__init__(
            language, tokenizer, fingerprint, connector=lambda latents: vision.tokens(latents).to(language.dtype)
        )
        chosen = ENTRY.settled(options.variant, options.arguments)
        self.card = CARD.as_chosen(ENTRY.arguments, chosen)
        self.vision = vision
        self._image_position = chosen["image_position"]
        self._crop_seed = options.seed if chosen["crop"] == "random" else None

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return BOS and the question with the images in it."""
        del size_of
        tokens = self.vision.image_tokens
        segments = (
            ImageSlot(image=part, tokens=tokens) if isinstance(part, ImageRef) else TextSegment(ids=part)
            for part in self.tokens.encode(prompt_parts(sample, spec, self._image_position)) if part
        )  # fmt: skip
        return Prompt(segments=(TextSegment(ids=(BOS_ID,)), *segments))

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return an image as uint8 [3, S, S]; it becomes a volume where it is encoded, at a sixteenth of the bytes."""
        return square(image, self.vision.image_size, crop_seed=self._crop_seed)

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return latents [32, C] of images, uint8 [3, S, S]."""
        together = torch.stack(list(pixels)).to(self.decoder.device, non_blocking=True)
        return list(self.vision.latents((together.float() / 255)[..., None].expand(-1, -1, -1, -1, SLICES)))


def square(image: Image.Image, side: int, *, crop_seed: int | None = None) -> torch.Tensor:
    """Return an image as uint8 [3, side, side]; with a seed a random part of it, drawn by the image and the seed alone.

    It is 80 to 100 % of the area in a shape between 3:4 and 4:3, like `RandomResizedCrop` of the authors' transforms.
    """
    colour = image.convert("RGB")
    if crop_seed is not None:
        width, height = colour.size
        digest = hashlib.sha256(f"{crop_seed}/{width}x{height}/".encode() + colour.tobytes()).digest()
        draw = random.Random(int.from_bytes(digest[:8], "big"))
        for _ in range(_TRIES):
            area = width * height * draw.uniform(*_AREA)
            shape = math.exp(draw.uniform(math.log(_SHAPE[0]), math.log(_SHAPE[1])))
            wide, high = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
            if 0 < wide <= width and 0 < high <= height:
                left, top = draw.randint(0, width - wide), draw.randint(0, height - high)
                break
        else:
            # The largest middle part of a lawful shape.
            wide, high = min(width, round(height * _SHAPE[1])), min(height, round(width / _SHAPE[0]))
            left, top = (width - wide) // 2, (height - high) // 2
        colour = colour.crop((left, top, left + wide, top + high))
    resized = colour.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).contiguous()


def convert(source: Path, output: Path, *, dtype: str = "bfloat16", shard_bytes: int = SHARD_BYTES) -> None:
    """Write a folder that `--checkpoint` takes, with the language model's weights of type `dtype`, a shard at a time.

    `source` holds pytorch_model.bin and tokenizer.model, and a radfm.json if its sizes are not the published. In the
    folder are `language_model/` in transformers' layout, what comes before it as `vision.safetensors` in float32,
    `radfm.json` and `tokenizer.model`. It raises what `families` says.
    """
    if dtype not in DTYPES:
        raise UsageError(f"There is no type {dtype!r} of weights.", f"Allowed: {', '.join(DTYPES)}.")
    if not source.is_dir():
        raise UsageError(f"{source} is no folder.", f"Give one with {CHECKPOINT} and {TOKENIZER_FILE}.")
    missing = [name for name in (CHECKPOINT, TOKENIZER_FILE) if not (source / name).is_file()]
    if missing:
        problem = f"{source} lacks {', '.join(missing)}."
        raise DataError(problem, "Put the authors' two files, unpacked, into one folder.")
    with new_folder(output) as folder:
        _, sizes = _tokenizer(source)
        language, vision = read_published(source / CHECKPOINT)
        config = llama_config(sizes.language_model)
        with torch.device("meta"):
            modules = LlamaForCausalLM(config), RadFMVision(sizes)
        for state, module in zip((language, vision), modules, strict=True):
            weights.refuse_misfits(str(source), state, module.state_dict())
            weights.refuse_other_numbers(str(source), state)
        kind: torch.dtype = getattr(torch, dtype)
        config.dtype, config.architectures = kind, [LlamaForCausalLM.__name__]
        bytes_of = {name: tensor.numel() * kind.itemsize for name, tensor in language.items()}
        home = folder / LANGUAGE_FOLDER
        write_shards(home, bytes_of, lambda name: language[name].to(kind), shard_bytes=shard_bytes)
        config.save_pretrained(home)
        seeing = {name: tensor.float().contiguous() for name, tensor in vision.items()}
        save_file(seeing, folder / VISION_FILE, metadata={"format": "pt"})
        (folder / SIZES_FILE).write_text(canonical_json(asdict(sizes), indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
