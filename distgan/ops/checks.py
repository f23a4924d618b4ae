"""What the reference twins refuse: the same as the compiled operators (the `require` of csrc/), in the same words."""

from torch import Tensor


def require(condition: bool, sentence: str) -> None:
    """Raise RuntimeError, as the compiled operators do, unless the condition holds."""
    if not condition:
        raise RuntimeError(sentence)


def name(tensor: Tensor) -> str:
    """The tensor's dtype as it is written in a sentence."""
    return str(tensor.dtype).removeprefix("torch.")


def require_floating(what: str, tensor: Tensor) -> None:
    """Refuse integers and the like."""
    require(tensor.is_floating_point(), f"{what} is {name(tensor)}, but this operator takes float32 or bfloat16.")
