"""Random vision-language models of current families, saved with their processors as a repository would hold them."""
# ruff: noqa: ANN401 - classes and configurations of transformers

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    PreTrainedTokenizerFast,
)

WIDTH, HEAD = 32, 8
_CONFIGS = cast("Any", CONFIG_MAPPING)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}MARK{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes with special tokens; names give it attributes such as `image_token`."""
    words = ["<unk>", "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", *special]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: number for number, word in enumerate([*words, *letters])}
    backend = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(words)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        extra_special_tokens=named or None,
    )  # fmt: skip


def _text(kind: str, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": kind, "vocab_size": vocabulary, "hidden_size": WIDTH, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
        "max_position_embeddings": 4096, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 3, **more,
    }  # fmt: skip


def _wide(head_dim: int) -> dict[str, Any]:
    """Return what of a decoder is wider where its heads are."""
    return {"hidden_size": 4 * head_dim, "head_dim": head_dim, "tie_word_embeddings": False}


def _sections(head_dim: int) -> list[int]:
    """Return how many pairs of a head turn by frames, rows and columns."""
    quarter = head_dim // 8
    return [quarter, quarter, 2 * quarter]


def _save(folder: Path, config: Any, processor: Any, mark: str) -> Path:
    torch.manual_seed(11)
    model = cast("Any", AutoModelForImageTextToText).from_config(config)
    model.generation_config.eos_token_id = 2
    for name, parameter in model.named_parameters():
        # Otherwise pictures hardly matter to random layers.
        if parameter.dim() > 1 and any(part in name for part in ("vision", "visual", "project", "connector")):
            torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith("_gate"):
            # A fresh one lets nothing of the pictures through.
            torch.nn.init.ones_(parameter)
    model.save_pretrained(folder)
    processor.chat_template = TEMPLATE.replace("MARK", mark) if mark else None
    processor.save_pretrained(folder)
    return folder


def _clip(side: int) -> dict[str, Any]:
    return {
        "model_type": "clip_vision_model", "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": side, "patch_size": 14, "projection_dim": WIDTH,
    }  # fmt: skip


def _siglip(side: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "siglip_vision_model", "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": side, "patch_size": 14, **more,
    }  # fmt: skip


def llava(folder: Path, **text: Any) -> Path:
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    words = tokenizer("<image>")
    config = _CONFIGS["llava"](
        vision_config=_clip(56), text_config=_text("llama", len(words), **text), image_token_index=8,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    size = {"height": 56, "width": 56}
    processor = LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size=size), words, patch_size=14,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
    )  # fmt: skip
    return _save(folder, config, processor, "<image>\n")


def llava_next(folder: Path) -> Path:
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    words = tokenizer("<image>")
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    config = _CONFIGS["llava_next"](
        vision_config=_clip(56), text_config=_text("mistral", len(words), sliding_window=None), image_token_index=8,
        image_grid_pinpoints=pinpoints,
    )  # fmt: skip
    size = {"height": 56, "width": 56}
    images = LlavaNextImageProcessorPil(size={"shortest_edge": 56}, crop_size=size, image_grid_pinpoints=pinpoints)
    processor = LlavaNextProcessor(
        images, words, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1
    )
    return _save(folder, config, processor, "<image>\n")


def gemma3(folder: Path) -> Path:
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    names = {"boi_token": "<start_of_image>", "image_token": "<image_soft_token>", "eoi_token": "<end_of_image>"}
    words = tokenizer(*names.values(), **names)
    config = _CONFIGS["gemma3"](
        vision_config=_siglip(56, vision_use_head=False),
        text_config=_text(
            "gemma3_text", len(words), sliding_window=12, layer_types=["sliding_attention"] * 2 + ["full_attention"]
        ),
        boi_token_index=8, image_token_index=9, eoi_token_index=10, mm_tokens_per_image=4,
    )  # fmt: skip
    images = Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    return _save(folder, config, Gemma3Processor(images, words, image_seq_length=4), "<start_of_image>")


def paligemma(folder: Path) -> Path:
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    words = tokenizer("<image>")
    config = _CONFIGS["paligemma"](
        vision_config=_siglip(56, vision_use_head=False, projection_dim=WIDTH),
        text_config=_text("gemma", len(words) + 1152), image_token_index=8, projection_dim=WIDTH, hidden_size=WIDTH,
    )  # fmt: skip
    images = SiglipImageProcessorPil(size={"height": 56, "width": 56})
    cast("Any", images).image_seq_length = 16
    return _save(folder, config, PaliGemmaProcessor(images, words), "")


def _qwen_words() -> PreTrainedTokenizerFast:
    return tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


_QWEN_IDS = {"vision_start_token_id": 8, "vision_end_token_id": 9, "image_token_id": 10, "video_token_id": 11}
_QWEN_MARK = "<|vision_start|><|image_pad|><|vision_end|>"


def qwen2_5_vl(folder: Path, head_dim: int = HEAD) -> Path:
    width, wide = 4 * head_dim, _wide(head_dim)
    from transformers import Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil

    words = _qwen_words()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(head_dim)}
    vision = {
        "depth": 2, "hidden_size": width, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": width,
        "fullatt_block_indexes": [1], "window_size": 56, "patch_size": 14,
    }  # fmt: skip
    config = _CONFIGS["qwen2_5_vl"](
        vision_config=vision,
        text_config=_text("qwen2_5_vl_text", len(words), rope_parameters=rope, **wide),
        **_QWEN_IDS,
    )
    return _save(folder, config, _images_only(Qwen2_5_VLProcessor, Qwen2VLImageProcessorPil(), words), _QWEN_MARK)


def qwen2_vl(folder: Path, head_dim: int = HEAD) -> Path:
    width, wide = 4 * head_dim, _wide(head_dim)
    from transformers import Qwen2VLImageProcessorPil, Qwen2VLProcessor

    words = _qwen_words()
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": _sections(head_dim)}
    vision = {
        "depth": 2,
        "embed_dim": width,
        "hidden_size": width,
        "num_heads": 4,
        "mlp_ratio": 2,
        "patch_size": 14,
    }
    config = _CONFIGS["qwen2_vl"](
        vision_config=vision, text_config=_text("qwen2_vl_text", len(words), rope_parameters=rope, **wide), **_QWEN_IDS
    )
    return _save(folder, config, _images_only(Qwen2VLProcessor, Qwen2VLImageProcessorPil(), words), _QWEN_MARK)


def qwen3_vl(folder: Path, head_dim: int = HEAD) -> Path:
    width, wide = 4 * head_dim, _wide(head_dim)
    from transformers import Qwen2VLImageProcessorPil, Qwen3VLProcessor

    words = _qwen_words()
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": _sections(head_dim),
        "mrope_interleaved": True,
    }
    vision = {
        "depth": 3, "hidden_size": width, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": width,
        "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    config = _CONFIGS["qwen3_vl"](
        vision_config=vision, text_config=_text("qwen3_vl_text", len(words), rope_parameters=rope, **wide), **_QWEN_IDS
    )
    images = Qwen2VLImageProcessorPil(patch_size=16)
    return _save(folder, config, _images_only(Qwen3VLProcessor, images, words), _QWEN_MARK)


def mllama(folder: Path) -> Path:
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    words = tokenizer("<|image|>")
    vision = {
        "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 4, "image_size": 56, "patch_size": 14, "vision_output_dim": 2 * WIDTH,
        "intermediate_layers_indices": [0], "max_num_tiles": 2, "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1]],
    }  # fmt: skip
    config = _CONFIGS["mllama"](
        vision_config=vision, text_config=_text("mllama_text_model", len(words), cross_attention_layers=[1]),
        image_token_index=8,
    )  # fmt: skip
    images = MllamaImageProcessorPil(size={"height": 56, "width": 56}, max_image_tiles=2)
    return _save(folder, config, MllamaProcessor(images, words), "<|image|>")


def glm4v(folder: Path, head_dim: int = HEAD) -> Path:
    width, wide = 4 * head_dim, _wide(head_dim)
    from transformers import Glm4vImageProcessorPil, Glm4vProcessor

    marks = ("<|begin_of_image|>", "<|end_of_image|>", "<|image|>", "<|video|>", "<|begin_of_video|>")
    words = tokenizer(*marks, "<|end_of_video|>")
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "mrope_section": _sections(head_dim),
    }
    vision = {
        "depth": 2, "hidden_size": width, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": width,
        "patch_size": 14, "image_size": 56,
    }  # fmt: skip
    config = _CONFIGS["glm4v"](
        vision_config=vision, text_config=_text("glm4v_text", len(words), rope_parameters=rope, **wide),
        image_start_token_id=8, image_end_token_id=9, image_token_id=10, video_token_id=11, video_start_token_id=12,
        video_end_token_id=13,
    )  # fmt: skip
    mark = "<|begin_of_image|><|image|><|end_of_image|>"
    return _save(folder, config, _images_only(Glm4vProcessor, Glm4vImageProcessorPil(), words), mark)


def idefics2(folder: Path) -> Path:
    from transformers import Idefics2ImageProcessorPil, Idefics2Processor

    words = tokenizer("<image>", "<fake_token_around_image>", "<end_of_utterance>")
    vision = {
        "model_type": "idefics2_vision", "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 112, "patch_size": 14,
    }  # fmt: skip
    perceiver = {
        "model_type": "idefics2_perceiver", "hidden_size": WIDTH, "resampler_n_latents": 4, "resampler_depth": 1,
        "resampler_n_heads": 4, "resampler_head_dim": 8, "num_key_value_heads": 2,
    }  # fmt: skip
    config = _CONFIGS["idefics2"](
        vision_config=vision, text_config=_text("mistral", len(words), sliding_window=None),
        perceiver_config=perceiver, image_token_id=8,
    )  # fmt: skip
    images = Idefics2ImageProcessorPil(size={"shortest_edge": 28, "longest_edge": 112}, do_image_splitting=True)
    return _save(folder, config, Idefics2Processor(images, words, image_seq_len=4), "<image>")


def idefics3(folder: Path) -> Path:
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    words = tokenizer("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
    config = _CONFIGS["idefics3"](
        vision_config={**_siglip(56), "model_type": "idefics3_vision"}, text_config=_text("llama", len(words)),
        image_token_id=8, scale_factor=2,
    )  # fmt: skip
    images = Idefics3ImageProcessorPil(size={"longest_edge": 112}, max_image_size={"longest_edge": 56})
    return _save(folder, config, Idefics3Processor(images, words, image_seq_len=4), "<image>")


def internvl(folder: Path) -> Path:
    from transformers import GotOcr2ImageProcessorPil, InternVLProcessor

    names = {
        "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }  # fmt: skip
    words = tokenizer(*names.values(), **names)
    vision = {
        "model_type": "internvl_vision", "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": [56, 56], "patch_size": [14, 14],
    }  # fmt: skip
    config = _CONFIGS["internvl"](
        vision_config=vision, text_config=_text("qwen2", len(words)), image_token_id=10, vision_feature_layer=-1
    )
    images = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, crop_to_patches=True, max_patches=4)
    return _save(folder, config, _images_only(InternVLProcessor, images, words, image_seq_length=4), "<IMG_CONTEXT>\n")


def _images_only(kind: Any, images: Any, words: Any, **more: Any) -> Any:
    """Return a processor without the video part, which cannot be made without torchvision."""
    from medbench.adapters.hf.processing import without_videos

    return without_videos(kind)(images, words, **more)


FAMILIES: dict[str, Callable[[Path], Path]] = {
    one.__name__: one
    for one in (
        llava,
        llava_next,
        gemma3,
        paligemma,
        glm4v,
        qwen2_vl,
        qwen2_5_vl,
        idefics2,
        idefics3,
        internvl,
    )
}
WHOLE: dict[str, Callable[[Path], Path]] = {one.__name__: one for one in (qwen3_vl, mllama)}
"""Families whose decoders need more than embeddings."""
