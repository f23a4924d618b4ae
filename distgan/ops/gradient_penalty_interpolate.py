"""The images that a gradient penalty is taken at: mixtures of real and fake ones, or either; normalised and mixed in one pass.

The shares are random numbers of a counter-based generator, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy
as 1, 2, 3"): each is a pure function of a key and of the image's number.
"""

from typing import Literal

import torch
from torch import Tensor

from distgan.ops import library
from distgan.ops.checks import FLOATING, name, require, require_floating, require_tensors
from distgan.ops.samples import empty_in_layout_of

Mode = Literal["mixture", "real", "fake"]

_MODES: dict[Mode, int] = {"mixture": 0, "real": 1, "fake": 2}  # as the operator counts them


def gradient_penalty_interpolate(real: Tensor, fake: Tensor, seed: int, offset: int, mode: Mode) -> Tensor:
    """The images to take a penalty at; the result is detached: nothing flows back into `real` or `fake`.

    Args:
        real: [N, ...] uint8, of which [0, 255] becomes [-1, 1], or fp32 or bf16 (float64: by the reference twin), taken as they are.
        fake: fp32 or bf16, of the same shape.
        seed: the key, a 64-bit number: -2^63 to 2^64 - 1. A CUDA graph replays the key that it was captured with.
        offset: the number of the first image. Image n of the slice that a rank holds is number offset + n, so the mixtures
            depend on neither the number of ranks nor the device.
        mode: "mixture": share * real + (1 - share) * fake, one share for each image, uniform in [0, 1) (WGAN-GP: Gulrajani et al.
            2017, arXiv 1704.00028, algorithm 1); "real" (R1) or "fake" (R2): these images, and the others are not read.

    Returns:
        fp32 (float64 if an input is), the same bits on every device. It lies in memory as `fake` does (in mode "real": as `real`)
        if the elements of each image lie together (contiguous, channels-last), otherwise contiguous. Where `real` lies otherwise
        than the result, a mixture copies it first.
    """
    if mode not in _MODES:
        raise ValueError(f"mode is {mode!r}; it has to be one of {', '.join(map(repr, _MODES))}.")
    if not -(2**63) <= seed < 2**64:
        raise ValueError(f"seed is {seed}; it has to be a 64-bit number, from -2^63 to 2^64 - 1.")
    require_tensors(("real", real), ("fake", fake))
    real, fake = real.detach(), fake.detach()
    if library.serves(real, fake):
        return torch.ops.distgan.gradient_penalty_interpolate(real, fake, _signed(seed), offset, _MODES[mode])
    return gradient_penalty_interpolate_reference(real, fake, seed, offset, mode)


@torch.no_grad()
def gradient_penalty_interpolate_reference(real: Tensor, fake: Tensor, seed: int, offset: int, mode: Mode) -> Tensor:
    """`gradient_penalty_interpolate` in plain PyTorch: the same shares, and for fp32 and bf16 the same bits."""
    require(real.dim() > 0, "real has no dimension; dimension 0 has to count the images.")
    require(
        real.dtype in (torch.uint8, *FLOATING),
        f"real is {name(real)}, but this operator takes uint8, float32 or bfloat16.",
    )
    require_floating("fake", fake)
    require(real.shape == fake.shape, f"real is {list(real.shape)} and fake is {list(fake.shape)}; they need one shape.")
    require(offset >= 0, f"offset is {offset}, but it is the number of the first image, 0 or more.")
    dtype = torch.float64 if torch.float64 in (real.dtype, fake.dtype) else torch.float32
    if mode != "real":
        fake = fake.to(dtype)
    if mode != "fake":
        # The same as distgan.images.to_float, whose imports lead back to the operators.
        real = real.to(dtype).mul_(2 / 255).sub_(1) if real.dtype == torch.uint8 else real.to(dtype)
    if mode != "mixture":
        return (real if mode == "real" else fake).clone()
    share = shares(seed, offset, len(real), real.device).to(dtype).view(-1, *[1] * (real.dim() - 1))
    return fake * (1 - share) + real * share


def shares(seed: int, offset: int, count: int, device: torch.device | None = None) -> Tensor:
    """The shares of the real images in mixtures number `offset` to `offset + count - 1`: [count] fp32, multiples of 2^-24."""
    numbers = torch.arange(count, device=device) + offset  # [count] int64
    zeros = torch.zeros_like(numbers)
    word, *_ = philox((numbers & _WORD, (numbers >> 32) & _WORD, zeros, zeros), (seed & _WORD, (seed >> 32) & _WORD))
    return (word >> 8).to(torch.float32) * 2**-24


_WORD = 2**32 - 1
_Counter = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: _Counter, key: tuple[int, int]) -> _Counter:
    """Philox4x32-10 of counters and one key, in words of 32 bits held in int64."""
    for round_number in range(10):
        key_0, key_1 = ((key[0] + round_number * 0x9E3779B9) & _WORD, (key[1] + round_number * 0xBB67AE85) & _WORD)
        even_high, even_low = _product(counter[0], 0xD2511F53)
        odd_high, odd_low = _product(counter[2], 0xCD9E8D57)
        counter = (odd_high ^ counter[1] ^ key_0, odd_low, even_high ^ counter[3] ^ key_1, even_low)
    return counter


def _product(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The high and the low word of words * factor, through 16-bit halves: the whole product does not fit an int64."""
    low = (words & 0xFFFF) * factor
    high = (words >> 16) * factor + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def _signed(seed: int) -> int:
    """The 64 bits of the seed as operators take integers."""
    return seed - 2**64 if seed >= 2**63 else seed


if library.is_compiled("cpu"):

    @torch.library.register_fake("distgan::gradient_penalty_interpolate")
    def _(real: Tensor, fake: Tensor, seed: int, offset: int, mode: int) -> Tensor:
        return empty_in_layout_of(real if mode == _MODES["real"] else fake, torch.float32)
