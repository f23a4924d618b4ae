"""What is refused: by the public functions before either form of an operator is called, and by the reference twins.

The twins refuse the same as the compiled operators (the `require` of csrc/), in the same words.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def require(condition: bool, sentence: str) -> None:
    """Raise RuntimeError, as the compiled operators do, unless the condition holds."""
    if not condition:
        raise RuntimeError(sentence)


def name(tensor: Tensor) -> str:
    """The tensor's dtype as it is written in a sentence."""
    return str(tensor.dtype).removeprefix("torch.")


def require_floating(what: str, tensor: Tensor) -> None:
    """Refuse what no operator takes; float64 is for the twins alone."""
    taken = (torch.float32, torch.bfloat16, torch.float64)
    require(tensor.dtype in taken, f"{what} is {name(tensor)}, but this operator takes float32 or bfloat16.")


def require_tensors(*arguments: tuple[str, Tensor | Sequence[Tensor]]) -> None:
    """Refuse what is no tensor, and tensors on meta among others: for those the dispatcher calls what only knows shapes.

    Args:
        arguments: (name, tensor or list of tensors); a list's elements are named by their position.
    """
    first, has_meta, has_others = "", "", ""
    for what, argument in arguments:
        is_list = not isinstance(argument, Tensor) and isinstance(argument, list | tuple)
        for number, tensor in enumerate(argument if is_list else (argument,)):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                has_others = has_others or what
                continue
            first = f"{what}[{number}]" if is_list else what
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{first} is a {type(tensor).__name__}, not a tensor.")
            has_meta = has_meta or first
    require(not (has_meta and has_others), f"{has_meta} is on the device meta and {has_others} is not; move them to one.")
