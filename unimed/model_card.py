"""The README.md of a whole model, as the Hub shows it."""

from collections.abc import Iterable

from medbench.unimed.configuration import UniMedConfig

_TEXT = """---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [medical, uni-med]
---

# Uni-Med

A Uni-Med (arXiv 2409.17508): frozen ViT, resampler, connector, LLaMA. {tasks}

| part | here |
| --- | --- |
| resampler | {resampler} |
| connector | {connector} |
| language model | {language} |
| prompts | {prompts} |

```python
import medbench.unimed.auto  # from the package medbench
from transformers import AutoModelForImageTextToText, AutoProcessor

processor = AutoProcessor.from_pretrained(FOLDER, trust_remote_code=False)
model = AutoModelForImageTextToText.from_pretrained(FOLDER, trust_remote_code=False)
inputs = processor.instruct("vqa", ["Which organ is shown?"], [picture])
answer = model.generate(**inputs, max_new_tokens=40)
```

The licences of the language model and of the vision tower hold for these weights too. Not for clinical use.
"""


def model_card(config: UniMedConfig, trained_on: Iterable[str]) -> str:
    """Return the card of a model with this configuration.

    Args:
        config: The model's.
        trained_on: Names of the tasks whose train splits it has seen, if they are known.
    """
    names = ", ".join(sorted(trained_on))
    experts = f"{config.num_experts} {config.expert_type} experts, {config.router_type} router"
    layers, width = config.text.num_hidden_layers, config.text.hidden_size
    return _TEXT.format(
        tasks=f"Trained on the train splits of {names}." if names else "What it was trained on is not recorded.",
        resampler=f"{config.resample_method}, rate {config.resample_rate}",
        connector=experts if config.is_moe else config.connector_type,
        language=f"{layers} layers of {width}, tuning: {config.language_tuning}",
        prompts=config.prompt_style,
    )
