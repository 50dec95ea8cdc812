"""Pretrained vision models of transformers as towers: what a folder says of itself, and its weights.

A tower is frozen, so anything will do that turns square pixels into a square of patches: `vision.shape_of` looks.
"""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from transformers import AutoConfig, PreTrainedConfig

from medbench.tasks.foundation.errors import DataError, UsageError
from medbench.tasks.foundation.files import read_json_object
from medbench.tasks.foundation.model_files import refuse_absurd, refuse_stand_ins
from medbench.unimed import weights
from medbench.unimed.vision import VisionTower

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
# Folders whose tower is EVA ViT, in BLIP-2's names or in ours.
_WITH_EVA = frozenset({"blip-2", "blip_2_vision_model", "instructblip", "uni_med"})
_SCALED = 1 / 255
_AS_THEY_ARE = {"image_mean": (0.0,) * 3, "image_std": (1.0,) * 3}
_POOLING = ("pooler.", "head.")  # What sums a picture up, behind the features, and is in few folders.
_NOT_OF_THE_MODEL = ("architectures", "dtype", "transformers_version", "_name_or_path")
_HINT = "Give a folder as transformers writes it: config.json, preprocessor_config.json and the weights."
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class _Preprocessor:
    """What a model's own image processor does with the values of pixels; how it cuts them is not ours."""

    __pydantic_config__ = ConfigDict(extra="ignore")
    image_mean: tuple[Number, Number, Number]
    image_std: tuple[Positive, Positive, Positive]
    do_rescale: bool = True
    rescale_factor: Number = _SCALED
    do_flip_channel_order: bool | None = False


def type_of(path: Path) -> str:
    """Return the `model_type` of a folder with another tower than EVA ViT, "" for EVA's; DataError if unreadable."""
    if not (path / CONFIG).is_file():
        return ""
    kind = str(read_json_object(path / CONFIG).get("model_type", ""))
    return "" if kind in _WITH_EVA else kind


def tower_fields(source: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `UniMedConfig` holds of a tower, by its weights ("" for none yet) and the `sizes` of a recipe.

    UsageError if sizes of a pretrained model are given; DataError if its folder is not understood.
    """
    folder = Path(source).expanduser()
    if not source or not (kind := type_of(folder)):
        return {"vision_config": dict(sizes)}
    if others := sorted(set(sizes) - {"image_size"}):
        problem = f"model.vision has {', '.join(others)}, but the sizes of {folder} ({kind}) are those of its weights."
        raise UsageError(problem, "Only model.vision.image_size may be given; --set 'model.vision={}' takes all away.")
    values = {name: one for name, one in _own_config(folder).to_dict().items() if name not in _NOT_OF_THE_MODEL}
    mean, std = _scale(folder / PREPROCESSOR)
    return {"vision_config": {**values, **sizes}, "pixel_mean": list(mean), "pixel_std": list(std)}


def load_tower(folder: Path, config: PreTrainedConfig, dtype: torch.dtype) -> VisionTower:
    """Return the tower of a configuration with the weights of a folder; DataError if they do not fit.

    For another image size the model itself interpolates its position embeddings. What pools may be missing, and what
    lies behind the features, a classifier or the text's half, is left.
    """
    refuse_stand_ins(folder)
    own, tower = _own_config(folder), VisionTower(config)
    found, info = weights.reported_from_pretrained(type(tower.vit), folder, config=own, dtype=dtype)
    missing = [name for name in info["missing_keys"] if not name.startswith(_POOLING)]
    weights.refuse_loading_info(str(folder), {**info, "missing_keys": missing, "unexpected_keys": ()})
    state, expected = found.state_dict(), tower.vit.state_dict()
    for name in [name for name, one in state.items() if one.shape != expected[name].shape]:
        # Families differ in how they interpolate, not in what they call it; one that cannot is a misfit.
        with suppress(*weights.LIBRARY_FAULTS), torch.no_grad():
            shape, side = expected[name].shape, cast("Any", config).image_size
            rows = found.embeddings.float().interpolate_pos_encoding(torch.zeros(1, *shape[-2:]), side, side)
            state[name] = rows.to(dtype).reshape(shape).contiguous()
    weights.refuse_misfits(str(folder), state, expected)
    tower.vit.load_state_dict(state, strict=True, assign=True)
    return tower.eval()


def _own_config(folder: Path) -> PreTrainedConfig:
    """Return the configuration of a folder's vision model; of one that also reads texts, of its vision half."""
    refuse_absurd(folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except weights.LIBRARY_FAULTS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{folder / CONFIG} is no configuration that transformers knows: {reason}", _HINT) from error
    half = getattr(config, "vision_config", None)
    return half if isinstance(half, PreTrainedConfig) else config


def _scale(file: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the pixels; DataError if the file is missing, or says what is not done here."""
    if not file.is_file():
        raise DataError(f"{file} is missing, which says how the tower's pixels are normalised.", _HINT)
    try:
        given = read_json_object(file)
        plain = _AS_THEY_ARE if given.get("do_normalize") is False else {}
        known = TypeAdapter(_Preprocessor).validate_python({**given, **plain})
    except ValidationError as error:
        first = error.errors()[0]
        problem = f"{file} is not understood: {'.'.join(map(str, first['loc']))}: {first['msg']}."
        raise DataError(problem, "Three numbers each are needed, `image_mean` and `image_std`.") from error
    scaled = known.do_rescale and math.isclose(known.rescale_factor, _SCALED, rel_tol=1e-6)
    if known.do_flip_channel_order or not scaled:
        problem = f"{file} wants other values than red, green and blue from 0 to 1."
        raise DataError(problem, "Take a tower whose pixels are divided by 255 and keep their order.")
    return known.image_mean, known.image_std
