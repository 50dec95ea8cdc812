"""Reads the one kind of NIfTI-1 file that the suite needs: gzipped, little-endian, unsigned 8-bit volumes.

The layout follows the NIfTI-1 header definition (nifti1.h of the NIfTI working group).
"""

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medbench.tasks.foundation.errors import DataError

_HEADER_BYTES = 348
_UINT8 = 2
_AXES = 3


def read_volume(path: Path) -> NDArray[np.uint8]:
    """Return the voxels as an array [x, y, z].

    Args:
        path: A `.nii.gz` file whose voxel axes run to the patient's right, front and top, with 1 mm voxels.

    Raises:
        DataError: If the file is missing or is not such a volume.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise DataError(
            f"{path} cannot be read as gzip: {error}.", "Give the folder with the original file."
        ) from error
    _check_header(path, content)
    count, width, depth, height = struct.unpack_from("<4h", content, 40)
    offset = int(struct.unpack_from("<f", content, 108)[0])
    size = width * depth * height
    if count != _AXES or len(content) < offset + size:
        raise DataError(f"{path} is not one whole volume of three axes.", "Give the folder with the original file.")
    voxels = np.frombuffer(content, np.uint8, count=size, offset=offset)
    return voxels.reshape((width, depth, height), order="F")


def _check_header(path: Path, content: bytes) -> None:
    known = len(content) > _HEADER_BYTES and struct.unpack_from("<i", content, 0)[0] == _HEADER_BYTES
    if not known or content[344:347] != b"n+1" or struct.unpack_from("<h", content, 70)[0] != _UINT8:
        raise DataError(f"{path} is not a NIfTI-1 volume of unsigned bytes.", "Give the folder with the original file.")
    rows = np.array(struct.unpack_from("<12f", content, 280)).reshape(3, 4)
    if not np.array_equal(rows[:, :3], np.eye(3)):
        raise DataError(
            f"{path} does not have axes that run right, front and top in steps of 1 mm.",
            "Left and right would be mixed up; resample the volume to that grid first.",
        )
