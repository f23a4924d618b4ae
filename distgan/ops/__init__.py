"""Operators: compiled where there is a library for the device, each with a reference twin in plain PyTorch.

`python -m distgan.ops` says which run on what.
"""

from distgan.ops.conv2d import conv2d, split_convolutions
from distgan.ops.ema_update import ema_update
from distgan.ops.gradient_penalty import gradient_penalty
from distgan.ops.gradient_penalty_interpolate import gradient_penalty_interpolate
from distgan.ops.spectral_norm import spectral_norm_power_iteration_, spectral_norm_scale
from distgan.ops.spectrally_normalised import SpectrallyNormalised, spectral_norm

__all__ = [
    "SpectrallyNormalised",
    "conv2d",
    "ema_update",
    "gradient_penalty",
    "gradient_penalty_interpolate",
    "spectral_norm",
    "spectral_norm_power_iteration_",
    "spectral_norm_scale",
    "split_convolutions",
]
