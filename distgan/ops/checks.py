"""What is refused: by the public functions before either form of an operator is called, and by the reference twins.

The twins refuse the same as the compiled operators (the `require` of csrc/), in the same words.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float64)  # what operators take; float64 is for the twins alone


def require(condition: bool, sentence: str) -> None:
    """Raise RuntimeError, as the compiled operators do, unless the condition holds."""
    if not condition:
        raise RuntimeError(sentence)


def name(of: Tensor | torch.dtype) -> str:
    """A dtype, or a tensor's, as it is written in a sentence."""
    return str(of.dtype if isinstance(of, Tensor) else of).removeprefix("torch.")


def require_floating(what: str, tensor: Tensor) -> None:
    """Refuse what no operator takes."""
    require(tensor.dtype in FLOATING, f"{what} is {name(tensor)}, but this operator takes float32 or bfloat16.")


def require_tensors(*arguments: tuple[str, Tensor | Sequence[Tensor]]) -> None:
    """Refuse what is no tensor, and tensors on meta among others: for those the dispatcher calls what only knows shapes.

    Args:
        arguments: (name, tensor or list of tensors); a list's elements are named by their position.
    """
    lists: list[Any] = [argument if isinstance(argument, list | tuple) else (argument,) for _, argument in arguments]
    try:  # of a hundred tensors, in less time than one of them takes
        on_meta = [tensor.is_meta for tensors in lists for tensor in tensors]
    except AttributeError:
        on_meta = None
    if on_meta is not None and (not any(on_meta) or all(on_meta)):
        return
    named = [
        (f"{what}[{number}]" if isinstance(argument, list | tuple) else what, tensor)
        for (what, argument), tensors in zip(arguments, lists, strict=True)
        for number, tensor in enumerate(tensors)
    ]
    for what, tensor in named:
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{what} is a {type(tensor).__name__}, not a tensor.")
    of_meta, elsewhere = (next(what for what, tensor in named if tensor.is_meta == is_meta) for is_meta in (True, False))
    require(False, f"{of_meta} is on the device meta and {elsewhere} is not; move them to one.")
