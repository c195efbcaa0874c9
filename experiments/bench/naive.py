"""The loader that projects in this field begin with, to compare with: decode from the start, resize with Pillow."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from rsp_robot.preprocessing import Preprocessing


def load_pair(path: Path, pair: tuple[int, int], box: tuple[float, float, float, float], size: int) -> torch.Tensor:
    """Open the film, decode up to the later frame, cut and resize each frame, normalise: float32 ``(2, 3, S, S)``.

    Args:
        path: the film.
        pair: current and future frame.
        box: left, top, right and lower edge of the crop in pixels.
        size: side of the result.
    """
    kept = []
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number in pair:
                picture = frame.to_image().resize((size, size), Image.Resampling.BICUBIC, box=box)
                kept.append(torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1))
            if number == pair[1]:
                break
    return Preprocessing(size).normalise(torch.stack(kept).float())
