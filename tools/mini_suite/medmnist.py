"""RetinaMNIST and BreastMNIST, byte for byte: stand-ins for DermaMNIST and OrganSMNIST.

Source: Yang et al., MedMNIST v2, Scientific Data 2023; the MD5 sums are those of `medmnist/info.py`.
"""

import hashlib
from pathlib import Path

from medbench.tasks.foundation.errors import DataError
from tools.mini_suite.part import Part, Source, TaskRecord

_MD5 = {
    "breastmnist": "750601b1f35ba3300ea97c75c52ff8f6",
    "retinamnist": "bd4c0672f1bba3e3a89f0e4e876791e4",
}

MEDMNIST = Source(
    name="medmnist",
    title="RetinaMNIST and BreastMNIST of MedMNIST v2, 28 px",
    origin="stand-in",
    licence="CC-BY-4.0",
    attribution=(
        "Yang et al., MedMNIST v2, Scientific Data 2023. RetinaMNIST: Liu et al., DeepDRiD, Patterns 2022; "
        "BreastMNIST: Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 2020"
    ),
    retrieved_from="github.com/mxochicale/diffusion-models-tutorials@a2e0f5d1, datasets/MedMNISTv2; official MD5 sums",
    changes="none",
)


def build(realdata: Path) -> Part:
    """Return `MedMNIST/{retinamnist,breastmnist}.npz`.

    Args:
        realdata: Folder that holds `medmnist_npz`.

    Raises:
        DataError: If a file is missing or is not the official one.
    """
    files = {
        f"MedMNIST/{flag}.npz": _official(realdata / f"medmnist_npz/{flag}.npz", _MD5[flag]) for flag in sorted(_MD5)
    }
    records = (
        _record("dermamnist", "retinamnist", {"train": 1080, "test": 400}),
        _record("organsmnist", "breastmnist", {"train": 546, "test": 156}),
    )
    return Part(files=files, tasks=records, sources=(MEDMNIST,))


def _official(path: Path, md5: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.", "Give the folder with the official file.") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(f"{path} is not the official file.", f"Its MD5 must be {md5}.")
    return content


def _record(task: str, flag: str, counts: dict[str, int]) -> TaskRecord:
    return TaskRecord(
        task=task,
        folder="MedMNIST",
        options={"flag": flag},
        split="official arrays train_* and test_*; val_* is not used",
        counts=counts,
        items={f"{flag}.npz": f"medmnist:{flag}"},
    )
