"""How the weights of a model of transformers are laid out: on which devices, how rounded, with which LoRA on them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import AutoModelForImageTextToText, PreTrainedConfig
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from medbench.adapters.base import LoadOptions, Quantization
from medbench.adapters.low_rank import LowRank, Model, put_on, read_low_rank, without_kernels
from medbench.tasks.foundation.errors import DataError, MedbenchError, RunError, UsageError
from medbench.tasks.foundation.model_files import room_for
from medbench.unimed.weights import LIBRARY_FAULTS, strict_from_pretrained

# The library, and the type in which it holds the decoder's weights. bitsandbytes' own 8 bits are no choice: there a
# large number in one row changes how all rows of a pass are computed, so an answer depends on its neighbours.
METHODS: Mapping[Quantization, tuple[str, str]] = {"4bit": ("bitsandbytes", "nf4"), "8bit": ("torchao", "int8")}
_IN_BITS = {"load_in_4bit", "load_in_8bit"}
EXTRA = "'medbench[quantized]'"
_NO_ROOM = ("No space left", "Disk quota", "Read-only file system", "No usable temporary")
_NO_GPU = ("cpu", "disk")
# What transformers says of quantised layers that it would have to lay there.
_OFF_THE_GPU = ("dispatched on the CPU or the disk", "automatic conversion of the weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A loaded model, and how it lies."""

    model: Model
    device: torch.device  # Where its inputs go.
    split: str = ""  # Why nobody but its own library can drive it: its layers lie in several places.
    quantised: str = ""  # The type in which its weights are held, or the method of the checkpoint; empty if neither.
    lora: LowRank | None = None
    made_of: Mapping[str, str] = field(default_factory=dict)  # Versions of the libraries that compute it.
    offloaded: "TemporaryDirectory[str] | None" = None  # Where layers lie that found no room in memory.
    notices: tuple[str, ...] = ()


def load_model(
    folder: Path, config: PreTrainedConfig, options: LoadOptions, device: torch.device, dtype: torch.dtype
) -> Placed:
    """Load a model, every weight or none, laid out as `options` say: `device` and `dtype` are theirs, settled.

    UsageError if options contradict one another or the checkpoint, or a library is missing; DataError if a file is
    broken or a LoRA does not fit; RunError if there is no room in memory or on the disk.
    """
    method, where = _method_of(config), _where(options)
    lora = None if options.lora is None else read_low_rank(options.lora)
    rounded = _rounded(options.quantize, method, config, dtype)
    with room_for(f"The model in {folder}"), _offloading(where) as offloaded:
        if method or rounded or (where and lora is None):
            # Quantised weights cannot be moved once they are loaded.
            model = _read(folder, config, method, dtype, **(where or {"device_map": {"": device}}), **rounded)
            if (method or rounded) and _why_split(model) and not set(_NO_GPU).isdisjoint(_places(model)):
                raise _too_large(folder)
            model = model if lora is None else put_on(model, lora, merge=False)
        else:
            # A LoRA is merged before layers are spread: peft does not see those that lie on the disk.
            model = _read(folder, config, method, dtype)
            model = model if lora is None else put_on(model, lora, merge=True)
            model = _spread(model, where) if where else model.to(device)
    notices = _told_of(model)
    library, kind = METHODS[options.quantize] if options.quantize else (method, method)
    return Placed(
        model=model.eval(), device=_inputs_go_to(model), split=_why_split(model), quantised=kind, lora=lora,
        offloaded=offloaded, notices=notices,
        made_of={name: version(name) for name in (library, "peft" if lora else "") if name and find_spec(name)},
    )  # fmt: skip


def parts_of(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    """Return a configuration and those in it."""
    return [config, *filter(None, (getattr(config, name, None) for name in config.sub_configs))]


def _method_of(config: PreTrainedConfig) -> str:
    """Return how a checkpoint was quantised; empty if it was not, UsageError if transformers would not see it."""
    for part in parts_of(config):
        told = getattr(part, "quantization_config", None)
        values = told if isinstance(told, Mapping) else getattr(told, "__dict__", {})
        if not values:
            continue
        told = values.get("quant_method") or ("bitsandbytes" if _IN_BITS & values.keys() else "an unnamed method")
        method = str(getattr(told, "value", told))
        if not any(known.startswith(method) for known in AUTO_QUANTIZATION_CONFIG_MAPPING):
            problem = (
                f"The checkpoint is quantised ({method}), in a way that this version of transformers does not know."
            )
            raise UsageError(problem, "Give the weights before they were quantised, or a newer transformers.")
        return method
    return ""


def _where(options: LoadOptions) -> dict[str, Any]:
    """Return what accelerate is told of the devices that a model may lie on; empty if it lies on one."""
    text = options.arguments.get("max_memory", "")
    if not options.device_map:
        if text:
            raise UsageError(f"--model-arg max_memory={text} says nothing.", "Give --device-map auto too.")
        return {}
    return {"device_map": options.device_map, "max_memory": _sizes(text) if text else None}


def _sizes(text: str) -> dict[int | str, int]:
    """Return how many bytes each device may hold."""
    from accelerate.utils import convert_file_size_to_int

    devices = ["cpu", *map(str, range(torch.cuda.device_count()))]
    try:
        given = TypeAdapter(dict[str, int | str]).validate_json(text)
        sizes = {name: int(convert_file_size_to_int(size)) for name, size in given.items()}
    except ValueError as error:
        said = str(error).splitlines()[0]
        problem = f"--model-arg max_memory={text} says no sizes: {said}"
        raise UsageError(problem, 'Write {"0": "20GiB", "cpu": "60GiB"}, by the number of a GPU.') from error
    if strangers := [name for name in sizes if name not in devices]:
        problem = f"--model-arg max_memory names {', '.join(strangers)}, which is no device here."
        raise UsageError(problem, f"Allowed: {', '.join(devices)}.")
    return {int(name) if name.isdecimal() else name: size for name, size in sizes.items()}


def _rounded(
    quantize: Quantization | None, method: str, config: PreTrainedConfig, dtype: torch.dtype
) -> dict[str, Any]:
    """Return what transformers is told of how it rounds the decoder's linear layers; all others stay as they are."""
    if quantize is None:
        return {}
    if method:
        problem = f"The checkpoint is quantised already ({method})."
        raise UsageError(problem, "Leave --quantize out, or give the weights before they were quantised.")
    library, kind = METHODS[quantize]
    with torch.device("meta"):
        kept = _beside(AutoModelForImageTextToText.from_config(config))
    try:
        with without_kernels():
            import_module(library)
            from transformers import BitsAndBytesConfig, TorchAoConfig

            if quantize == "8bit":
                from torchao.quantization import Int8WeightOnlyConfig

                return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig(), modules_to_not_convert=kept)}
    except (ImportError, OSError, RuntimeError) as error:
        raise UsageError(f"--quantize {quantize} needs {library}: {error}", f"pip install {EXTRA}") from error
    own = {"bnb_4bit_quant_type": kind, "bnb_4bit_compute_dtype": dtype, "llm_int8_skip_modules": kept}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **own)}


def _beside(model: Model) -> list[str]:
    """Return the names of the parts of a model that are not inside its decoder, the largest alone."""
    decoder = model.get_decoder()
    path = next(name for name, part in model.named_modules() if part is decoder).split(".")
    above = [".".join(path[:count]) for count in range(len(path))]
    names = [
        f"{parent}.{child}".removeprefix(".")
        for parent in above
        for child, _ in model.get_submodule(parent).named_children()
    ]
    return [name for name in names if name not in {*above, ".".join(path)}]


def _read(folder: Path, config: PreTrainedConfig, method: str, dtype: torch.dtype, **more: Any) -> Model:
    def unreadable(error: Exception) -> MedbenchError:
        said = " ".join(str(error).split()) or type(error).__name__
        if "offload_folder" in more and any(words in said for words in _NO_ROOM):
            raise error  # `_offloading` says it.
        quantised = method or "quantization_config" in more
        if quantised and "offload_folder" in more and any(words in said for words in _OFF_THE_GPU):
            return _too_large(folder)
        if not method:
            return DataError(f"The model in {folder} cannot be read: {said}", "Download it again.")
        return UsageError(
            f"The model in {folder} is quantised ({method}), and cannot be loaded here: {said}",
            "Install the library that the message names, on a device that it serves (bitsandbytes and torchao: pip "
            f"install {EXTRA}), or give the weights before they were quantised.",
        )

    with without_kernels() if method else nullcontext():
        return strict_from_pretrained(
            AutoModelForImageTextToText, folder, unreadable=unreadable, config=config, dtype=dtype, **more
        )


def _too_large(folder: Path) -> RunError:
    """Return the error of quantised layers that accelerate would fetch from the CPU or the disk, which it cannot."""
    problem = (
        f"The model in {folder} does not fit onto the GPUs, and quantised layers can be fetched from nowhere else."
    )
    return RunError(problem, "Give more or larger GPUs, fewer bits, or leave out --quantize and take the disk.")


def _told_of(model: Model) -> tuple[str, ...]:
    """Return what must be said of quantised layers; those of bitsandbytes are made to compute in the model's type."""
    neighbours = False
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # Where a CPU has such instructions 4 bits would be computed in bfloat16, whatever the model's type is.
            layer.support_avx512bf16_for_cpu = False
        neighbours |= getattr(getattr(layer, "state", None), "threshold", 0) > 0
    said = "A checkpoint in LLM.int8: a large number in one row changes how all rows are computed, so that answers"
    return (f"{said} depend on their neighbours. `--batch-size 1` gives each the same again.",) if neighbours else ()


def _spread(model: Model, where: Mapping[str, Any]) -> Model:
    """Lay a model that is in memory on all devices, as transformers does one that it reads."""
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(getattr(model, "_no_split_modules", None) or ())
    memory = get_balanced_memory(model, max_memory=where["max_memory"], no_split_module_classes=whole)
    places = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, places, offload_dir=where["offload_folder"])


def _places(model: Model) -> list[str]:
    """Return the devices that the parts of a model lie on, in its order; none if transformers laid it on one."""
    places = (getattr(model, "hf_device_map", None) or {}).values()
    return list(dict.fromkeys(str(torch.device(one)) if isinstance(one, int) else str(one) for one in places))


def _inputs_go_to(model: Model) -> torch.device:
    """Return where a model computes what lies on the CPU or the disk: on its first GPU, if it has one."""
    places = _places(model)
    return torch.device(next((one for one in places if one not in _NO_GPU), "cpu")) if places else model.device


def _why_split(model: Model) -> str:
    places = _places(model)
    return f"its layers lie on {' and '.join(places)}" if len(places) > 1 or places == ["disk"] else ""


@contextmanager
def _offloading(where: dict[str, Any]) -> "Iterator[TemporaryDirectory[str] | None]":
    """Yield a folder for layers that find no room in memory, which `where` is told; it goes if loading fails."""
    if not where:
        yield None
        return
    with ExitStack() as failing:
        try:
            folder = TemporaryDirectory(prefix="medbench-layers-")
            failing.callback(folder.cleanup)
            where["offload_folder"] = folder.name
            yield folder
        except LIBRARY_FAULTS as error:
            if not any(words in str(error) for words in _NO_ROOM):
                raise
            problem = f"Layers that find no room in memory cannot be written to {gettempdir()}: {error}"
            way_out = "Name another folder in the environment variable TMPDIR, or allow more memory (max_memory)."
            raise RunError(problem, way_out) from error
        failing.pop_all()
