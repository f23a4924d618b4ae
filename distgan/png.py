"""Pixels -> PNG."""

import io

import numpy as np
from PIL import Image


def encode_png(pixels: np.ndarray) -> bytes:
    """[H, W] or [H, W, 3] uint8 -> a PNG file."""
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()
