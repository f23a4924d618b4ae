"""Which operators run on what, and how they were built.

python -m distgan.ops
"""

from distgan.ops import library

_DEVICE_TYPES = ("cpu", "cuda")


def _table() -> list[str]:
    served = ["compiled" if library.why_not(device_type) is None else "plain PyTorch" for device_type in _DEVICE_TYPES]
    rows = [("operator", *_DEVICE_TYPES), *((name, *served) for name in library.OPERATORS), ("conv2d", "Python", "Python")]
    width = max(len(name) for name, *_ in rows)
    return [f"{name:{width}}  {cpu:13}  {cuda}" for name, cpu, cuda in rows]


def _build() -> list[str]:
    try:
        from distgan.ops import build_info  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        return ["Nothing was compiled for this Python."]
    lines = [f"Compiled by {build_info.compiler} for torch {build_info.torch}."]
    if build_info.nvcc:
        lines.append(f"Compiled for CUDA by {build_info.nvcc}, for architectures {build_info.architectures}.")
    return lines


def main() -> None:
    """Print the table, the reasons and the compilers."""
    reasons = [library.describe(device_type) for device_type in _DEVICE_TYPES]
    design = "conv2d is written in Python by design: it arranges torch's own convolutions."
    print("\n".join([*_table(), "", *reasons, design, *_build()]))


if __name__ == "__main__":
    main()
