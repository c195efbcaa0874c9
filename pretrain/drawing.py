"""Pictures in columns with their names above, and heat maps."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

HEADER, GUTTER, LEAST_SIDE = 22, 4, 128
"""Pixels: height of the names, between pictures, and smallest side that a picture is shown at."""
LEAST_PEAK = 1.0
"""Levels of 0-255; a spread below that is nothing that anybody could see, and stays dark."""


def to_bytes(images: torch.Tensor) -> np.ndarray:
    """Floats ``(B, 3, S, S)`` in [0, 1] -> uint8 ``(B, S, S, 3)``."""
    return (images.permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype(np.uint8)


def peak_of(spread: np.ndarray) -> float:
    """Return the end of the heat map's scale, in levels of 0-255, for a spread in [0, 1].

    It is exceeded by one pixel in a hundred: a few far ones would leave everything else dark.
    """
    return max(LEAST_PEAK, 255 * float(np.quantile(spread, 0.99)))


def heat(spread: np.ndarray, peak: float) -> np.ndarray:
    """Colour a spread in [0, 1]: black is 0, light yellow ``peak`` levels or more. ``(...)`` -> uint8 ``(..., 3)``."""
    from matplotlib import colormaps

    coloured: np.ndarray = colormaps["inferno"](np.clip(255 * spread / peak, 0, 1), bytes=True)
    return coloured[..., :3]


def draw_grid(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns of square pictures, uint8 ``(B, S, S, 3)`` by name -> one picture ``(H, W, 3)`` with the names above.

    Small pictures are shown larger by a whole factor, without blur; both sides come out even, as film codecs need.
    """
    rows, size = next(iter(columns.values())).shape[:2]
    side = size * -(-LEAST_SIDE // size)
    step = side + GUTTER
    width, height = len(columns) * step - GUTTER, HEADER + rows * step - GUTTER
    canvas = Image.new("RGB", (width + width % 2, height + height % 2), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    for x, (name, pictures) in enumerate(columns.items()):
        pen.text((x * step + side // 2, HEADER // 2), name, fill="black", anchor="mm", font=font)
        for y, picture in enumerate(pictures):
            shown = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(shown, (x * step, HEADER + y * step))
    return np.asarray(canvas)
