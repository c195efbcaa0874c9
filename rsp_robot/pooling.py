"""From tokens to one vector per frame.

``cls``
    the class token (published evaluations of RSP, MAE and others).
``mean``
    the mean of the patch tokens.
``cls+mean``
    both, side by side.
``grid<k>``
    the mean of the patch tokens in each cell of a ``k x k`` grid, side by side: keeps where things are.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F

from rsp_robot.errors import UserError

_GRID = re.compile(r"grid([1-9]\d*)$")


def pooled_width(pooling: str, width: int) -> int:
    """Return the width of the embedding that ``pooling`` makes of tokens of ``width``.

    >>> pooled_width("cls+mean", 128), pooled_width("grid2", 128)
    (256, 512)

    Raises:
        UserError: the pooling is unknown.
    """
    if pooling in ("cls", "mean"):
        return width
    if pooling == "cls+mean":
        return 2 * width
    return width * _grid_side(pooling) ** 2


def pool(tokens: torch.Tensor, pooling: str) -> torch.Tensor:
    """``(B, 1 + N, D)``, class token first -> ``(B, pooled_width)``."""
    cls, patches = tokens[:, 0], tokens[:, 1:]
    if pooling == "cls":
        return cls
    if pooling == "mean":
        return patches.mean(dim=1)
    if pooling == "cls+mean":
        return torch.cat([cls, patches.mean(dim=1)], dim=1)
    cells = _grid_side(pooling)
    side = round(patches.shape[1] ** 0.5)
    raster = patches.transpose(1, 2).unflatten(-1, (side, side))
    return F.adaptive_avg_pool2d(raster, cells).flatten(2).transpose(1, 2).flatten(1)


def _grid_side(pooling: str) -> int:
    """Return ``k`` of ``grid<k>``."""
    match = _GRID.match(pooling)
    if match is None:
        raise UserError(f"unknown pooling {pooling!r}; choose cls, mean, cls+mean or grid<k> such as grid2")
    return int(match[1])
