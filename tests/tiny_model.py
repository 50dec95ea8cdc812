"""A Uni-Med of a few thousand parameters with a tokenizer of its own; every variant can be had."""

from typing import Any

import torch

from medbench.unimed import UniMedConfig, UniMedForConditionalGeneration, UniMedProcessor
from medbench.unimed.training.plan import train_tokenizer

TEXTS = ["What organ is shown? Liver", "{<12><30><45><60>}", "No acute finding in this picture. "] * 20


def small(**settings: Any) -> tuple[UniMedForConditionalGeneration, UniMedProcessor]:
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 500)
    config = UniMedConfig(
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 28, "patch_size": 7, "initializer_range": 0.1,
        },
        text_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": len(tokenizer), "initializer_range": 0.3, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        **settings,
    )  # fmt: skip
    processor = UniMedProcessor.of_model(tokenizer, config)
    config.image_token_id = processor.image_token_id
    model = UniMedForConditionalGeneration(config)
    model.train(mode=False)
    return model, processor
