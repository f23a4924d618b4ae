"""The header of numpy's own file format, .npy: what lies behind it is read by position, never unpickled."""

from typing import IO

import numpy as np

_MAX_HEADER_BYTES = 1000


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether it is in Fortran order, and dtype; `file` is then where the data begins.

    What the header claims is not checked against anything. Raises ValueError, and on hostile bytes nearly anything: NumPy reads the
    header as Python source (tokenize.TokenError, RecursionError and more).
    """
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(file, max_header_size=_MAX_HEADER_BYTES)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(file, max_header_size=_MAX_HEADER_BYTES)
    raise ValueError(f"version {version[0]}.{version[1]} of the format")
