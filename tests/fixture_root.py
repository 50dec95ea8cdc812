"""Where the parity fixtures and the real open data are."""

import lzma
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load

_FIXTURES = Path(__file__).resolve().parent / "fixtures"
_REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def fixtures() -> Path:
    """Return the folder of other projects' inputs and outputs; README.md there says how each was made."""
    return _FIXTURES


def read_fixture(name: str) -> bytes:
    """Return a file of the fixtures; tensors lie there compressed, under their name and `.xz`."""
    file = _FIXTURES / name
    return file.read_bytes() if file.is_file() else lzma.decompress(file.with_name(f"{file.name}.xz").read_bytes())


def fixture_tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a `.safetensors` file of the fixtures."""
    return load(read_fixture(name))


def copy_fixture(name: str, target: Path) -> None:
    """Write a file of the fixtures somewhere else, as it was made."""
    target.write_bytes(read_fixture(name))


def normalised(levels: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]") -> torch.Tensor:
    """Return recorded pixels [3, H, W] of which the fixtures keep the 256 levels [H, W, 3]; not one bit is lost."""
    values = levels.astype(np.float32) / 255
    pixels = (values - np.asarray(_MEAN, np.float32)) / np.asarray(_STD, np.float32)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())


def realdata(name: str) -> Path:
    """Return the folder of one real data set; without it the test fails under CI and is skipped elsewhere."""
    folder = Path(os.environ.get("MEDBENCH_REALDATA") or _REALDATA) / name
    if not folder.is_dir():
        reason = f"no real data at {folder}; set MEDBENCH_REALDATA to the folder that holds {name}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
