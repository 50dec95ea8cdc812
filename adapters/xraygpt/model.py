"""XrayGPT as transformers' `Blip2ForConditionalGeneration`, from the authors' four files or from a converted folder.

The four files, in one folder:

    eva_vit_g.pth                    EVA ViT-g, as BLIP-2 and MiniGPT-4 ship it
    blip2_pretrained_flant5xxl.pth   BLIP-2's query transformer and vision normalisation
    xraygpt_pretrained1.pth          what XrayGPT trained: one linear layer
    Vicuna_Radiology_fp16/           its language model, in the layout of transformers; the name does not matter

Each `.pth` may also be a `.safetensors` with the same names. Models of other sizes than the published one say so in
`xraygpt_sizes.json`: `{"vision_config": {...}, "qformer_config": {...}, "num_query_tokens": 32}`, with the fields of
transformers' `Blip2VisionConfig` and `Blip2QFormerConfig`.

The paper speaks of MedCLIP; the released code and weights have EVA-CLIP's ViT-g and BLIP-2's query transformer, as
MiniGPT-4 does, and so has this.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from medbench.adapters.base import ImageSlot, LoadOptions, Pixels, Prompt, SizeOf, TextAdapter, TextSegment
from medbench.adapters.wording import without_marks
from medbench.adapters.xraygpt.entry import AUTHORS_DECODING, AUTHORS_TOKENS, CARD, IMAGE_MARKS, TURN_END, prompt_texts
from medbench.tasks.foundation.errors import DataError, SampleError
from medbench.tasks.foundation.files import read_json
from medbench.tasks.foundation.model_files import identity_of, refuse_stand_ins, room_for
from medbench.tasks.sample import Sample
from medbench.tasks.spec import Kind, TaskSpec
from medbench.unimed import weights
from medbench.unimed.processing import pixels_of
from medbench.unimed.tokens import TextCodec, load_codec
from medbench.unimed.vision import LN_VISION_EPSILON, from_eva
from medbench.unimed.weights import read_tensors

VISION, QFORMER, TRAINED = "eva_vit_g", "blip2_pretrained_flant5xxl", "xraygpt_pretrained1"
SIZES = "xraygpt_sizes.json"
_SIZES = {"vision_config", "qformer_config", "num_query_tokens"}
_QUERY_TOKENS = 32
_STRANGE_OBJECTS = (
    "Copy it again. If it holds objects of the authors' program beside the tensors, keep the tensors alone: load it "
    "where you trust it and write its `model` with safetensors, under the same name."
)
_LINEAR = ("weight", "bias")
_OUTSIDE_LAYERS = {
    "query_tokens": "query_tokens",
    **{f"ln_vision.{end}": f"vision_model.post_layernorm.{end}" for end in _LINEAR},
    **{f"Qformer.bert.embeddings.LayerNorm.{end}": f"qformer.layernorm.{end}" for end in _LINEAR},
}
_FEED_FORWARD = ("intermediate_query.dense", "output_query.dense", "output_query.LayerNorm")
_ATTENTION = {
    "self.query": "attention.query",
    "self.key": "attention.key",
    "self.value": "attention.value",
    "output.dense": "output.dense",
    "output.LayerNorm": "output.LayerNorm",
}
_POSITIONS = "Qformer.bert.embeddings.position_ids"
_UNUSED = ("t5_proj.", _POSITIONS)
"""BLIP-2's own way into its language model, and a buffer."""
_TRAINED_NAMES = {f"llama_proj.{end}": f"language_projection.{end}" for end in _LINEAR}


def find_files(folder: Path) -> dict[str, Path]:
    """Return the authors' files in a folder: `vision`, `qformer`, `trained`, `language`, and `sizes` if it is there.

    DataError if one is missing, or there are several language models.
    """
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
    """Return a model from the authors' files, as `find_files` returns them.

    As in transformers' own BLIP-2, the query transformer stays in float32 whatever the type of the rest. DataError if a
    weight is missing, unknown or of another shape, or a file is broken.
    """
    config = config_of(files)
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(config)
    model.language_model = weights.strict_from_pretrained(
        LlamaForCausalLM, files["language"], harmless=weights.ROTARY, config=config.text_config, dtype=dtype
    )
    expected = {name: one for name, one in model.state_dict().items() if not name.startswith("language_model.")}
    state = _read(files, config)
    weights.refuse_misfits(str(files["trained"].parent), state, expected)
    model.load_state_dict(state, strict=False, assign=True)
    return _finished(model, dtype)


def load_converted(folder: Path, dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    """Return a model from a folder that `medbench convert xraygpt` wrote.

    DataError if a weight is missing, unknown or of another shape, or a file is broken.
    """
    try:
        config = Blip2Config.from_pretrained(folder, trust_remote_code=False)
    except (StrictDataclassError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{folder / 'config.json'} cannot be used: {error}", "Convert it again.") from error
    model = weights.strict_from_pretrained(
        Blip2ForConditionalGeneration, folder, harmless=weights.ROTARY, config=config, dtype=dtype
    )  # fmt: skip
    return _finished(model, dtype)


def _finished(model: Blip2ForConditionalGeneration, dtype: torch.dtype) -> Blip2ForConditionalGeneration:
    weights.cast_parameters(model, dtype, exact=(model.query_tokens, *model.qformer.parameters()))
    # The authors' `ln_vision` has PyTorch's own epsilon; transformers gives it that of the ViT.
    cast("torch.nn.LayerNorm", model.vision_model.post_layernorm).eps = LN_VISION_EPSILON
    return model


def config_of(files: Mapping[str, Path]) -> Blip2Config:
    """Return the configuration: the language model's from its folder, the rest as published unless sizes are given.

    DataError if the language model is no LLaMA, or the sizes are unknown or impossible.
    """
    sizes: dict[str, Any] = read_json(files["sizes"]) if "sizes" in files else {}
    values = read_json(files["language"] / "config.json")
    if values.get("model_type") != "llama" or sizes.keys() - _SIZES:
        given = sorted(sizes) or "as published"
        raise DataError(
            f"{files['language']} is of type {values.get('model_type')!r}, with sizes {given}.",
            f"XrayGPT's language model is a `llama`; sizes are {', '.join(sorted(_SIZES))}.",
        )
    try:
        return Blip2Config(
            vision_config=Blip2VisionConfig(**sizes.get("vision_config", {})),
            qformer_config=Blip2QFormerConfig(**sizes.get("qformer_config", {})),
            text_config=LlamaConfig.from_dict(values),
            num_query_tokens=sizes.get("num_query_tokens", _QUERY_TOKENS),
            image_token_index=0,
        )
    except (StrictDataclassError, ValueError, TypeError) as error:
        raise DataError(f"The sizes of this XrayGPT cannot be used: {error}", "Copy its files again.") from error


def _read(files: Mapping[str, Path], config: Blip2Config) -> dict[str, torch.Tensor]:
    """Return the weights of all but the language model under transformers' names."""
    vision, qformer, trained = (
        read_tensors(files[part], _STRANGE_OBJECTS) for part in ("vision", "qformer", "trained")
    )  # fmt: skip
    tower = from_eva(vision, cast("Blip2VisionConfig", config.vision_config), str(files["vision"]))
    names = _qformer_names(cast("Blip2QFormerConfig", config.qformer_config))
    given = {name: one for name, one in qformer.items() if not name.startswith(_UNUSED)}
    # The authors' saver also keeps buffers, which follow from the configuration.
    kept = {name: one for name, one in trained.items() if not name.endswith((_POSITIONS, *weights.ROTARY))}
    return {
        **{f"vision_model.{name}": tensor for name, tensor in tower.items()},
        **_renamed(given, names, str(files["qformer"])),
        **_renamed(kept, _TRAINED_NAMES, str(files["trained"])),
    }


def _renamed(tensors: weights.State, names: Mapping[str, str], source: str) -> dict[str, torch.Tensor]:
    weights.refuse_other_names(source, tensors, names)
    return {ours: tensors[theirs] for theirs, ours in names.items()}


def _qformer_names(config: Blip2QFormerConfig) -> dict[str, str]:
    """Return our name of every tensor in BLIP-2's file that XrayGPT uses.

    Layers 0, 2, 4, ... also read the image. Of the two feed-forward nets of a layer only that of the queries is used.
    """
    names = dict(_OUTSIDE_LAYERS)
    for layer in range(int(config.num_hidden_layers)):
        reads_image = layer % int(config.cross_attention_frequency) == 0
        parts = {part: part for part in _FEED_FORWARD}
        for block in ("attention", "crossattention") if reads_image else ("attention",):
            parts |= {f"{block}.{theirs}": f"{block}.{ours}" for theirs, ours in _ATTENTION.items()}
        names |= {
            f"Qformer.bert.encoder.layer.{layer}.{theirs}.{end}": f"qformer.encoder.layer.{layer}.{ours}.{end}"
            for theirs, ours in parts.items() for end in _LINEAR
        }  # fmt: skip
    return names


def load_xraygpt(options: LoadOptions) -> "XrayGptAdapter":
    """Load the authors' four files or a converted folder.

    DataError if a file is missing or broken, or does not fit; UsageError if the checkpoint or the device is not there;
    RunError if memory runs out.
    """
    folder = options.folder_of(CARD)
    device, dtype = weights.device_and_dtype(options.device, options.dtype)
    with room_for(f"XrayGPT in {folder}"):
        converted = (folder / "config.json").is_file()
        files = {"checkpoint": folder} if converted else find_files(folder)
        refuse_stand_ins(*files.values())
        model = load_converted(folder, dtype) if converted else assemble(files, dtype)
        model = torch.nn.Module.to(model, device).eval()
        codec = load_codec(folder if converted else files["language"])
    template, author = options.arguments["template"], options.arguments["preset"] == "author"
    return XrayGptAdapter(model, codec, identity_of(files), template=template, author=author)


class XrayGptAdapter(TextAdapter[TextCodec]):
    """XrayGPT: EVA's features through BLIP-2's queries and one linear layer, in place of the image in the prompt.

    `template` names one of those in entry.yaml; with `author` it decodes as the authors do.
    """

    card = CARD

    def __init__(
        self, model: Blip2ForConditionalGeneration, codec: TextCodec, fingerprint: str, *, template: str,
        author: bool = False,
    ) -> None:  # fmt: skip
        # The outer model insists on images, so the engine drives the language model inside.
        super().__init__(cast("PreTrainedModel", model.language_model), codec, fingerprint)
        self.model = model
        self._template = template
        self._author = author
        self.decoding = AUTHORS_DECODING if author else {}

    def render(self, sample: Sample, spec: TaskSpec, size_of: SizeOf) -> Prompt:
        """Return the authors' template around the task's instruction.

        SampleError if there is not exactly one image, which is all that the model reads.
        """
        del size_of
        return self.put(without_marks(spec.instruction(sample), IMAGE_MARKS), sample)

    def put(self, question: str, sample: Sample) -> Prompt:
        """Return the template around a question about the sample's image."""
        if len(sample.images) != 1:
            raise SampleError(f"XrayGPT reads one image; {sample.sample_id!r} has {len(sample.images)}.")
        before, behind = (self.tokens.ids(text) for text in prompt_texts(question, self._template))
        slot = ImageSlot(image=sample.images[0], tokens=int(self.model.config.num_query_tokens))
        return Prompt(segments=(TextSegment(ids=self.tokens.begin + before), slot, TextSegment(ids=behind)))

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

    def project(self, features: Sequence[torch.Tensor], kind: Kind) -> Sequence[torch.Tensor]:
        """Return visual tokens [V, D] of features [V, C_q]; the kind of task does not matter."""
        del kind
        return list(self.model.language_projection(torch.stack(list(features))))

    def max_new_tokens(self, spec: TaskSpec) -> int:
        """Return the task's limit, or the authors' in their preset."""
        return AUTHORS_TOKENS if self._author else spec.max_new_tokens

    def stop_strings(self, spec: TaskSpec) -> tuple[str, ...]:
        """Return what ends a turn; the authors look for its token ids, and only in the first row of a batch."""
        del spec
        return (TURN_END,)
