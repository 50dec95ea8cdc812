"""A tiny LLaMA folder with a SentencePiece tokenizer, and a tiny ViT in EVA's layout: base weights for tests."""

import io
from pathlib import Path

import torch
from safetensors.torch import load_file
from sentencepiece import SentencePieceTrainer
from transformers import Blip2VisionConfig, LlamaConfig, LlamaForCausalLM

from medbench.unimed.checkpoint import BaseWeights
from medbench.unimed.lora import read_adapter
from medbench.unimed.vision import VisionTower, to_eva

VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 28,
    "patch_size": 7,
}  # fmt: skip
LORA_RECIPE = (
    f"model.vision={VISION}",
    "steps=6",
    "micro_batch=2",
    "micro_batches=2",
    "precision=fp32",
    "schedule={shape: cosine, peak: 0.01, floor: 0.0001, warmup_steps: 2}",
    "mixture={slake-vqa: 1, slake-rec: 1, medqa: 1, dermamnist+organsmnist: 1}",
    "checkpoints={every: 2, keep: 2}",
    "log_every=1",
    "feature_cache_gb=0.01",
)
WORDS = ["What organ is shown in this image? Liver", "[INST] <Img></Img> [vqa] yes no [/INST]", "{<12><30><45><60>}"]


def make_base(folder: Path) -> BaseWeights:
    """Write the two and return where they are."""
    torch.manual_seed(7)
    language = folder / "llama"
    language.mkdir(parents=True)
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 40), model_writer=model, model_type="bpe", vocab_size=330, byte_fallback=True,
        user_defined_symbols=["$$"], remove_extra_whitespaces=False, hard_vocab_limit=False, minloglevel=2,
        normalization_rule_name="identity",
    )  # fmt: skip
    (language / "tokenizer.model").write_bytes(model.getvalue())
    config = LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=340,
        max_position_embeddings=512, initializer_range=0.3,
    )  # fmt: skip
    torch.nn.Module.half(LlamaForCausalLM(config)).save_pretrained(language)
    deeper = Blip2VisionConfig(**{**VISION, "num_hidden_layers": 3, "initializer_range": 0.2})  # type: ignore[arg-type]
    state = to_eva(VisionTower(deeper).vit.state_dict())
    torch.save({name: tensor.half() for name, tensor in state.items()}, folder / "eva.pth")
    return BaseWeights(language_model=str(language), vision=str(folder / "eva.pth"))


def trained_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return what was trained by the names of the model: LoRA lies beside the rest, in peft's format."""
    adapter = read_adapter(folder) if (folder / "adapter_config.json").is_file() else {}
    return load_file(folder / "trained.safetensors") | adapter


def lora_overrides(base: BaseWeights, *more: str) -> tuple[str, ...]:
    """Return the overrides that make the official recipe a tiny one on `base`, each once; the last of a name counts."""
    overrides = (
        *LORA_RECIPE,
        f"model.language_model={base.language_model}",
        f"model.vision_weights={base.vision}",
        *more,
    )
    return tuple({override.partition("=")[0]: override for override in overrides}.values())
