"""The configuration of Uni-Med; defaults are the official model's (`train.yaml` of the authors' repository)."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, Literal, cast

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, Blip2VisionConfig, LlamaConfig, PreTrainedConfig

from medbench.unimed.vision import shape_of

# Tasks with a task token, in the official order; text-only questions never enter the connector.
CONNECTOR_TASKS = ("vqa", "refer", "identify", "caption", "cls")
RESAMPLE_RATES = (1, 2, 4)
POOLED_PATCHES = 4
Scale = tuple[Sequence[float], Sequence[float]]  # Mean and deviation of the pixels by channel, on the scale of 0 to 1.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@strict
class UniMedConfig(PreTrainedConfig):
    """Configuration of `UniMedForConditionalGeneration`."""

    model_type = "uni_med"
    sub_configs = {"vision_config": AutoConfig, "text_config": LlamaConfig}  # noqa: RUF012 - transformers' protocol

    # 39 blocks of EVA ViT-G/14 at 224 px by default; of another `model_type` any vision model of transformers, frozen.
    vision_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None  # A LLaMA; LLaMA-2-7B by default.
    # How the patch grid becomes visual tokens (paper section 3.2): `projection` concatenates `resample_rate`
    # consecutive tokens of a row, `avgpool` and `maxpool` pool 2 x 2 patches.
    resample_method: Literal["projection", "avgpool", "maxpool"] = "projection"
    resample_rate: int = 4  # Alpha of the paper, 1, 2 or 4; 4 for the pooling methods.
    # `moe` (CMoE), or one projector for all tasks: `linear`, `mlp2x_gelu`, `mlp3x_gelu`.
    connector_type: Literal["moe", "linear", "mlp2x_gelu", "mlp3x_gelu"] = "moe"
    num_experts: int = 5  # N, experts of a `moe` connector.
    expert_type: Literal["mlp", "linear"] = "mlp"  # `mlp` (linear, GELU, linear) or `linear`.
    # How experts are weighted (paper section 3.3): `constant` equally (Eq. 11), `hard` one expert per task (Eq. 12),
    # `sparse` a softmax over the best `sparse_top_k` (Eq. 13, as the official code has it), `soft` normalised sigmoids
    # (Eq. 14, and what the official code does).
    router_type: Literal["constant", "hard", "sparse", "soft"] = "soft"
    # What a sparse or soft router sees: `token`, `task`, or both (`token_and_task`).
    router_input: Literal["token", "task", "token_and_task"] = "token_and_task"
    router_hidden_size: int | None = None  # Width of its hidden layer; None means four times its input, as official.
    sparse_top_k: int = 2  # Experts per token of a sparse router.
    # Whether there is one learned vision token per task (Table 5); None means where the router reads them, False needs
    # a router that does not.
    task_tokens: bool | None = None
    task_token_size: int | None = None  # Channels of a task token; None means those of a visual token.
    text_identifiers: bool = True  # Whether prompts carry `[vqa]`, `[refer]`, ... (Table 5).
    # What is trained in the language model: `lora`, `lora_moe` (Eq. 15), `full` or `none`.
    language_tuning: Literal["lora", "lora_moe", "full", "none"] = "lora"
    lora_rank: int = 8  # Rank of each low-rank pair; the paper uses 4 to 64, and 4 with `lora_moe`.
    lora_alpha: int | float = 16  # The pair's output is scaled by `lora_alpha / lora_rank`.
    lora_dropout: int | float = 0.05  # Dropout on the input of the pairs while training.
    lora_experts: int = 5  # N, pairs per linear layer of `lora_moe`.
    lora_top_k: int = 2  # Pairs that a `lora_moe` router chooses per token.
    pixel_mean: list[int | float] | None = None  # Mean of the pixels by channel, from 0 to 1; None means CLIP's.
    pixel_std: list[int | float] | None = None  # And their deviation.
    image_token_id: int | None = None  # Id of the placeholder that stands for one visual token in `input_ids`.
    # `official`: token ids as the official code feeds them, with two BOS when generating and texts cut at 50 words;
    # `clean`: one BOS, one space before the closing tag, nothing cut.
    prompt_style: Literal["official", "clean"] = "clean"
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn nested dictionaries into configurations and refuse combinations that cannot work."""
        if self.vision_config is None or isinstance(self.vision_config, dict):
            eva = {"model_type": Blip2VisionConfig.model_type}
            self.vision_config = AutoConfig.for_model(**{**eva, **(self.vision_config or {})})
        if self.text_config is None or isinstance(self.text_config, dict):
            self.text_config = LlamaConfig(**(self.text_config or {"intermediate_size": 11008}))
        self.tie_word_embeddings = self.text.tie_word_embeddings
        super().__post_init__(**kwargs)
        # One after the other: what the later ones divide by, the first ones look at.
        for problem in chain(_image_problems(self), _connector_problems(self), _lora_problems(self)):
            raise ValueError(problem)

    @property
    def vision(self) -> PreTrainedConfig:
        """The vision configuration, validated: a `Blip2VisionConfig` for EVA ViT."""
        return cast("PreTrainedConfig", self.vision_config)

    @property
    def text(self) -> LlamaConfig:
        """The language model's configuration, as what it is after validation."""
        return cast("LlamaConfig", self.text_config)

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return cast("int", cast("Any", self.vision).image_size)

    @property
    def pixel_scale(self) -> Scale:
        """Mean and deviation that pixels are normalised with."""
        return self.pixel_mean or CLIP_MEAN, self.pixel_std or CLIP_STD

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return shape_of(self.vision).grid

    @property
    def visual_tokens(self) -> int:
        """Visual tokens that one image becomes in the language model's input."""
        return self.grid**2 // self.resample_rate

    @property
    def connector_width(self) -> int:
        """Channels of one resampled token, the connector's input (C_v)."""
        return shape_of(self.vision).width * (self.resample_rate if self.resample_method == "projection" else 1)

    @property
    def is_moe(self) -> bool:
        """Whether the connector has experts."""
        return self.connector_type == "moe"

    @property
    def has_router(self) -> bool:
        """Whether the experts' weights are learned; the constant and the hard router have nothing to learn."""
        return self.is_moe and self.router_type in {"sparse", "soft"}

    @property
    def router_sees_task(self) -> bool:
        """Whether a learned router reads the task tokens, which is all that they are for."""
        return self.has_router and self.router_input != "token"

    @property
    def router_sees_token(self) -> bool:
        """Whether a learned router reads the visual tokens."""
        return self.has_router and self.router_input != "task"

    @property
    def task_token_width(self) -> int:
        """Channels of a task token."""
        return self.task_token_size or self.connector_width

    @property
    def has_lora(self) -> bool:
        """Whether the linear layers of the language model carry low-rank pairs."""
        return self.language_tuning in {"lora", "lora_moe"}


def _image_problems(config: UniMedConfig) -> Iterator[str]:
    rate, method = config.resample_rate, config.resample_method
    if isinstance(config.vision, Blip2VisionConfig):
        yield from _eva_problems(config.vision)
    if rate not in RESAMPLE_RATES:
        yield f"resample_rate is {rate}; allowed are {', '.join(map(str, RESAMPLE_RATES))}."
    elif method != "projection" and rate != POOLED_PATCHES:
        yield f"resample_rate is {rate}, but {method} pools 2 x 2 patches: use {POOLED_PATCHES}."
    elif method == "projection" and config.grid**2 % rate:
        yield f"resample_rate {rate} does not divide the {config.grid**2} patches."
    elif method != "projection" and config.grid % 2:
        yield f"{method} pools 2 x 2 patches, but the image has {config.grid} x {config.grid}: use an even grid."


def _eva_problems(vision: Blip2VisionConfig) -> Iterator[str]:
    patch, size = cast("int", vision.patch_size), cast("int", vision.image_size)
    if patch < 1 or size < patch or size % patch:
        yield f"The image of {size} pixels cannot be cut into patches of {patch}: give a multiple of the patch size."
    if vision.num_attention_heads < 1 or vision.hidden_size % vision.num_attention_heads:
        yield f"{vision.num_attention_heads} heads do not divide the vision tower's width of {vision.hidden_size}."


def _connector_problems(config: UniMedConfig) -> Iterator[str]:
    tasks = len(CONNECTOR_TASKS)
    if config.num_experts < 1:
        yield f"num_experts is {config.num_experts}; a connector needs at least one expert."
    if config.is_moe and config.router_type == "hard" and config.num_experts < tasks:
        own = f"The hard router gives each of the {tasks} tasks an expert of its own"
        yield f"{own}, but num_experts is {config.num_experts}: use {tasks} or more."
    if config.is_moe and config.router_type == "sparse" and not 1 <= config.sparse_top_k <= config.num_experts:
        yield f"sparse_top_k is {config.sparse_top_k}; allowed are 1 to num_experts ({config.num_experts})."
    if config.task_tokens is False and config.router_sees_task:
        yield f"task_tokens is false, but router_input {config.router_input!r} reads them: use router_input 'token'."
    if config.task_tokens and not config.router_sees_task:
        yield "task_tokens is true, but nothing reads them: use a soft or sparse router whose router_input has 'task'."
    if config.router_hidden_size is not None and config.router_hidden_size < 1:
        yield f"router_hidden_size is {config.router_hidden_size}; it must be positive, or null for the official width."
    if config.task_token_size is not None and config.task_token_size < 1:
        yield f"task_token_size is {config.task_token_size}; it must be positive."


def _lora_problems(config: UniMedConfig) -> Iterator[str]:
    if not config.has_lora:
        return
    if config.lora_rank < 1:
        yield f"lora_rank is {config.lora_rank}; the paper uses 4 to 64. Without LoRA use language_tuning 'none'."
    if not 0 <= config.lora_dropout < 1:
        yield f"lora_dropout is {config.lora_dropout}; it must be at least 0 and below 1."
    if config.language_tuning == "lora_moe" and not 1 <= config.lora_top_k <= config.lora_experts:
        yield f"lora_top_k is {config.lora_top_k}; allowed are 1 to lora_experts ({config.lora_experts})."
