"""The four files that an XrayGPT is put together from, in one folder.

    eva_vit_g.pth                    EVA ViT-g, as BLIP-2 and MiniGPT-4 ship it
    blip2_pretrained_flant5xxl.pth   BLIP-2's query transformer and vision normalisation
    xraygpt_pretrained1.pth          what XrayGPT trained: one linear layer
    Vicuna_Radiology_fp16/           its language model, in the layout of transformers; the name does not matter

Each `.pth` may also be a `.safetensors` with the same names. Models of other sizes than the published one say so in
`xraygpt_sizes.json`: `{"vision_config": {...}, "qformer_config": {...}, "num_query_tokens": 32}`, with the fields of
transformers' `Blip2VisionConfig` and `Blip2QFormerConfig`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from medbench.tasks.foundation.errors import DataError
from medbench.unimed.weight_files import read_tensors

VISION, QFORMER, TRAINED = "eva_vit_g", "blip2_pretrained_flant5xxl", "xraygpt_pretrained1"
SIZES = "xraygpt_sizes.json"
_SUFFIXES = (".safetensors", ".pth")


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """Where they are.

    Attributes:
        vision: EVA's file.
        qformer: BLIP-2's file.
        trained: XrayGPT's own file.
        language: Folder of the language model.
        sizes: File with other sizes than the published ones, if there is one.
    """

    vision: Path
    qformer: Path
    trained: Path
    language: Path
    sizes: Path | None

    def parts(self) -> Mapping[str, Path]:
        """Return all of them by the part that they play."""
        sizes = {} if self.sizes is None else {"sizes": self.sizes}
        return {
            "vision": self.vision,
            "qformer": self.qformer,
            "trained": self.trained,
            "language": self.language,
            **sizes,
        }


def find_files(folder: Path) -> Files:
    """Return the files in a folder.

    Raises:
        DataError: If one is missing, or there are several language models.
    """
    languages = sorted(path.parent for path in folder.glob("*/config.json"))
    found = {name: _file(folder, name) for name in (VISION, QFORMER, TRAINED)}
    missing = [f"{name}.pth" for name, file in found.items() if file is None]
    vision, qformer, trained = found.values()
    if vision is None or qformer is None or trained is None or len(languages) != 1:
        told = ", ".join(missing) or "nothing"
        raise DataError(
            f"{folder} is no XrayGPT: {told} missing, {len(languages)} folders with a language model.",
            f"Put {VISION}.pth, {QFORMER}.pth, {TRAINED}.pth and the folder Vicuna_Radiology_fp16 into it, or give a "
            "folder that `medbench.adapters.xraygpt.convert.convert` wrote.",
        )
    sizes = folder / SIZES
    return Files(
        vision=vision,
        qformer=qformer,
        trained=trained,
        language=languages[0],
        sizes=sizes if sizes.is_file() else None,
    )


def _file(folder: Path, name: str) -> Path | None:
    return next((folder / (name + suffix) for suffix in _SUFFIXES if (folder / (name + suffix)).is_file()), None)


def read_file(file: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of one of the files; of a torch file nothing but tensors is ever read.

    Raises:
        DataError: If it is broken or holds anything that could run code.
    """
    if file.suffix == ".safetensors":
        return read_tensors(file)
    return read_tensors(
        file,
        "Copy it again. If it holds objects of the authors' program beside the tensors, keep the tensors alone: "
        "load it where you trust it and write its `model` with safetensors, under the same name.",
    )
