"""The header of numpy's own file format, .npy: what lies behind it is read by position, never unpickled."""

from typing import IO

import numpy as np


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and dtype; `file` is then where the data begins.

    What the header claims is not checked against anything. Raises ValueError, and on hostile bytes nearly anything.
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file)
    raise ValueError(f"version {version[0]}.{version[1]} of the format")
