"""The configuration of Uni-Med; defaults are the official model's (`train.yaml` of the authors' repository)."""

from typing import Any, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import Blip2VisionConfig, LlamaConfig, PreTrainedConfig

CONNECTOR_TASKS = ("vqa", "refer", "identify", "caption", "cls")
"""Tasks with a task token, in the official order; text-only questions never enter the connector."""


@strict
class UniMedConfig(PreTrainedConfig):
    """Configuration of `UniMedForConditionalGeneration`.

    Attributes:
        vision_config: The ViT; 39 blocks of EVA ViT-G/14 at 224 px by default.
        text_config: The LLaMA-architecture language model; LLaMA-2-7B by default.
        resample_method: How the patch grid becomes visual tokens (paper section 3.2): `projection` concatenates
            `resample_rate` consecutive tokens of a row, `avgpool` and `maxpool` pool 2 x 2 patches.
        resample_rate: alpha of the paper; 4 for the pooling methods.
        num_experts: N, experts of the connector (CMoE).
        expert_type: `mlp` (linear, GELU, linear) or `linear`.
        router_type: `soft`: weights are normalised sigmoids (Eq. 14, and what the official code does).
        router_input: What the router sees: `token`, `task`, or both (`token_and_task`).
        router_hidden_size: Width of the router's hidden layer; None means four times its input, as official.
        image_token_id: Id of the placeholder that stands for one visual token in `input_ids`.
        prompt_style: `clean`: one BOS, one space before the closing tag, nothing cut at 50 words.
    """

    model_type = "uni_med"
    sub_configs = {"vision_config": Blip2VisionConfig, "text_config": LlamaConfig}  # noqa: RUF012 - transformers' protocol

    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    resample_method: Literal["projection", "avgpool", "maxpool"] = "projection"
    resample_rate: int = 4
    num_experts: int = 5
    expert_type: Literal["mlp", "linear"] = "mlp"
    router_type: Literal["soft"] = "soft"
    router_input: Literal["token", "task", "token_and_task"] = "token_and_task"
    router_hidden_size: int | None = None
    image_token_id: int | None = None
    prompt_style: Literal["clean"] = "clean"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn nested dictionaries into configurations and refuse combinations that cannot work."""
        if self.vision_config is None or isinstance(self.vision_config, dict):
            self.vision_config = Blip2VisionConfig(**(self.vision_config or {}))
        if self.text_config is None or isinstance(self.text_config, dict):
            self.text_config = LlamaConfig(**(self.text_config or {"intermediate_size": 11008}))
        self.tie_word_embeddings = self.text.tie_word_embeddings
        super().__post_init__(**kwargs)
        self._refuse_impossible_shapes()

    def _refuse_impossible_shapes(self) -> None:
        if self.num_experts < 1:
            raise ValueError(f"num_experts is {self.num_experts}; a connector needs at least one expert.")
        if self.resample_method != "projection" and self.resample_rate != 4:  # noqa: PLR2004 - 2 x 2 pooling
            raise ValueError(
                f"resample_rate is {self.resample_rate}, but {self.resample_method} pools 2 x 2 patches: use 4."
            )
        if self.resample_method == "projection" and self.patches % self.resample_rate:
            raise ValueError(f"resample_rate {self.resample_rate} does not divide the {self.patches} patches.")

    @property
    def vision(self) -> Blip2VisionConfig:
        """The vision configuration, as what it is after validation."""
        return cast("Blip2VisionConfig", self.vision_config)

    @property
    def text(self) -> LlamaConfig:
        """The language model's configuration, as what it is after validation."""
        return cast("LlamaConfig", self.text_config)

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return cast("int", self.vision.image_size)

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // cast("int", self.vision.patch_size)

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return self.grid**2

    @property
    def visual_tokens(self) -> int:
        """Visual tokens that one image becomes in the language model's input."""
        return self.patches // self.resample_rate

    @property
    def connector_width(self) -> int:
        """Channels of one resampled token, the connector's input (C_v)."""
        width = self.vision.hidden_size
        return width * self.resample_rate if self.resample_method == "projection" else width
