"""The settings of a run: what the user asked for, validated where it enters."""

from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import BeforeValidator, Field, PlainSerializer, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from medbench.adapters.base import Device, DeviceMap, Dtype, Quantization
from medbench.harness.engine.choice import EngineName
from medbench.harness.tolerance import read_tolerance
from medbench.harness.workers.wanted import wanted
from medbench.tasks.foundation.errors import UsageError, refuse_secret
from medbench.tasks.foundation.files import read_yaml_table
from medbench.tasks.foundation.home import medbench_home
from medbench.tasks.probes import refuse_unknown

MAX_SEED = 2**63 - 1
EVERY_TASK = "all"
AUTO = "auto"
"""Says of `cache` that answers are kept in the usual folder."""
CHOOSING = ("temperature", "top_k", "top_p", "repetition_penalty", "beams")
_SAMPLING = ("temperature", "top_k", "top_p")
SAYS_NOTHING: Mapping[str, tuple[str | None, ...]] = {
    "checkpoint": (None,), "device": ("auto", "cpu"), "dtype": ("auto", "float32"), "device_map": (None,),
    "quantize": (None,), "lora": (None,),
}  # fmt: skip
"""Options that not every model takes, with the values that say nothing to one that does not."""
# A number alone may be one.
Workers = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) is int else given)]
Tolerated = Annotated[str, BeforeValidator(lambda given: str(given) if type(given) in {int, float} else given)]
Folder = Annotated[Path, PlainSerializer(lambda path: str(path.absolute()))]
# Where answers are kept for other runs; a word that is no folder's means that of everything that can be made again.
Cache = Annotated[Folder, BeforeValidator(lambda given: answers_home() if str(given) == AUTO else given)]
# Words that name tasks; a text alone is one of them, and may hold several with commas between.
Selection = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]


def _by_name(given: object) -> object:
    names = [given] if isinstance(given, str) else given
    return {name: {} for name in names} if isinstance(names, list | tuple) else given


# Metrics that are asked for, with the arguments of each; without arguments their names alone.
Metrics = Annotated[Mapping[str, Mapping[str, str]], BeforeValidator(_by_name)]


def answers_home() -> Path:
    """Return the usual folder of the cache of answers."""
    return medbench_home() / "answers"


@dataclass(frozen=True, slots=True, kw_only=True, config=pydantic.ConfigDict(extra="forbid"))
class Settings:
    """What a run is to do; UsageError if a setting is unknown, is not allowed, or contradicts another."""

    model: str  # `name` or `name:variant`.
    tasks: Selection = (EVERY_TASK,)  # Names, kinds, globs or `all`.
    checkpoint: Folder | None = None  # Folder of weights; None means the model's default.
    checkpoint_for: Mapping[str, Folder] = field(default_factory=dict)  # Those for tasks by name, kind or glob.
    data_dir: Folder | None = None  # Folder of prepared tasks; None means the bundled mini suite.
    output_dir: Folder = Path("runs")  # Folder under which the run's own folder is made.
    limit: PositiveInt | None = None  # Only the first so many test samples of each task.
    batch_size: PositiveInt | None = None  # Most rows at a time; None lets the engine choose by the memory.
    device: Device = "auto"  # Where the model runs.
    dtype: Dtype = "auto"  # Type of the model's weights.
    device_map: DeviceMap | None = None  # Lays its layers on all devices.
    quantize: Quantization | None = None  # How its weights are rounded while they are loaded.
    lora: Folder | None = None  # Folder of a LoRA in peft's format that goes onto it.
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 0  # Of everything random; greedy answers do not depend on it.
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0  # Of sampling; 0 takes the likeliest token.
    max_new_tokens: Mapping[str, PositiveInt] = field(default_factory=dict)  # By name, kind or glob of tasks.
    # How tokens are chosen is told by `Sampling` of the engine.
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    beams: PositiveInt = 1  # Width of the beam search.
    model_args: Mapping[str, str] = field(default_factory=dict)  # Choices of the model, by name.
    engine: EngineName = "auto"  # What writes the answers of a local model.
    compile: bool = False  # Whether the decoder's layers go through `torch.compile`.
    workers: Workers | None = None  # Who answers, see `medbench.harness.workers.wanted`; None for this process alone.
    cache: Cache | None = None  # Folder of answers that other runs gave, `auto` for the usual one; None for no cache.
    fail_on_error: Tolerated | None = None  # How many samples may fail, see `medbench.harness.failing`; None: not said.
    retry_errors: Annotated[int, Field(ge=0)] = 0  # Rounds at the end in which failed samples are tried again.
    lock: bool = True  # Whether the run's folder is held against other processes.
    metrics: Metrics = field(default_factory=dict)  # Asked for beside those of the tasks; they change no answer.
    probe: str = ""  # Another way of asking, see `medbench.tasks.probes`; empty for the tasks as they are.

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _explained(cls, given: object, handler: pydantic.ModelWrapValidatorHandler["Settings"]) -> "Settings":
        try:
            settings = handler(given)
        except pydantic.ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
            raise UsageError(f"The settings are not valid: {problems}.", "See `medbench run --help`.") from error
        settings.refuse_contradictions()
        for name, value in settings.as_yaml().items():
            refuse_secret(value, f"--{name.replace('_', '-')}")
        return settings

    def refuse_contradictions(self) -> None:
        """Refuse options that would stand in a run's settings and change nothing."""
        sampling = [name for name in _SAMPLING if name in self.decoding()]
        words = ", ".join(f"--{name.replace('_', '-')}" for name in sampling)
        if self.max_new_tokens and "max_tokens" in self.model_args:
            both = "--max-new-tokens and --model-arg max_tokens both say how long an answer may be."
            raise UsageError(both, "Leave out the latter.")
        if sampling and self.beams > 1:
            raise UsageError(f"A beam search does not sample, but {words} was given.", "Leave out one of them.")
        if sampling and self.temperature == 0:
            raise UsageError(f"At temperature 0 nothing is sampled, but {words} was given.", "Give --temperature too.")
        if self.device_map and self.device != "auto":
            both = f"--device {self.device} and --device-map {self.device_map} both say where the model runs."
            raise UsageError(both, "Leave out one of them.")
        if self.lora and self.checkpoint_for:
            raise UsageError("--lora goes onto one model, and --checkpoint-for names several.", "Run them one by one.")
        if self.workers is not None:
            wanted(self.workers)
        if self.fail_on_error is not None:
            read_tolerance(self.fail_on_error)
        if self.probe:
            refuse_unknown(self.probe)

    def decoding(self) -> dict[str, float]:
        """Return how tokens are chosen, without what was left at its default: plain greedy decoding is empty."""
        defaults = {one.name: one.default for one in fields(self)}
        return {name: getattr(self, name) for name in CHOOSING if getattr(self, name) != defaults[name]}

    def as_yaml(self) -> dict[str, Any]:
        """Return the settings as plain values; paths are absolute, so that the file works from anywhere."""
        plain: dict[str, Any] = TypeAdapter(Settings).dump_python(self, mode="json")
        return plain


def load_settings(path: Path | None, overrides: Mapping[str, Any]) -> Settings:
    """Return the settings of a `run.yaml`, if one is given, with the command line's words on top; or UsageError."""
    values: dict[str, Any] = {}
    if path:
        found = read_yaml_table(path).get("settings")
        if not isinstance(found, dict):
            problem = f"{path} has no `models`, and is no run.yaml: it has no table `settings`."
            raise UsageError(
                problem, "Write a list `models:` (docs/sweeps.md), or give the run.yaml of a run's folder."
            )
        values |= found
    values |= {key: value for key, value in overrides.items() if value is not None}
    if "model" not in values:
        raise UsageError("No model was given.", "Write --model NAME; `medbench models` lists them.")
    return Settings(**values)


def read_limits(given: Sequence[str]) -> dict[str, int]:
    """Return the limits in `512` or `report=512,vqa=2048` by name, kind or pattern; UsageError if one is none."""
    limits: dict[str, int] = {}
    way_out = "Write --max-new-tokens 512, or for some tasks --max-new-tokens report=512,vqa=2048."
    for word in ",".join(given).split(","):
        task, equals, number = word.strip().rpartition("=")
        task = task.strip() if equals else EVERY_TASK
        if not task or not number.strip().isdecimal() or not int(number):
            raise UsageError(f"--max-new-tokens {word.strip() or '(nothing)'} is no number of tokens.", way_out)
        if task in limits:
            raise UsageError(f"--max-new-tokens names {task} twice.", "Give one number for it.")
        limits[task] = int(number)
    return limits
