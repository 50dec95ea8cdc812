"""XrayGPT as transformers' `Blip2ForConditionalGeneration`, from the authors' four files or from a converted folder.

Which files, and how models of other sizes say so: docs/design/0006-the-models.md.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from PIL import Image
from transformers import Blip2Config, Blip2ForConditionalGeneration, LlamaConfig, LlamaForCausalLM

from medbench.adapters.base import LoadOptions, Pixels, Prompt, SizeOf
from medbench.adapters.families import TextAdapter, new_folder, usable
from medbench.adapters.low_rank import with_lora
from medbench.adapters.wording import without_marks
from medbench.adapters.xraygpt.entry import CARD, TURN_END, prompt_texts
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import read_json_object
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import Sample
from medbench.tasks.spec import TaskSpec
from medbench.unimed import weights
from medbench.unimed.processing import pixels_of
from medbench.unimed.tokens import TextCodec, load_codec
from medbench.unimed.vision import LN_VISION_EPSILON, from_eva
from medbench.unimed.weights import read_tensors

VISION, QFORMER, TRAINED = "eva_vit_g", "blip2_pretrained_flant5xxl", "xraygpt_pretrained1"
SIZES = "xraygpt_sizes.json"
IMAGE_MARKS = ("<ImageHere>", "<image>")  # Stand for an image in the authors' prompts; taken out of dataset texts.
_SIZES_UNUSABLE, _COPY_AGAIN = "The sizes of this XrayGPT cannot be used", "Copy its files again."
_SIZES = {"vision_config", "qformer_config", "num_query_tokens"}
_STRANGE_OBJECTS = (
    "Copy it again. If it holds objects of the authors' program beside the tensors, keep the tensors alone: load it "
    "where you trust it and write its `model` with safetensors, under the same name."
)
_POSITIONS = r"Qformer\.bert\.embeddings\.position_ids"
# By file: how transformers' names begin of what it brings, and what it holds beside that: BLIP-2's own way into its
# language model, and buffers, which follow from the configuration.
_BROUGHT: Mapping[str, tuple[tuple[str, ...], str]] = {
    "qformer": (("query_tokens", "qformer.", "vision_model.post_layernorm."), rf"(t5_proj\.|{_POSITIONS}).*"),
    "trained": (("language_projection.",), rf".*({_POSITIONS}|rotary_emb\.inv_freq)"),
}
# How the authors call what transformers names so.
_THEIR_NAMES = {
    r"\.attention\.(query|key|value)\.": r".self.\1.",
    r"^qformer\.layernorm\.": "qformer.embeddings.LayerNorm.",
    r"^qformer\.": "Qformer.bert.",
    r"^vision_model\.post_layernorm\.": "ln_vision.",
    r"^language_projection\.": "llama_proj.",
}


def find_files(folder: Path) -> dict[str, Path]:
    """Return the authors' files by their part; DataError if one is missing, or there are several language models."""
    names = {"vision": VISION, "qformer": QFORMER, "trained": TRAINED}
    here = {
        part: file for part, name in names.items() for suffix in (".pth", ".safetensors")
        if (file := folder / (name + suffix)).is_file()
    }  # fmt: skip
    languages = sorted(path.parent for path in folder.glob("*/config.json"))
    if len(here) < len(names) or len(languages) != 1:
        missing = ", ".join(f"{name}.pth" for part, name in names.items() if part not in here)
        raise DataError(
            f"{folder} is no XrayGPT: {missing or 'nothing'} missing, {len(languages)} folders with a language model.",
            f"Put {VISION}.pth, {QFORMER}.pth, {TRAINED}.pth and the folder Vicuna_Radiology_fp16 into it, or give a "
            "folder that `medbench convert xraygpt` wrote.",
        )
    sizes = {"sizes": folder / SIZES} if (folder / SIZES).is_file() else {}
    return {**here, "language": languages[0], **sizes}


def assemble(files: Mapping[str, Path], dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    """Return a model from the authors' files; as in transformers, the query transformer stays in float32."""
    config = config_of(files)
    with torch.device("meta"), usable(_SIZES_UNUSABLE, _COPY_AGAIN):
        model = Blip2ForConditionalGeneration(config)
    model.language_model = weights.strict_from_pretrained(
        LlamaForCausalLM, files["language"], harmless=weights.ROTARY, config=config.text_config, dtype=dtype
    )
    expected = {name: one for name, one in model.state_dict().items() if not name.startswith("language_model.")}
    state = _read(files, config, expected)
    weights.refuse_misfits(str(files["trained"].parent), state, expected)
    model.load_state_dict(state, strict=False, assign=True)
    return _finished(model, dtype)


def _finished(model: Blip2ForConditionalGeneration, dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    weights.cast_parameters(model, dtype, exact=(model.query_tokens, *model.qformer.parameters()))
    # The authors' `ln_vision` has PyTorch's own epsilon; transformers gives it that of the ViT.
    cast("torch.nn.LayerNorm", model.vision_model.post_layernorm).eps = LN_VISION_EPSILON
    return model


def config_of(files: Mapping[str, Path]) -> Blip2Config:
    """Return the language model's configuration with the rest as published or given; DataError if it is impossible."""
    sizes: dict[str, Any] = read_json_object(files["sizes"]) if "sizes" in files else {}
    values = read_json_object(files["language"] / "config.json")
    if values.get("model_type") != "llama" or sizes.keys() - _SIZES:
        given = sorted(sizes) or "as published"
        problem = f"{files['language']} is of type {values.get('model_type')!r}, with sizes {given}."
        raise DataError(problem, f"XrayGPT's language model is a `llama`; sizes are {', '.join(sorted(_SIZES))}.")
    with usable(_SIZES_UNUSABLE, _COPY_AGAIN):
        return Blip2Config(
            vision_config=transformers.Blip2VisionConfig(**sizes.get("vision_config", {})),
            qformer_config=transformers.Blip2QFormerConfig(**sizes.get("qformer_config", {})),
            text_config=LlamaConfig.from_dict(values),
            num_query_tokens=sizes.get("num_query_tokens", 32),
            image_token_index=0,
        )


def _read(files: Mapping[str, Path], config: Blip2Config, expected: weights.State) -> dict[str, torch.Tensor]:
    """Return all weights but the language model's; of the two feed-forward nets of a layer the queries' alone."""
    vision, *others = (read_tensors(files[part], _STRANGE_OBJECTS) for part in ("vision", *_BROUGHT))
    tower = from_eva(vision, cast("Any", config.vision_config), str(files["vision"]))
    state = {f"vision_model.{name}": tensor for name, tensor in tower.items()}
    for tensors, (part, (beginnings, unused)) in zip(others, _BROUGHT.items(), strict=True):
        theirs = {_their_name(name): name for name in expected if name.startswith(beginnings)}
        kept = {name: tensor for name, tensor in tensors.items() if not re.fullmatch(unused, name)}
        weights.refuse_other_names(str(files[part]), kept, theirs)
        state |= {ours: kept[name] for name, ours in theirs.items()}
    return state


def _their_name(name: str) -> str:
    for pattern, theirs in _THEIR_NAMES.items():
        name = re.sub(pattern, theirs, name)
    return name


def load_xraygpt(options: LoadOptions) -> "XrayGptAdapter":
    """Load the authors' four files or a converted folder; see `families` for what it raises."""
    folder = options.folder_of(CARD)
    device, dtype = weights.device_and_dtype(options.device, options.dtype)
    with room_for(f"XrayGPT in {folder}"):
        converted = (folder / "config.json").is_file()
        files = {"checkpoint": folder} if converted else find_files(folder)
        refuse_stand_ins(*files.values())
        if converted:
            with usable(f"{folder / 'config.json'} cannot be used", "Convert it again."):
                config = Blip2Config.from_pretrained(folder, trust_remote_code=False)
            model = weights.strict_from_pretrained(
                Blip2ForConditionalGeneration, folder, harmless=weights.ROTARY, config=config, dtype=dtype
            )
            _finished(model, dtype)
        else:
            model = assemble(files, dtype)
        model = torch.nn.Module.to(model, device).eval()
        codec = load_codec(folder if converted else files["language"])
    adapter = XrayGptAdapter(model, codec, identity_of(files), template=options.arguments["template"])
    if options.arguments["preset"] == "author":
        adapter.decoding, adapter.longest = {"temperature": 1.0, "top_p": 0.9}, 300
    return with_lora(adapter, options.lora)


class XrayGptAdapter(TextAdapter[TextCodec]):
    """XrayGPT: EVA's features through BLIP-2's queries and one linear layer, in place of the image in the prompt."""

    card = CARD
    stops = (TURN_END,)  # The authors look for its token ids, and only in the first row of a batch.

    def __init__(
        self, model: Blip2ForConditionalGeneration, codec: TextCodec, fingerprint: str, *, template: str
    ) -> None:
        # The outer model insists on images, so the engine drives the language model inside.
        language: Any = model.language_model
        super().__init__(language, codec, fingerprint, connector=model.language_projection)
        self.model = model
        self._template = template

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the authors' template around the task's instruction; SampleError if there is not exactly one image."""
        del size_of
        return self.put(without_marks(spec.instruction(sample), IMAGE_MARKS), sample)

    def put(self, question: str, sample: Sample) -> Prompt:
        """Return the template around a question about the sample's image."""
        if len(sample.images) != 1:
            raise SampleError(f"XrayGPT reads one image; {sample.sample_id!r} has {len(sample.images)}.", kind="prompt")
        before, behind = (self.tokens.ids(text) for text in prompt_texts(question, self._template))
        queries = int(self.model.config.num_query_tokens)
        return Prompt.between((self.tokens.begin + before, behind), sample.images, queries)

    def pixels(self, image: Image.Image) -> torch.Tensor:
        """Return normalised pixels [3, S, S]; the aspect ratio is not kept, as in Uni-Med, which has the same tower."""
        vision: Any = self.model.config.vision_config
        return pixels_of(image, int(vision.image_size))

    def encode_images(self, pixels: Sequence[Pixels]) -> Sequence[torch.Tensor]:
        """Return the queries' features [V, C_q] of pixels [3, S, S]."""
        together = torch.stack(list(pixels)).to(self.model.device, self.decoder.dtype, non_blocking=True)
        seen = self.model.vision_model(pixel_values=together).last_hidden_state
        queries = self.model.query_tokens.expand(len(together), -1, -1)
        features = self.model.qformer(query_embeds=queries, encoder_hidden_states=seen).last_hidden_state
        return list(features.to(self.decoder.dtype))


def convert(source: Path, output: Path, *, dtype: torch.dtype | str = torch.float16) -> None:
    """Write XrayGPT as a folder that `Blip2ForConditionalGeneration` and `--model xraygpt --checkpoint OUTPUT` load.

    `dtype` is that of all weights but the query transformer's. A visual token is one unknown token (id 0), and rows are
    padded with the end token. transformers gives `ln_vision` the ViT's epsilon of 1e-6, not 1e-5, which moves features
    in the seventh digit; this project's own loader sets the right one. It raises what `families` says.
    """
    with new_folder(output) as folder:
        files = find_files(source)
        codec = load_codec(files["language"])
        model = assemble(files, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        [begin], end = codec.begin, codec.end
        model.generation_config = transformers.GenerationConfig(eos_token_id=end, pad_token_id=end, bos_token_id=begin)
        model.save_pretrained(folder)
        codec.for_generation().save_pretrained(folder)
