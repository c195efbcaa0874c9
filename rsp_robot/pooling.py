"""From tokens to one embedding per frame.

``cls``
    the class token (published evaluations of RSP, MAE and others).
``mean``
    the mean of the patch tokens.
``cls+mean``
    both, side by side.
``grid<k>``
    the mean of the patch tokens in each cell of a ``k x k`` grid, side by side: keeps where things are.
``spatial-softmax``
    where each channel is strongest: its expected position over the raster of patches (Levine et al. 2016, section 5.1).
``tokens``
    all tokens as they are, for policies that pool or attend themselves.
"""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F

from rsp_robot.errors import UserError

WITH_CLASS_TOKEN = ("cls", "cls+mean")
_CHOICES = "cls, mean, cls+mean, grid<k> such as grid2, spatial-softmax or tokens"
_GRID = re.compile(r"grid([1-9]\d*)$")


def default_pooling(class_token: bool) -> str:
    """Return the pooling that is taken where none is asked for."""
    return "cls" if class_token else "mean"


def pooled_width(pooling: str, width: int) -> int:
    """Return the width of the embedding that ``pooling`` makes of tokens of ``width``.

    >>> pooled_width("cls+mean", 128), pooled_width("grid2", 128), pooled_width("spatial-softmax", 128)
    (256, 512, 256)

    Raises:
        UserError: the pooling is unknown, or it is ``tokens``, which gives no one vector.
    """
    if pooling == "tokens":
        raise UserError(f"pooling tokens gives no one vector; choose {_CHOICES.removesuffix(' or tokens')}")
    if pooling in ("cls", "mean"):
        return width
    if pooling in ("cls+mean", "spatial-softmax"):
        return 2 * width
    return width * _grid_side(pooling) ** 2


def pooled_shape(pooling: str, width: int, grid: int, class_token: bool) -> tuple[int, ...]:
    """Return the shape of one frame's embedding.

    Args:
        pooling: one of the names above.
        width: width of a token.
        grid: patches along one side of the raster.
        class_token: whether a class token stands before the patches.

    Returns:
        ``(dim,)``, or ``([1 +] grid * grid, width)`` for ``tokens``.

    >>> pooled_shape("tokens", 128, 4, class_token=True), pooled_shape("mean", 128, 4, class_token=True)
    ((17, 128), (128,))

    Raises:
        UserError: the pooling is unknown, or the backbone has not what it needs.
    """
    if pooling in WITH_CLASS_TOKEN and not class_token:
        raise UserError(
            f"pooling {pooling} needs a class token, and this backbone has none; choose mean, grid<k> such as grid2, "
            "spatial-softmax or tokens"
        )
    if pooling == "spatial-softmax" and grid < 2:
        raise UserError(
            f"pooling spatial-softmax needs a raster of patches, and this backbone has {grid} x {grid}; choose mean"
        )
    if pooling == "tokens":
        return int(class_token) + grid**2, width
    return (pooled_width(pooling, width),)


def pool(tokens: torch.Tensor, pooling: str | None, class_token: bool = True) -> torch.Tensor:
    """``(B, [1 +] N, D)``, class token first where there is one -> ``(B, *pooled_shape)``; None for the default."""
    pooling = default_pooling(class_token) if pooling is None else pooling
    if pooling == "tokens":
        return tokens
    cls, patches = tokens[:, 0], tokens[:, int(class_token) :]
    if pooling == "cls":
        return cls
    if pooling == "mean":
        return patches.mean(dim=1)
    if pooling == "cls+mean":
        return torch.cat([cls, patches.mean(dim=1)], dim=1)
    if pooling == "spatial-softmax":
        return spatial_softmax(patches)
    cells = _grid_side(pooling)
    side = round(patches.shape[1] ** 0.5)
    raster = patches.transpose(1, 2).unflatten(-1, (side, side))
    return F.adaptive_avg_pool2d(raster, cells).flatten(2).transpose(1, 2).flatten(1)


def spatial_softmax(patches: torch.Tensor) -> torch.Tensor:
    """Return the expected position of every channel: ``s = softmax over the raster``, ``(sum s x, sum s y)``.

    Levine et al. 2016 ("End-to-End Training of Deep Visuomotor Policies"), section 5.1, at temperature 1.

    Args:
        patches: ``(B, N, D)``, a square raster row by row, ``N`` at least 4.

    Returns:
        ``(B, 2D)``: x then y of the first channel, then of the second and so on; -1 is the centre of the first column
        or row, 1 that of the last.
    """
    side = round(patches.shape[1] ** 0.5)
    axis = torch.linspace(-1, 1, side, device=patches.device, dtype=patches.dtype)
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([columns.reshape(-1), rows.reshape(-1)], dim=1)
    return torch.einsum("bnd,nc->bdc", patches.softmax(dim=1), places).flatten(1)


def _grid_side(pooling: str) -> int:
    """Return ``k`` of ``grid<k>``."""
    match = _GRID.match(pooling)
    if match is None:
        raise UserError(f"unknown pooling {pooling!r}; choose {_CHOICES}")
    return int(match[1])
